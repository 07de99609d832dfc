"""The setups that are measured: three models, every engine, 1 to 4 ranks, one factor at a time.

Activations or weights are some hundred megabytes, beside which libraries' own megabytes do not
count. A run takes less than a minute on two cores.
"""

from __future__ import annotations

from dataclasses import dataclass

STEPS = 5
MAX_TOKENS = 32  # every text is longer and is cut: all batches have this length

COMMON = (
    "trainer=cpu",
    "data=webdataset",
    "data.caption=txt",
    f"model.max_tokens={MAX_TOKENS}",
    f"max_steps={STEPS}",
    f"log_every={STEPS}",
    "evaluate_every=0",
    "eval=pairs",
    "checkpoint_every=1000",
)

MODELS = {
    # 1.2 M parameters, 5 MB: activations are nearly everything.
    "tiny": (
        "model=tiny",
        "model.image_size=64",
        "batch_size=128",
        "norm_group=16",
    ),
    # 21.6 M parameters, 86 MB; activations of about the same size.
    "b3_mini": (
        "model=b3_mini",
        "model.image_size=96",
        "model.resize_size=110",
        "batch_size=32",
        "norm_group=4",
    ),
    # 33 M parameters, 132 MB; no BatchNorm, attention in both towers.
    "vit": (
        "model=timm_base",
        "model.image_tower.name=vit_small_patch16_224",
        "+model.image_tower.options.dynamic_img_size=true",
        "model.image_tower.projection=512",
        "model.text_tower.hidden=384",
        "model.text_tower.layers=6",
        "model.text_tower.heads=6",
        "model.text_tower.intermediate=1536",
        "model.image_size=112",
        "model.resize_size=128",
        "batch_size=32",
        "norm_group=null",
    ),
}

ENGINES = {
    "ddp": ("strategy=ddp",),
    "fsdp": ("strategy=fsdp",),
    "fsdp-reshard": ("strategy=fsdp", "strategy.reshard=true"),
    "zero1": ("strategy=deepspeed", "strategy.stage=1"),
    "zero2": ("strategy=deepspeed", "strategy.stage=2"),
    "zero3": ("strategy=deepspeed", "strategy.stage=3"),
}


@dataclass(frozen=True)
class Setup:
    """One training that is measured.

    Attributes:
        model: A key of `MODELS`.
        engine: A key of `ENGINES`.
        ranks: Processes.
        chunk: Pairs of a chunk.
        further: More overrides.
    """

    model: str
    engine: str
    ranks: int
    chunk: int
    further: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        parts = [self.model, self.engine, f"x{self.ranks}", f"chunk{self.chunk}"]
        parts += [item.replace("=true", "").replace("=", "") for item in self.further]
        return "-".join(parts)

    @property
    def overrides(self) -> tuple[str, ...]:
        """Settings that describe the run, without the paths of its data and output."""
        return (
            *COMMON,
            *MODELS[self.model],
            *ENGINES[self.engine],
            f"trainer.devices={self.ranks}",
            f"chunk_size={self.chunk}",
            *self.further,
        )


RECOMPUTE = "recompute=true"
BLOCKS = "checkpoint_blocks=true"
EMA = "ema=0.999"
BF16 = "precision=bf16"
LAMB = "optimizer=lamb"

SETUPS = (
    Setup("tiny", "ddp", 1, 128),
    Setup("tiny", "ddp", 1, 32, (RECOMPUTE,)),
    Setup("tiny", "ddp", 1, 128, (BLOCKS,)),
    Setup("tiny", "ddp", 2, 64, (EMA,)),
    Setup("tiny", "ddp", 4, 32),
    Setup("tiny", "fsdp", 2, 64),
    Setup("tiny", "fsdp-reshard", 2, 32, (RECOMPUTE,)),
    Setup("tiny", "zero1", 2, 32, (BF16,)),
    Setup("tiny", "zero2", 4, 32),
    Setup("tiny", "zero3", 2, 64, (BLOCKS,)),
    Setup("b3_mini", "ddp", 1, 32),
    Setup("b3_mini", "ddp", 1, 8, (RECOMPUTE, EMA)),
    Setup("b3_mini", "ddp", 1, 32, (LAMB,)),
    Setup("b3_mini", "ddp", 2, 16),
    Setup("b3_mini", "ddp", 4, 8, (RECOMPUTE,)),
    Setup("b3_mini", "fsdp", 2, 16, (EMA,)),
    Setup("b3_mini", "fsdp-reshard", 4, 8),
    Setup("b3_mini", "zero1", 2, 16, (BLOCKS,)),
    Setup("b3_mini", "zero2", 2, 8, (RECOMPUTE,)),
    Setup("b3_mini", "zero3", 2, 16),
    Setup("b3_mini", "zero3", 4, 8, (EMA,)),
    Setup("vit", "ddp", 1, 32),
    Setup("vit", "ddp", 1, 32, (BF16,)),
    Setup("vit", "ddp", 1, 8, (RECOMPUTE,)),
    Setup("vit", "ddp", 2, 16),
    Setup("vit", "ddp", 3, 8, (EMA, "batch_size=24", "data.lanes=6")),
    Setup("vit", "fsdp", 2, 16, (BLOCKS,)),
    Setup("vit", "fsdp", 4, 8),
    Setup("vit", "fsdp-reshard", 2, 16),
    Setup("vit", "fsdp-reshard", 2, 8, (RECOMPUTE, EMA)),
    Setup("vit", "zero1", 2, 16),
    Setup("vit", "zero1", 4, 8, (EMA,)),
    Setup("vit", "zero2", 2, 16),
    Setup("vit", "zero2", 4, 8, (RECOMPUTE,)),
    Setup("vit", "zero3", 2, 16, (RECOMPUTE,)),
    Setup("vit", "zero3", 4, 8),
)
