"""The protocol of evaluators, with a default for everything but the metrics themselves.

A class from any package is an evaluator if it derives from `Evaluator` and has a `__call__`. A node
of `eval` names the class by `_target_`; nothing else has to be registered. The name of the node
stands in front of the class's metrics (`NAME/METRIC`) and of its files (`NAME.png`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor

from align_train.evals.embedder import Embedder, ImagesOf
from align_train.stream.sets import ImageSet


@runtime_checkable
class Evaluator(Protocol):
    """Metrics of a model: derive from it, and write `__call__`.

    Every rank calls an evaluator with the same embeddings, so that an evaluator may share its work
    among the ranks (`cluster/collectives.py`). Only rank 0 calls `draw`.
    """

    def stands_alone(self) -> bool:
        """Whether this is one of many, of which each may fail.

        Then `align_train.evaluate` opens its sets when its turn comes, and forgets them afterwards;
        its errors cost the others nothing.
        """
        return False

    @classmethod
    def metrics(cls, settings: Mapping[str, object]) -> Sequence[str] | None:
        """Names what `__call__` yields: a misspelt metric is refused before the first step.

        Args:
            settings: The evaluator's node. Files that it names may not be there yet.

        Returns:
            The names; None: they are known only by evaluating.
        """
        return None

    def sets(self) -> Sequence[ImageSet | None]:
        """Lists the image sets that this evaluator asks for.

        The run opens them before its first step. Without held-out pairs a run leaves out those
        evaluators that ask for them.

        Returns:
            Sets as settings name them; None stands for the run's held-out pairs. An evaluator of
            texts alone returns none.
        """
        return (None,)

    def check(self, images_of: ImagesOf) -> None:
        """Checks texts and labels of the sets, before the first step.

        Args:
            images_of: Opens one of the `sets`.

        Raises:
            UserError: The evaluator cannot use a set as it is.
        """
        return  # mypy takes a method without a statement for an abstract one

    @abstractmethod
    def __call__(self, embedder: Embedder) -> Iterable[tuple[str, float]]:
        """Evaluates the model; collective.

        Args:
            embedder: Makes embeddings of the sets' images and texts, and of any other text.

        Returns:
            Names of metrics and their values, the same on every rank.

        Raises:
            UserError: The model, or a set, does not fit this evaluator.
        """
        ...

    def draw(self, embedder: Embedder, folder: Path, name: str) -> None:
        """Draws the result of the last call, on rank 0 alone.

        Nothing in here may be collective: the other ranks have gone on.

        Args:
            embedder: The embedder of the last call, which has kept the embeddings of the sets.
            folder: The folder for the files.
            name: The name of the evaluator; names of files begin with it.
        """
        return


class EvaluatorGroup(ABC):
    """One node of `eval` that stands for several evaluators, with names of their own."""

    @abstractmethod
    def evaluators(self) -> Mapping[str, Evaluator]:
        """Returns the evaluators by name."""
        ...


def share(mask: Tensor) -> float:
    """Computes the share of true values, in float64: it is exact for sets of any size."""
    return float(mask.double().mean())
