"""Evaluators: each takes an `Embedder` and yields (name, value); `draw` leaves its pictures in a folder. A set of pictures that
several ask for is encoded once."""

from align_train.evals.classification import Classification
from align_train.evals.composed import ComposedSearch
from align_train.evals.embedder import EmbeddedPairs, Embedder
from align_train.evals.held_out_loss import HeldOutLoss
from align_train.evals.knn import NearestNeighbours
from align_train.evals.linear_probe import LinearProbe
from align_train.evals.retrieval import Retrieval
from align_train.evals.text_similarity import TextSimilarity
from align_train.evals.zero_shot import ZeroShot

__all__ = [
    "Classification",
    "ComposedSearch",
    "EmbeddedPairs",
    "Embedder",
    "HeldOutLoss",
    "LinearProbe",
    "NearestNeighbours",
    "Retrieval",
    "TextSimilarity",
    "ZeroShot",
]
