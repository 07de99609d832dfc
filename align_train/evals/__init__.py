"""Evaluators: each takes an `Embedder` and yields names of metrics with their values.

`base.py` says what an evaluator is; all others are one class in a file of its own.
"""

from align_train.evals.base import Evaluator, EvaluatorGroup
from align_train.evals.classification import Classification
from align_train.evals.composed import ComposedSearch
from align_train.evals.embedder import EmbeddedPairs, Embedder
from align_train.evals.held_out_loss import HeldOutLoss
from align_train.evals.knn import NearestNeighbours
from align_train.evals.linear_probe import LinearProbe
from align_train.evals.multi_label import MultiLabel
from align_train.evals.retrieval import Retrieval
from align_train.evals.text_similarity import TextSimilarity
from align_train.evals.wds import WdsEvaluator, WdsSets
from align_train.evals.zero_shot import ZeroShot

__all__ = [
    "Classification",
    "ComposedSearch",
    "EmbeddedPairs",
    "Embedder",
    "Evaluator",
    "EvaluatorGroup",
    "HeldOutLoss",
    "LinearProbe",
    "MultiLabel",
    "NearestNeighbours",
    "Retrieval",
    "TextSimilarity",
    "WdsEvaluator",
    "WdsSets",
    "ZeroShot",
]
