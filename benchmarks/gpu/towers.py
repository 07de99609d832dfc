"""Pairs/s of whole training steps, beside Hugging Face's model in a plain loop, and open_clip's.

Each row is a real run of some steps on drawn pixels (`step.py`) in bf16, with the chunk that it has
found by itself. A compiled row takes the chunk of its eager one: trying compiles anew for each size
of a chunk. Launches are the kernels of one step; on a CPU, operators.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.gpu.parts import Columns, Figures, Options
from benchmarks.gpu.setup import Setup
from benchmarks.gpu.training import TINY_MODEL

TITLE = "whole training steps, bf16, one device"
COLUMNS: Columns = {
    "pairs": ("batch", "d"),
    "chunk": ("chunk", "d"),
    "recompute": ("recompute", str),
    "pairs_per_second": ("pairs/s", ",.0f"),
    "memory_gb": ("GB at the peak", ".1f"),
    "mfu": ("MFU", ".1%"),
    "launches": ("launches a step", ",d"),
    "waits": ("waits a step", "d"),
    "idle": ("device idles", ".0%"),
    "warm_seconds": ("s to step 2", ".0f"),
    "ratio": ("x Hugging Face", ".2f"),
    "aim": ("aim", "s"),
}
AT_ONCE = 1
LIMIT = 150.0

HUGGING_FACE = "Hugging Face's AlignModel, size of b7_base"
OPEN_CLIP = "open_clip's ViT-B/32"
COMPILED = ", compiled"
SAME_BATCH = ", Hugging Face's batch"
RECOMPUTED = ", recomputed"

LEAST_RATIO = 2.0
TINY_PAIRS = 32
PEER_PAIRS = 256  # halved until they fit
OPEN_CLIP_PAIRS = 1024
NORM_GROUP = 64


@dataclass(frozen=True)
class Model:
    """A model that is measured.

    Attributes:
        settings: Its settings.
        pairs: Of the device batch.
        aim: Pairs/s on one H100; 0: none.
        normed: Whether it has BatchNorm.
    """

    settings: tuple[str, ...]
    pairs: int
    aim: float = 0.0
    normed: bool = True


# Pixels; a run would ask timm.
_224 = ("model.image_size=224", "model.resize_size=256")

MODELS = {
    "b7_base": Model(("model=b7_base",), 512, 700),
    "ViT-B/32": Model(
        ("model=timm_base", "model.image_tower.name=vit_base_patch32_224", *_224), 1024, 3000, False
    ),
    "ViT-B/16": Model(
        ("model=timm_base", "model.image_tower.name=vit_base_patch16_224", *_224), 1024, 1300, False
    ),
    "b3_mini": Model(("model=b3_mini",), 1024, 1500),
    "b5_base": Model(("model=b5_base",), 512),
}

# By their worth: how fast B7 is comes before all else.
ORDER = (
    "b7_base",
    "b7_base" + COMPILED,
    HUGGING_FACE,
    "ViT-B/32",
    "ViT-B/32" + COMPILED,
    "b3_mini",
    "b3_mini" + COMPILED,
    "ViT-B/16",
    "ViT-B/16" + COMPILED,
    OPEN_CLIP,
    "b7_base" + SAME_BATCH,
    "b7_base" + SAME_BATCH + COMPILED,
    "ViT-B/32" + RECOMPUTED,
    "b5_base",
    "b5_base" + COMPILED,
)
# The compiler takes minutes on a CPU.
TINY_ORDER = ("b7_base", HUGGING_FACE, OPEN_CLIP, "b7_base" + SAME_BATCH)


def rows(options: Options) -> list[str]:
    return list(TINY_ORDER if options.tiny else ORDER)


def measure(row: str, options: Options) -> Figures:
    if row == OPEN_CLIP:
        from benchmarks.gpu.peers import open_clip

        return open_clip(TINY_PAIRS if options.tiny else OPEN_CLIP_PAIRS, options)
    if row == HUGGING_FACE:
        return _hugging_face(options)
    return _ours(row, options)


def _ours(row: str, options: Options) -> Figures:
    from benchmarks.gpu.step import measured

    found, _ = measured(setup_of(row, options), options)
    known = options.known.get("towers", {})
    if row.startswith("b7_base") and HUGGING_FACE in known:
        found["ratio"] = found["pairs_per_second"] / known[HUGGING_FACE]["pairs_per_second"]
    aim = MODELS[row.partition(",")[0]].aim
    if aim and options.on_gpu:
        found["aim"] = verdict(found["pairs_per_second"], aim)
    return found


def setup_of(row: str, options: Options) -> Setup:
    """What a row of ours is measured with."""
    model = MODELS[row.partition(",")[0]]
    known = options.known.get("towers", {})
    pairs = TINY_PAIRS if options.tiny else model.pairs
    if SAME_BATCH in row:
        pairs = known.get(HUGGING_FACE, {"pairs": NORM_GROUP})["pairs"]

    # As the eager row has found them.
    eager = known.get(row.removesuffix(COMPILED), {}) if row.endswith(COMPILED) else {}
    group = min(pairs, NORM_GROUP) if model.normed else None
    settings = (f"norm_group={'null' if group is None else group}",)
    return Setup(
        settings=settings_of(model, options) + settings,
        pairs=pairs,
        tokens=32 if options.tiny else 64,
        compiled=row.endswith(COMPILED),
        chunk=eager.get("chunk", "auto"),
        recompute=True if RECOMPUTED in row else eager.get("recompute", "auto"),
    )


def settings_of(model: Model, options: Options) -> tuple[str, ...]:
    """The settings of a model, or of the smallest in its place."""
    return ("model=tiny", *TINY_MODEL) if options.tiny else model.settings


def _hugging_face(options: Options) -> Figures:
    from benchmarks.gpu.peers import hugging_face

    pairs = TINY_PAIRS if options.tiny else PEER_PAIRS
    found = hugging_face(settings_of(MODELS["b7_base"], options), pairs, options)

    known = options.known.get("towers", {})
    ours = [found for row, found in known.items() if row.startswith("b7_base")]
    best = max(ours, key=_speed, default={})
    if best.get("tflop_per_pair"):
        # Its towers take as many operations as ours.
        found["mfu"] = _mfu(best, found)
        found["ratio"] = 1.0
        ratio = _speed(best) / _speed(found)
        found["aim"] = f"ours {ratio:.2f} x"
        if options.on_gpu:
            found["aim"] = f"ours / its: {verdict(ratio, LEAST_RATIO)}"
    return found


def _speed(found: Figures) -> float:
    return float(found["pairs_per_second"])


def _mfu(ours: Figures, theirs: Figures) -> float | None:
    mfu = ours.get("mfu")
    return None if mfu is None else mfu * _speed(theirs) / _speed(ours)


def verdict(found: float, aim: float) -> str:
    """A figure beside its aim."""
    return f"{found:,.3g} (aim >= {aim:,.3g}: {'ok' if found >= aim else 'MISSED'})"
