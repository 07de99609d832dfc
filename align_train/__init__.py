"""align_train: contrastive pretraining on noisy image/alt-text pairs, after ALIGN (Jia et al. 2021, arXiv 2102.05918)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from align_train.inference import load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """`align_train.load`, once it is asked for: the commands must not wait for torch before they have read their settings."""
    if name == "load":
        from align_train.inference import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
