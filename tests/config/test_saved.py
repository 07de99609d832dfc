"""A recorded config.yaml is read as plain values: it may be a stranger's, from the hub."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from align_train.config.saved import read_nodes
from align_train.errors import UserError

# Nine of each level: 9 ** 10 texts, if they were written out.
_LEVELS = "abcdefghij"
BOMB = f"a: &a [{','.join('x' * 9)}]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{below}'] * 9)}]\n" for below, name in pairwise(_LEVELS)
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model: {name: '${oc.env:HOME}'}", "to be computed"),
        ("model: {name: '${${resolver}:HOME}', resolver: oc.env}", "to be computed"),
        (BOMB, "alias"),
        ("a: " + "[" * 10_000, "nested deeper than"),
        ("a: !!python/object/apply:os.getcwd []", "cannot be read"),
    ],
)
def test_a_file_that_acts_is_refused_in_one_line(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=says) as caught:
        read_nodes(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_reference_within_the_file_is_resolved(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("a: 1e-3\nb: ${a}\n")
    assert read_nodes(path) == {"a": 1e-3, "b": 1e-3}
