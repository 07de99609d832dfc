"""Strategies: who computes which chunk, and who keeps which weights. One engine each, behind Lightning's DDP strategy, which
launches the processes, names the ranks and forms the group.

Whatever the engine, a checkpoint is one file of whole tensors that belongs to none of them (`engines.py`): all ranks take part
in gathering it, rank 0 writes it, and any number of ranks under any strategy goes on from it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from threading import Thread
from typing import Any, Literal

import lightning
import torch
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from align_train.distributed import failing_alike
from align_train.engines import (
    fill_optimizer_state,
    fill_state_dict,
    innermost,
    pieces_of_groups,
    whole_optimizer_state,
    whole_state_dict,
)
from align_train.errors import UserError
from align_train.optim import LambOptimizer


class _WholeCheckpoints(Strategy):
    """Checkpoints of whole tensors. A mixin, before Lightning's strategy of that name."""

    # Whether the engine has its own way from gradients to the step, clipping included.
    steps_alone = False

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        return True

    @property
    def _module(self) -> lightning.LightningModule:
        assert self.lightning_module is not None
        return self.lightning_module

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return whole_state_dict(self._module, keep=self.is_global_zero)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        fill_state_dict(self._module, checkpoint["state_dict"])

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        return whole_optimizer_state(self._module, optimizer, keep=self.is_global_zero)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            fill_optimizer_state(self._module, optimizer, state)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        with failing_alike(self.root_device):
            super().save_checkpoint(checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Mapped, not read: each rank touches what it keeps."""
        loaded: dict[str, Any] = torch.load(checkpoint_path, map_location="cpu", weights_only=True, mmap=True)
        return loaded


class _OneProcess(_WholeCheckpoints, SingleDeviceStrategy):
    pass


class _Launcher(_SubprocessScriptLauncher):
    """Starts the other processes of this machine. ended: rank and status of one that ended by an error.

    Lightning's kills this process, without a word, as soon as another ends; here it has a while to end by itself.
    """

    ended: tuple[int, int] | None = None

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
            Thread(target=self._watch_children, daemon=True).start()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)

    def _watch_children(self) -> None:
        while self.ended is None:
            time.sleep(_LOOK_EVERY)
            states = [child.poll() for child in self.procs]
            failed = [(number + 1, state) for number, state in enumerate(states) if state]
            if failed:
                self.ended = failed[0]
            elif all(state == 0 for state in states):
                return
        time.sleep(_LEFT_TO_END)
        print(f"align_train: rank {self.ended[0]} ended with status {self.ended[1]}, and so does this one", file=sys.stderr)
        for child in self.procs:
            child.kill()
        os._exit(75)


_LOOK_EVERY, _LEFT_TO_END = 0.5, 60.0  # seconds


class _Replicated(_WholeCheckpoints, DDPStrategy):
    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = _Launcher(self.cluster_environment, self.num_processes, self.num_nodes)


class _StaysInPlace(_Replicated):
    """A strategy whose engine keeps weights in parts and places of its own: nothing is moved to the CPU at the end."""

    def teardown(self) -> None:
        assert self.accelerator is not None
        self.precision_plugin.teardown()
        self.accelerator.teardown()
        self.checkpoint_io.teardown()


class _Sharded(_StaysInPlace):
    """FSDP2: each encoder block of both towers is gathered and reduced as one, what is left with the model."""

    def __init__(self, *, reshard: bool, process_group_backend: str, timeout: timedelta) -> None:
        super().__init__(process_group_backend=process_group_backend, timeout=timeout)
        self.reshard = reshard

    def configure_ddp(self) -> None:
        model: Any = self._module.model.to(
            memory_format=torch.contiguous_format
        )  # it takes no other; pictures stay as they are
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        for block in model.blocks:
            fully_shard(block, mesh=mesh, reshard_after_forward=self.reshard)
            if self.reshard:
                block.register_forward_hook(_reshard_second_pass)
        fully_shard(model, mesh=mesh, reshard_after_forward=False)  # the loss wants the temperature after the forward pass
        if not self.reshard:
            model.set_reshard_after_backward(False)

    def post_backward(self, closure_loss: Tensor) -> None:
        if not self.reshard:  # once, after the last chunk: what was gathered is stale after the step
            for part in self._module.model.modules():  # type: ignore[union-attr]
                if isinstance(part, FSDPModule):
                    part.reshard()


def _reshard_second_pass(block: Any, *_: Any) -> None:
    """FSDP2 leaves a block whole that is run again in backward, since its gradient is due next; but where a chunk is run
    again, so are all other blocks first."""
    if torch._C._current_graph_task_id() != -1:
        block.reshard()


class _Zero(_StaysInPlace):
    """DeepSpeed's ZeRO. The engine reduces, clips and steps; autocast, schedule and loop stay Lightning's and ours."""

    steps_alone = True

    def __init__(self, *, config: dict[str, Any], process_group_backend: str, timeout: timedelta) -> None:
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
            os.environ["DS_ACCELERATOR"] = "cpu"  # before the import: on a machine with GPUs it would take those
        os.environ.update(RANK=str(self.global_rank), LOCAL_RANK=str(self.local_rank), WORLD_SIZE=str(self.world_size))
        for chatty in ("DeepSpeed", "torch.utils.cpp_extension"):
            logging.getLogger(chatty).setLevel(logging.ERROR)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it builds
            import deepspeed

            deepspeed.init_distributed(self.process_group_backend, auto_mpi_discovery=False, verbose=False)
            (optimizer,) = self.optimizers
            engine, zero, _, _ = deepspeed.initialize(
                model=self._module,
                model_parameters=[parameter for parameter in self._module.parameters() if parameter.requires_grad],
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

    def optimizer_step(self, optimizer: Any, closure: Callable[[], Any], model: Any = None, **kwargs: Any) -> Any:
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
    *("overlap_comm", "contiguous_gradients", "reduce_scatter", "reduce_bucket_size", "allgather_bucket_size"),
    *("sub_group_size", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold"),
    *("stage3_max_live_parameters", "stage3_max_reuse_distance"),
)


_TIMEOUT = 1800.0


def _backend(on_gpu: bool) -> str:
    return "nccl" if on_gpu else "gloo"


def ddp(*, processes: int, on_gpu: bool, bf16: bool = False, clip: float | None = None, timeout: float = _TIMEOUT) -> Strategy:
    """One replica per process. timeout: seconds in which processes must have found each other, and that a collective may take.

    broadcast_buffers is off: BatchNorm's statistics are made alike on all ranks once a step (chunks.py), and a broadcast in
    each forward would be waste. Every parameter is used in every step, so none is searched for.
    """
    if processes == 1:
        return _OneProcess(device="cuda:0" if on_gpu else "cpu")
    return _Replicated(
        process_group_backend=_backend(on_gpu),
        timeout=timedelta(seconds=timeout),
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
        find_unused_parameters=False,
    )


def fsdp(
    *,
    processes: int,
    on_gpu: bool,
    bf16: bool = False,
    clip: float | None = None,
    timeout: float = _TIMEOUT,
    reshard: bool = False,
) -> Strategy:
    """FSDP2: weights, gradients and optimizer state are sharded over all processes.

    reshard: give gathered blocks back after each chunk's forward and backward, so that one block at a time is whole, and
    gather them again for the next chunk; else once a step (a step with many chunks would gather as many times).
    """
    return _Sharded(reshard=reshard, process_group_backend=_backend(on_gpu), timeout=timedelta(seconds=timeout))


def deepspeed(
    *,
    processes: int,
    on_gpu: bool,
    bf16: bool = False,
    clip: float | None = None,
    timeout: float = _TIMEOUT,
    stage: Literal[1, 2, 3] = 2,
    options: dict[str, Any] | None = None,
) -> Strategy:
    """DeepSpeed's ZeRO: optimizer state (1), gradients too (2), weights too (3) are sharded. options: more for its
    `zero_optimization`, of `ZERO_OPTIONS`: what changes speed and memory, but not where things lie (offloading, MiCS, …)."""
    for key, value in (options or {}).items():
        if key not in ZERO_OPTIONS:
            raise UserError(f"strategy.options.{key}: not supported; expected some of {', '.join(ZERO_OPTIONS)}")
        if not isinstance(value, (bool, int)):
            raise UserError(f"strategy.options.{key}={value}: expected an integer, or true or false")
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError("strategy=deepspeed: DeepSpeed is not installed; pip install 'align_train[deepspeed]'")
    config = {
        "train_micro_batch_size_per_gpu": 1,  # what it counts in is of no use here
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {"stage": stage, "overlap_comm": on_gpu, **(options or {})},
        "gradient_clipping": clip or 0.0,  # its default clips to 1.0
        # Lower precision inside autocast only: weights, gradients and what is sent stay float32.
        "torch_autocast": {"enabled": bf16, "dtype": "bfloat16", "lower_precision_safe_modules": []},
    }
    return _Zero(config=config, process_group_backend=_backend(on_gpu), timeout=timedelta(seconds=timeout))
