from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor

from align_train.errors import UserError
from align_train.optim.lamb import LambOptimizer
from align_train.strategy.base import TIMEOUT, StaysInPlace, backend
from align_train.strategy.layout import pieces_of_groups
from align_train.strategy.optimizer_state import innermost


class _Zero(StaysInPlace):
    """DeepSpeed's ZeRO. The engine reduces, clips and steps; autocast, schedule and loop stay Lightning's and ours."""

    steps_alone = True

    def __init__(
        self, *, config: dict[str, Any], process_group_backend: str, timeout: timedelta
    ) -> None:
        super().__init__(process_group_backend=process_group_backend, timeout=timeout)
        self.config = config

    def setup(self, trainer: lightning.Trainer) -> None:
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        self.precision_plugin.convert_module(self._module)
        self._module.to(memory_format=torch.contiguous_format)  # its flat tensors know no other
        self.model_to_device()
        self.setup_optimizers(trainer)
        self.setup_precision_plugin()
        self._start_engine()

    def _start_engine(self) -> None:
        if self.root_device.type == "cpu":
            os.environ["DS_ACCELERATOR"] = (
                "cpu"  # before the import: on a machine with GPUs it would take those
            )
        os.environ.update(
            RANK=str(self.global_rank),
            LOCAL_RANK=str(self.local_rank),
            WORLD_SIZE=str(self.world_size),
        )
        for chatty in ("DeepSpeed", "torch.utils.cpp_extension"):
            logging.getLogger(chatty).setLevel(logging.ERROR)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it builds
            import deepspeed

            deepspeed.init_distributed(
                self.process_group_backend, auto_mpi_discovery=False, verbose=False
            )
            (optimizer,) = self.optimizers
            engine, zero, _, _ = deepspeed.initialize(
                model=self._module,
                model_parameters=[
                    parameter for parameter in self._module.parameters() if parameter.requires_grad
                ],
                optimizer=innermost(optimizer),
                config=self.config,
                dist_init_required=False,
            )
        pieces, inner = pieces_of_groups(zero), innermost(zero)
        if isinstance(inner, LambOptimizer):
            inner.pieces = pieces
        self.model, self.optimizers = engine, [zero]

    def backward(self, closure_loss: Tensor, optimizer: Any, *args: Any, **kwargs: Any) -> Tensor:
        engine: Any = self.model
        engine.backward(closure_loss)
        return closure_loss

    def optimizer_step(
        self, optimizer: Any, closure: Callable[[], Any], model: Any = None, **kwargs: Any
    ) -> Any:
        result = closure()
        self.precision_plugin._after_closure(self._module, optimizer)
        engine: Any = self.model
        engine.step()
        return result

    def gradient_norm(self) -> Tensor:
        """Of the last step, before clipping, over all ranks."""
        engine: Any = self.model
        return torch.as_tensor(engine.get_global_grad_norm())


ZERO_OPTIONS = (
    *(
        "overlap_comm",
        "contiguous_gradients",
        "reduce_scatter",
        "reduce_bucket_size",
        "allgather_bucket_size",
    ),
    *("sub_group_size", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold"),
    *("stage3_max_live_parameters", "stage3_max_reuse_distance"),
)


def deepspeed(
    *,
    processes: int,
    on_gpu: bool,
    bf16: bool = False,
    clip: float | None = None,
    timeout: float = TIMEOUT,
    stage: Literal[1, 2, 3] = 2,
    options: dict[str, Any] | None = None,
) -> Strategy:
    """DeepSpeed's ZeRO: optimizer state (1), gradients too (2), weights too (3) are sharded. options: more for its
    `zero_optimization`, of `ZERO_OPTIONS`: what changes speed and memory, but not where things lie (offloading, MiCS, …)."""
    for key, value in (options or {}).items():
        if key not in ZERO_OPTIONS:
            raise UserError(
                f"strategy.options.{key}: not supported; expected some of {', '.join(ZERO_OPTIONS)}"
            )
        if not isinstance(value, (bool, int)):
            raise UserError(
                f"strategy.options.{key}={value}: expected an integer, or true or false"
            )
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError(
            "strategy=deepspeed: DeepSpeed is not installed; pip install 'align_train[deepspeed]'"
        )
    config = {
        "train_micro_batch_size_per_gpu": 1,  # what it counts in is of no use here
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {"stage": stage, "overlap_comm": on_gpu, **(options or {})},
        "gradient_clipping": clip or 0.0,  # its default clips to 1.0
        # Lower precision inside autocast only: weights, gradients and what is sent stay float32.
        "torch_autocast": {
            "enabled": bf16,
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        },
    }
    return _Zero(
        config=config, process_group_backend=backend(on_gpu), timeout=timedelta(seconds=timeout)
    )
