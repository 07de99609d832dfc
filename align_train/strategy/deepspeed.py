"""DeepSpeed's ZeRO: optimizer state, gradients and weights are sharded, by stage.

DeepSpeed's engine reduces, clips and steps; autocast, schedule and loop stay Lightning's and ours.
Price: stage 1 shards the optimizer state, stage 2 gradients too, stage 3 weights too, which are
then gathered for every block and pass.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import Strategy
from torch import Tensor
from torch.optim import Optimizer

from align_train.errors import UserError
from align_train.optim.lamb import LambOptimizer
from align_train.strategy.base import RunFacts, StaysInPlace, StrategyRecipe
from align_train.strategy.layout import pieces_of_groups
from align_train.strategy.needs import Needs, Sizes
from align_train.strategy.optimizer_state import innermost
from align_train.strategy.zero_needs import needs_of_zero

# Of DeepSpeed's `zero_optimization`: what changes speed and memory, but not where things lie
# (as offloading and MiCS do), so that `layout.py` still finds them.
ZERO_OPTIONS = (
    "overlap_comm",
    "contiguous_gradients",
    "reduce_scatter",
    "reduce_bucket_size",
    "allgather_bucket_size",
    "sub_group_size",
    "stage3_prefetch_bucket_size",
    "stage3_param_persistence_threshold",
    "stage3_max_live_parameters",
    "stage3_max_reuse_distance",
)


@dataclass(frozen=True, kw_only=True)
class DeepSpeed(StrategyRecipe):
    """DeepSpeed's ZeRO over all processes.

    Attributes:
        stage: 1 shards optimizer state, 2 gradients too, 3 weights too.
        options: More for DeepSpeed's `zero_optimization`, of `ZERO_OPTIONS`; None: none.
    """

    # DeepSpeed knows the gradient's norm only after its step.
    can_skip_steps = False
    keeps_whole = False

    stage: Literal[1, 2, 3]
    options: dict[str, object] | None

    def __post_init__(self) -> None:
        """Refuses options that are not supported.

        Raises:
            UserError: An option is not among `ZERO_OPTIONS`, or no integer or truth value.
        """
        for key, value in (self.options or {}).items():
            if key not in ZERO_OPTIONS:
                raise UserError(
                    f"strategy.options.{key}: not supported; expected some of "
                    f"{', '.join(ZERO_OPTIONS)}"
                )
            if not isinstance(value, (bool, int)):
                raise UserError(
                    f"strategy.options.{key}={value}: expected an integer, or true or false"
                )

    @property
    def label(self) -> str:
        """`deepspeed stage N`."""
        return f"deepspeed stage {self.stage}"

    @property
    def can_compile(self) -> bool:
        """Not under stage 3: it gathers weights within every block, which breaks the graph up."""
        return self.stage != 3

    @property
    def can_try_chunks(self) -> bool:
        """Not under stage 3: each pass gathers weights, so that all ranks must finish it."""
        return self.stage != 3

    def needs(self, sizes: Sizes) -> Needs:
        """A share of the optimizer's state, and by stage of gradients and weights."""
        return needs_of_zero(self.stage, self.options or {}, sizes)

    def build(self, run: RunFacts) -> Strategy:
        """The strategy for Lightning's trainer.

        Raises:
            UserError: DeepSpeed is not installed.
        """
        if importlib.util.find_spec("deepspeed") is None:
            raise UserError(
                "strategy=deepspeed: DeepSpeed is not installed; "
                "pip install 'align_train[deepspeed]'"
            )

        zero = {"stage": self.stage, "overlap_comm": run.on_gpu, **(self.options or {})}
        config = {
            "train_micro_batch_size_per_gpu": 1,  # required, but nothing here counts in it
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "zero_optimization": zero,
            "gradient_clipping": run.clip or 0.0,  # DeepSpeed's default clips to 1.0
            # Lower precision inside autocast only: weights, gradients and messages stay float32.
            "torch_autocast": {
                "enabled": run.bf16,
                "dtype": "bfloat16",
                "lower_precision_safe_modules": [],
            },
        }
        return _Zero(
            config=config,
            process_group_backend=run.backend,
            timeout=timedelta(seconds=run.timeout),
        )


class _Zero(StaysInPlace):
    steps_alone = True
    repeats_backward = False
    # Gradients are sent in the order in which they come, many at a time.
    needs_a_pass = True

    def __init__(
        self, *, config: dict[str, Any], process_group_backend: str, timeout: timedelta
    ) -> None:
        super().__init__(process_group_backend=process_group_backend, timeout=timeout)
        self.config = config

    def setup(self, trainer: lightning.Trainer) -> None:
        """Prepares module and optimizer, then hands both to DeepSpeed's engine."""
        assert self.accelerator is not None
        self.accelerator.setup(trainer)

        self.precision_plugin.convert_module(self._module)
        # ZeRO's flat tensors know no other memory format.
        self._module.to(memory_format=torch.contiguous_format)
        self.model_to_device()

        self.setup_optimizers(trainer)
        self.setup_precision_plugin()
        self._start_engine()

    def _start_engine(self) -> None:
        if self.root_device.type == "cpu":
            # Before the import: on a machine with GPUs DeepSpeed would take those.
            os.environ["DS_ACCELERATOR"] = "cpu"
        # DeepSpeed reads these, whoever has started the process.
        os.environ["RANK"] = str(self.global_rank)
        os.environ["LOCAL_RANK"] = str(self.local_rank)
        os.environ["WORLD_SIZE"] = str(self.world_size)

        for chatty in ("DeepSpeed", "torch.utils.cpp_extension"):
            logging.getLogger(chatty).setLevel(logging.ERROR)
        (optimizer,) = self.optimizers
        trained = [item for item in self._module.parameters() if item.requires_grad]

        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it builds
            import deepspeed

            if self.root_device.type == "cpu":
                # It would compile a helper for a minute and a half. gloo does the same.
                deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
            deepspeed.init_distributed(
                self.process_group_backend, auto_mpi_discovery=False, verbose=False
            )
            engine, zero, _, _ = deepspeed.initialize(
                model=self._module,
                model_parameters=trained,
                optimizer=innermost(optimizer),
                config=self.config,
                dist_init_required=False,
            )

        # LAMB must know which stretches of the flat tensors are which parameters.
        pieces = pieces_of_groups(zero)
        inner = innermost(zero)
        if isinstance(inner, LambOptimizer):
            inner.pieces = pieces
        self.model = engine
        self.optimizers = [zero]

    @property
    def repeats_forward(self) -> bool:
        """Not in stage 3, in which a failed pass has gathered fewer weights."""
        return self._stage < 3

    def keep_weights_whole(self) -> bool:
        """Whether they are: stage 3 gathers and frees those of each block."""
        return self._stage < 3

    def forget_gradients(self) -> None:
        """Drops the gradients, also those that DeepSpeed has already averaged."""
        zero: Any = self.optimizers[0]
        zero.zero_grad(set_to_none=True)
        for group in zero.averaged_gradients:
            zero.averaged_gradients[group] = None

    @property
    def _stage(self) -> int:
        return int(self.config["zero_optimization"]["stage"])

    @property
    def _engine(self) -> Any:
        return self.model

    def backward(
        self, closure_loss: Tensor, optimizer: object, *args: object, **kwargs: object
    ) -> Tensor:
        """Goes backward through DeepSpeed's engine, which reduces the gradients."""
        self._engine.backward(closure_loss)
        return closure_loss

    def optimizer_step(
        self,
        optimizer: Optimizer | LightningOptimizer,
        closure: Callable[[], object],
        model: object = None,
        **kwargs: object,
    ) -> object:
        """Computes the gradients, then lets DeepSpeed's engine clip and step."""
        result = closure()
        # Lightning calls its hooks between backward and step in here.
        self.precision_plugin._after_closure(self._module, optimizer)
        self._engine.step()
        return result

    def gradient_norm(self) -> Tensor:
        """The norm of the last step's gradient, before clipping, over all ranks."""
        return torch.as_tensor(self._engine.get_global_grad_norm())
