"""Wrapping: no word is broken, no line is too wide, and a cut text says so."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from align_train.figures.wrap import MORE, wrap

LETTERS = "abcdeéß-,.WM字語ทิ한🧑\u200d🚀\u0301"
TEXTS = st.text(alphabet=LETTERS + "   \n", max_size=120)
LATIN = st.lists(st.text(alphabet="abcdeWM-,.'", min_size=1, max_size=12), max_size=15)


def measured(text: str) -> float:
    """As in a font whose letters differ in width."""
    return sum(1.7 if letter in "WM字語한🧑🚀" else 1.0 for letter in text)


@given(TEXTS, st.integers(3, 30), st.integers(1, 5))
def test_lines_are_few_and_never_too_wide(text: str, width: int, lines: int) -> None:
    cut = wrap(text, width=width, lines=lines, measure=measured)
    assert len(cut) <= lines
    assert all(measured(line) <= width for line in cut)
    assert all(line.strip() for line in cut)


@given(LATIN, st.integers(13, 40), st.integers(1, 5))
def test_words_that_fit_are_never_broken(words: list[str], width: int, lines: int) -> None:
    narrow = [word[: width // 2] for word in words]
    cut = wrap(" ".join(narrow), width=width, lines=lines, measure=measured)
    shown = " ".join(cut).removesuffix(MORE).split()
    # Only a word that has no room left for `…` behind it is shortened, and it stands alone.
    assert shown[:-1] == narrow[: len(shown)][:-1]
    if shown:
        last = narrow[len(shown) - 1]
        assert last.startswith(shown[-1])
        assert shown[-1] == last or cut[-1] == shown[-1] + MORE


# A word that is too wide ends in an ellipsis within its line: Thai goes on behind it.
@example("aMMท", 3, 1)
@given(TEXTS, st.integers(3, 30), st.integers(1, 5))
def test_a_text_that_is_not_shown_whole_has_an_ellipsis(text: str, width: int, lines: int) -> None:
    cut = wrap(text, width=width, lines=lines, measure=measured)
    if not any(MORE in line for line in cut):
        assert "".join("".join(cut).split()) == "".join(text.split())


@given(TEXTS, st.integers(3, 30))
def test_no_line_begins_within_a_character(text: str, width: int) -> None:
    given_at_a_start = {word[0] for word in text.split()}
    for line in wrap(text, width=width, lines=200, measure=measured):
        assert line[0] not in "\u0301\u200d" or line[0] in given_at_a_start


def test_chinese_breaks_anywhere_and_english_between_words() -> None:
    assert wrap("字" * 5, width=4, lines=3, measure=len) == ["字字字字", "字"]
    assert wrap("five-pointed star", width=13, lines=3, measure=len) == ["five-pointed", "star"]
    assert wrap("star five-pointed", width=13, lines=1, measure=len) == ["star…"]
    assert wrap("unbreakable", width=5, lines=2, measure=len) == ["unbr…"]
