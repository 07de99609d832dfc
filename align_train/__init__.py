"""Contrastive pretraining on noisy image/alt-text pairs, after ALIGN.

Jia et al. 2021, arXiv 2102.05918. `load` and `load_classifier` open trained models; training and
all else are commands: `python -m align_train`, `python -m align_train.evaluate`, …
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from align_train.pretrained.load import load, load_classifier

__version__ = "0.1.0"
__all__ = ["__version__", "load", "load_classifier"]


def __getattr__(name: str) -> object:
    """Imports `load` and `load_classifier` when they are first asked for."""
    # Not at the top: commands read their settings, and report errors in them, before torch loads.
    if name in ("load", "load_classifier"):
        from align_train.pretrained import load as loading

        return getattr(loading, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
