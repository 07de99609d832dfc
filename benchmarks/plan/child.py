"""The training command with a meter inside; started by `benchmarks.plan`.

    FIGURES=FOLDER python -m benchmarks.plan.child <overrides of align_train>

It calls the same code as `python -m align_train`. Ranks that the run starts are this module as
well. Each writes FOLDER/rankN.json.
"""

from __future__ import annotations

import gc
import importlib
import os
from pathlib import Path
from typing import Any

FOLDER = "FIGURES"

LATE_IMPORTS = (
    "deepspeed.module_inject.auto_ep_layer",
    "deepspeed.ops.op_builder.all_ops",
    "deepspeed.runtime.superoffload.superoffload_stage3",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "distutils.ccompiler",
)


def warm_up(engine: str) -> None:
    """Loads and uses libraries, so that their own memory lies below the baseline.

    Args:
        engine: The class of the run's strategy.
    """
    import timm
    import torch
    import torch.distributed.fsdp
    import transformers.models.bert.modeling_bert
    from torch.nn import functional

    del timm, transformers
    if engine.endswith("DeepSpeed"):
        import contextlib
        import io
        import logging

        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        with contextlib.redirect_stdout(io.StringIO()):
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
            import deepspeed

            del deepspeed
            # What its start imports besides: torch's compiler above all, 60 MB.
            for module in LATE_IMPORTS:
                importlib.import_module(module)

    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            images = torch.randn(2, 3, 32, 32, requires_grad=True)
            weight = torch.randn(16, 3, 3, 3, requires_grad=True)
            maps = functional.conv2d(images, weight, padding=1)
            rows = functional.layer_norm(maps.flatten(2), (32 * 32,))
            torch.autograd.backward((rows @ rows.transpose(1, 2)).sum())
    model = torch.nn.Linear(64, 64)
    model(torch.randn(2, 64)).sum().backward()
    torch.optim.AdamW(model.parameters(), fused=True).step()


def attach() -> None:
    """Puts the meter before the building of the model, and into the trainer."""
    from benchmarks.plan.meter import Meter

    train: Any = importlib.import_module("align_train.commands.train")
    meter = Meter(Path(os.environ[FOLDER]))
    build_model = train.build_model
    build_trainer = train.build_trainer

    def measured_model(settings: Any, *args: Any, **kwargs: Any) -> Any:
        warm_up(str(settings.strategy["_target_"]))
        gc.collect()
        meter.begin()
        return build_model(settings, *args, **kwargs)

    def measured_trainer(*args: Any, **kwargs: Any) -> Any:
        trainer = build_trainer(*args, **kwargs)
        # After the run's own callbacks: what these do at a step's end is the step's.
        trainer.callbacks.append(meter)
        return trainer

    train.build_model = measured_model
    train.build_trainer = measured_trainer


def main() -> None:
    from align_train.__main__ import main as train

    attach()
    train()


if __name__ == "__main__":
    main()
