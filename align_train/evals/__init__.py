"""Evaluators: each takes encoded held-out pairs and yields (name, value); encoding is done once for all of them."""

from align_train.evals.classification import Classification
from align_train.evals.encode import EncodedPairs, Encoder
from align_train.evals.held_out_loss import HeldOutLoss
from align_train.evals.retrieval import Retrieval
from align_train.evals.zero_shot import ZeroShot

__all__ = ["Classification", "EncodedPairs", "Encoder", "HeldOutLoss", "Retrieval", "ZeroShot"]
