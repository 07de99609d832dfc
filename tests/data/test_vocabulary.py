"""The vocabulary of a crawl's texts.

It has the same bytes on every run, and knows every word of the languages of its texts.
"""

from __future__ import annotations

import csv
import json
import random
import re
import unicodedata
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from align_train.config.compose import compose_command
from align_train.errors import UserError
from align_train.stream.tokenizer import Tokenizer
from align_train.stream.unigram import train_unigram
from align_train.stream.wordpiece import train_tokenizer
from data.vocabulary import VocabularySettings
from data.vocabulary import run as run_vocabulary
from tests.support.commands import SHARED_DATA, run

NAMES = SHARED_DATA / "emoji" / "names.tsv"


needs_names = pytest.mark.skipif(not NAMES.is_file(), reason="the emoji's names are not here")


def some_texts(seed: int, count: int = 4000) -> list[str]:
    chooser = random.Random(seed)
    syllables = [first + second for first in "bcdfgklmnprst" for second in "aeiouäß"]
    words = ["".join(chooser.choices(syllables, k=chooser.randint(1, 4))) for _ in range(900)]
    return [
        " ".join(words[int(900 ** chooser.random()) - 1] for _ in range(chooser.randint(1, 12)))
        for _ in range(count)
    ]


def vocabulary(folder: Path) -> bytes:
    return (folder / "tokenizer.json").read_bytes()


def test_the_vocabulary_does_not_depend_on_the_order_or_the_files(tmp_path: Path) -> None:
    texts = some_texts(1)
    for name, parts in (("one", [texts]), ("three", [sorted(texts)[:7], [], sorted(texts)[7:]])):
        (tmp_path / name).mkdir()
        for index, part in enumerate(parts):
            column = pa.array(part, pa.string())
            parquet.write_table(
                pa.table({"url": column, "text": column}),
                tmp_path / name / f"{index}.parquet",
                row_group_size=999,
            )
    for index, (name, forked) in enumerate((("one", True), ("three", True), ("one", False))):
        out = run(
            f"source={name}",
            f"to=v{index}",
            "size=700",
            cwd=tmp_path,
            module="data.vocabulary",
            forked=forked,
        )
        assert "700 tokens" in out.stdout and "counting words: 100%" in out.stderr
    assert vocabulary(tmp_path / "v0") == vocabulary(tmp_path / "v1") == vocabulary(tmp_path / "v2")
    tokenizer = Tokenizer(str(tmp_path / "v0"), max_tokens=64)
    unknown = tokenizer.tokenizer.token_to_id("[UNK]")
    assert not any(unknown in encoding.ids for encoding in tokenizer.tokenizer.encode_batch(texts))
    # A new word of known characters is no unknown word.
    assert unknown not in tokenizer.tokenizer.encode("ßßäkb tttttt").ids


@needs_names
def test_texts_of_five_languages_have_no_unknown_tokens(tmp_path: Path) -> None:
    arguments = (f"source={NAMES}", "text=[tts,keywords]", "separator='|'", "size=250000")
    run(*arguments, "to=words", cwd=tmp_path, module="data.vocabulary")
    tokenizer = Tokenizer(str(tmp_path / "words"), max_tokens=64)
    unknown = tokenizer.tokenizer.token_to_id("[UNK]")
    languages = set()
    with NAMES.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            texts = [row["tts"], *row["keywords"].split("|")]
            assert not any(
                unknown in encoding.ids for encoding in tokenizer.tokenizer.encode_batch(texts)
            ), row
            languages.add(row["language"])
    assert languages == {"en", "de", "ja", "es", "fr"}


def test_coverage_leaves_out_rare_characters(tmp_path: Path) -> None:
    texts = ["a plain text of letters"] * 100 + ["漢字 letters", "я letters"]
    for name, coverage in (("all", 1.0), ("most", 0.99)):
        train_tokenizer(lambda: [texts], size=200, folder=tmp_path / name, coverage=coverage)
    tokens = {
        name: set(Tokenizer(str(tmp_path / name), max_tokens=16).tokenizer.get_vocab())
        for name in ("all", "most")
    }
    assert {"漢", "字", "я", "##я"} <= tokens["all"] and not {"漢", "字", "я", "##я"} & tokens[
        "most"
    ]
    assert "##漢" not in tokens["all"], "BERT takes each for a word"


def test_a_unigram_does_not_depend_on_the_order_or_the_process(tmp_path: Path) -> None:
    """Twice here, in other batches, and once in another process from a table."""
    texts = [*some_texts(3, 600), "赤い星", "青い星", "緑の丸", "赤い丸"]
    train_unigram(lambda: [texts], size=300, folder=tmp_path / "whole")
    parts = [sorted(texts)[:7], [], sorted(texts)[7:]]
    train_unigram(lambda: parts, size=300, folder=tmp_path / "parts")
    (tmp_path / "table.tsv").write_text("text\n" + "\n".join(texts[::-1]), encoding="utf-8")
    words = ("source=table.tsv", "to=command", "kind=unigram", "size=300")
    out = run(*words, cwd=tmp_path, module="data.vocabulary", forked=True)
    assert "300 tokens" in out.stdout and "0.00% of the tokens are unknown" in out.stdout
    whole = vocabulary(tmp_path / "whole")
    assert whole == vocabulary(tmp_path / "parts") == vocabulary(tmp_path / "command")

    special = list(json.loads(whole)["added_tokens"])
    names = [token["content"] for token in special]
    assert names == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert [token["id"] for token in special] == [0, 1, 2, 3, 4]


def test_a_unigram_cuts_texts_as_sentencepiece_does(tmp_path: Path) -> None:
    """Each text's tokens are the likeliest ones, by SentencePiece's own search."""
    texts = [*some_texts(4, 300), "赤い星 と 青い星", "Ｆｕｌｌ  width\tand ﬁne"] * 3
    train_unigram(lambda: [texts], size=250, folder=tmp_path)
    pieces = json.loads(vocabulary(tmp_path))["model"]["vocab"]
    tokenizer = Tokenizer(str(tmp_path), max_tokens=200).tokenizer
    scores = dict(map(tuple, pieces))
    for text in {*texts, "nie gesehen rot", "星"}:
        encoding = tokenizer.encode(text, add_special_tokens=False)
        plain = "".join(f"▁{word}" for word in unicodedata.normalize("NFKC", text).lower().split())
        assert "".join(encoding.tokens) == plain
        assert sum(scores[token] for token in encoding.tokens) == pytest.approx(best(plain, scores))


def best(text: str, scores: dict[str, float]) -> float:
    """The score of the likeliest tokens, none of which reaches over the mark of a word."""
    found = [0.0]
    for end in range(1, len(text) + 1):
        ends = [
            found[start] + scores.get(text[start:end], -1e9)
            for start in range(end)
            if "▁" not in text[start + 1 : end]
        ]
        found.append(max(ends))
    return found[-1]


def test_case_is_kept_if_asked(tmp_path: Path) -> None:
    for kind, train in (("unigram", train_unigram), ("wordpiece", train_tokenizer)):
        train(lambda: [["Dog dog Äpfel"] * 9], size=60, folder=tmp_path / kind, lower_case=False)
        tokenizer = Tokenizer(str(tmp_path / kind), max_tokens=16)
        upper, lower = tokenizer(["Dog", "dog"])
        assert upper.tolist() != lower.tolist()
        assert tokenizer.count(["Äpfel"]).unknown == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["source=nowhere"], "source=nowhere: no such folder, file or glob of parquet"),
        (["source=nowhere.tsv"], "no such table"),
        (["size=20"], "20 tokens are too few: "),
        (["text=[caption]"], "columns.text=caption: no such column"),
        (["source=table.tsv", "text=[caption]"], "has no column 'caption'"),
        (["to=table"], "to=table exists"),
        (["coverage=0"], "coverage=0.0: expected a share above 0"),
        (["kind=bpe"], "kind=bpe: expected wordpiece or unigram"),
        (["kind=unigram", "size=9"], "9 tokens are too few: "),
        (["kind=unigram", "coverage=0.9"], "coverage=0.9: for kind=unigram expected 0.98 to 1"),
        (["every=0"], "every=0: expected at least 1"),
        (["source=empty"], "without a row"),
    ],
)
def test_bad_settings_are_named_and_nothing_is_written(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, texts in (("table", some_texts(1, 50)), ("empty", [])):
        Path(name).mkdir()
        parquet.write_table(
            pa.table({"text": pa.array(texts, pa.string())}), Path(name) / "a.parquet"
        )
    Path("table.tsv").write_text("url\ttext\na\tb\n", encoding="utf-8")
    settings = compose_command(
        "vocabulary", VocabularySettings, "source=table", "to=out", *arguments
    )
    with pytest.raises(UserError, match=re.escape(told)):
        run_vocabulary(settings)
    assert not Path("out").exists() and not list(Path().glob(".out*"))


def test_the_report_counts_each_text_once(tmp_path: Path) -> None:
    (tmp_path / "texts.tsv").write_text("text\na red car\na blue bike\n")
    for kind in ("wordpiece", "unigram"):
        words = ["source=texts.tsv", "text=[text]", f"to={kind}", f"kind={kind}", "size=60"]
        out = run(*words, cwd=tmp_path, module="data.vocabulary").stdout
        assert "of 2 texts" in out
