"""align_train: contrastive pretraining on noisy image/alt-text pairs, after ALIGN (Jia et al. 2021, arXiv 2102.05918)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from align_train.pretrained.load import load, load_classifier

__version__ = "0.1.0"
__all__ = ["__version__", "load", "load_classifier"]


def __getattr__(name: str) -> Any:
    """`align_train.load` and its like, once asked for: commands must not wait for torch before they read their settings."""
    if name in ("load", "load_classifier"):
        from align_train.pretrained import load as loading

        return getattr(loading, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
