"""The protocol of evaluators accepts an evaluator from a user's package."""

from __future__ import annotations

from pathlib import Path

import pytest

from align_train.config.components import build
from align_train.errors import UserError
from align_train.evals import Evaluator, Retrieval
from tests.support.ready import encoded, lying_ready

OF_A_USER = '''
from align_train.evals.base import Evaluator


class MeanCosine(Evaluator):
    def __call__(self, embedder):
        pairs = embedder.pairs(None)
        texts = pairs.texts[pairs.first_text]
        yield "cosine", float((pairs.images * texts).sum(dim=1).mean())


class Unfinished(Evaluator):
    """Yields nothing."""
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "package_of_a_user").mkdir()
    (tmp_path / "package_of_a_user" / "evaluators.py").write_text(OF_A_USER)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("package")
def test_a_class_with_a_call_is_an_evaluator(tmp_path: Path) -> None:
    node = {"_target_": "package_of_a_user.evaluators.MeanCosine"}
    evaluator = build(node)
    assert isinstance(evaluator, Evaluator)
    assert list(evaluator.sets()) == [None]

    pairs = encoded([1, 2, 1])
    embedder = lying_ready(pairs)
    evaluator.check(embedder.images_of)
    expected = float((pairs.images * pairs.texts[[0, 1, 3]]).sum(dim=1).mean())
    assert dict(evaluator(embedder)) == {"cosine": pytest.approx(expected)}

    folder = tmp_path / "figures"
    folder.mkdir()
    evaluator.draw(embedder, folder, "cosine")
    assert not list(folder.iterdir())


@pytest.mark.usefixtures("package")
def test_a_class_without_a_call_is_refused() -> None:
    node = {"_target_": "package_of_a_user.evaluators.Unfinished"}
    with pytest.raises(UserError, match="abstract"):
        build(node)


def test_other_objects_are_no_evaluators() -> None:
    assert isinstance(Retrieval(), Evaluator)
    assert not isinstance("/work", Evaluator)
    assert not isinstance(len, Evaluator)
