"""Strategies: which rank computes which chunk, and which rank keeps which weights.

`strategy=fsdp` is `strategy/fsdp.py`, and so on. The classes here are recipes: small objects that
say what a strategy can do before anything is built, and then build it.
"""

from align_train.strategy.base import RunFacts, StrategyRecipe
from align_train.strategy.ddp import DDP
from align_train.strategy.deepspeed import DeepSpeed
from align_train.strategy.fsdp import FSDP

__all__ = ["DDP", "FSDP", "DeepSpeed", "RunFacts", "StrategyRecipe"]
