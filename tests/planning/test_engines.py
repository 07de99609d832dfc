"""What a strategy says that it holds and sends is what it holds and sends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from align_train.model import DualEncoder
from align_train.planning.counting import count_model
from align_train.strategy import DDP, FSDP, DeepSpeed
from align_train.strategy.base import RunFacts, StrategyRecipe
from align_train.strategy.needs import ALL_GATHER, REDUCE_SCATTER, Needs, Sent, Sizes
from align_train.training.fakes import pretended_ranks
from align_train.training.forward import Towers
from align_train.training.operator_counter import OperatorCounter
from benchmarks.plan.holdings import parts_of
from benchmarks.plan.table import PARTS
from tests.support.parity import Case, fit, small_batch, small_model
from tests.support.processes import on_ranks

PAIRS, CHUNK = 16, 8


def bytes_sent(sent: Sent, kind: str) -> int:
    """Bytes of all collectives of a kind."""
    return sum(size * times for (of, size), times in sent.items() if of == kind)


def sizes_of(model: DualEncoder, *, world: int, **options: Any) -> Sizes:
    """A step of the model under AdamW, which keeps two moments of each weight."""
    counts = count_model(model)
    values: dict[str, Any] = {
        "ema": False,
        "chunks": PAIRS // CHUNK,
        "recompute": False,
        "on_gpu": False,
    }
    return Sizes(
        weights=counts.weights,
        gradients=counts.gradients,
        state=2 * counts.gradients,
        working=0,
        blocks=counts.blocks,
        rest=counts.rest,
        world=world,
        **(values | options),
    )


def shard(model: DualEncoder, *, world: int, reshard: bool) -> None:
    """Shards a model as a run does, on rank 0 of ranks that do not exist."""
    strategy: Any = FSDP(reshard=reshard).build(RunFacts(processes=world, on_gpu=False))
    environment = LightningEnvironment()
    environment.set_world_size(world)
    strategy.cluster_environment = environment
    strategy.parallel_devices = [torch.device("cpu")] * world
    module: Any = lightning.LightningModule()
    module.model = model
    strategy._lightning_module = module
    strategy.configure_ddp()


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("reshard", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
def test_fsdp_holds_and_sends_what_it_says(world: int, reshard: bool, recompute: bool) -> None:
    model = small_model()
    recipe = FSDP(reshard=reshard)
    needs = recipe.needs(sizes_of(model, world=world, recompute=recompute))

    towers = Towers(model, seed=0, norm_group=CHUNK)
    with pretended_ranks(world):
        shard(model, world=world, reshard=reshard)
        held = 0
        for parameter in model.parameters():
            local: Any = parameter
            held += local.to_local().untyped_storage().nbytes()

        counter = OperatorCounter()
        with counter:
            embeddings = towers.embed(small_batch(PAIRS), chunk_size=CHUNK, recompute=recompute)
            torch.autograd.backward(list(embeddings), [torch.ones_like(e) for e in embeddings])

    # Rank 0 has whole parts, some of other ranks are empty.
    assert needs.weights == pytest.approx(held, abs=world)
    for kind in (ALL_GATHER, REDUCE_SCATTER):
        planned = bytes_sent(needs.sent, kind)
        assert planned == pytest.approx(bytes_sent(counter.collectives, kind), rel=0.001), kind


ENGINES: dict[str, StrategyRecipe] = {
    "ddp": DDP(),
    "fsdp": FSDP(reshard=False),
    "ZeRO-1": DeepSpeed(stage=1, options=None),
    "ZeRO-2": DeepSpeed(stage=2, options=None),
    "ZeRO-3": DeepSpeed(stage=3, options=None),
}


def held_by(engines: list[str]) -> list[dict[str, int]]:
    """Trains under each engine; what this rank holds after the last step, by part."""
    found: list[dict[str, int]] = []
    for engine in engines:
        module: Any = fit(Case(engine=engine, world=2, optimizer="adamw", dtype="float32"))
        (optimizer,) = module.trainer.strategy.optimizers
        found.append(parts_of(module, optimizer, {}))
    return found


@pytest.mark.long
def test_ranks_hold_the_weights_and_moments_that_their_engines_say(tmp_path: Path) -> None:
    engines = list(ENGINES)
    for rank in on_ranks(2, held_by, engines, folder=tmp_path):
        for engine, parts in zip(engines, rank, strict=True):
            needs: Needs | None = ENGINES[engine].needs(sizes_of(small_model(), world=2))
            assert needs is not None
            held = {"weights": 0, "optimizer": 0}
            for name, size in parts.items():
                if PARTS.get(name) in held:
                    held[PARTS[name]] += size
            # Steps of each moment, and what fills flat tensors up.
            assert held["weights"] == pytest.approx(needs.weights, rel=0.03), engine
            assert held["optimizer"] == pytest.approx(needs.optimizer, rel=0.05), engine


def test_a_bucket_of_zero_is_whole_on_gpus_and_as_large_as_its_gradients_on_cpus() -> None:
    model = small_model()
    bucket = 500_000_000 * 4
    for stage in (1, 2):
        recipe = DeepSpeed(stage=stage, options=None)
        on_gpu = recipe.needs(sizes_of(model, world=2, on_gpu=True))
        # Two buckets, since messages overlap with the backward pass, and a copy of what is sent.
        gradients = sizes_of(model, world=2).gradients
        assert on_gpu.buffers == 2 * bucket + gradients
        on_cpu = recipe.needs(sizes_of(model, world=2))
        assert on_cpu.kept_buffers + on_cpu.buffers + on_cpu.reducing < 3 * gradients + 2_000_000

    third = DeepSpeed(stage=3, options={"reduce_bucket_size": 1_000_000})
    assert third.needs(sizes_of(model, world=2, on_gpu=True)).kept_buffers == 4_000_000


def test_zero_gathers_weights_once_unless_they_are_used_again_too_late() -> None:
    model = small_model()
    sizes = sizes_of(model, world=2, recompute=True)
    options: dict[str, object] = {"stage3_param_persistence_threshold": 0}

    def gathers(**more: object) -> int:
        needs = DeepSpeed(stage=3, options=options | more).needs(sizes)
        return needs.sent[ALL_GATHER, sizes.weights]

    # Counted in real runs of this model, of 16,865 weights: once, or nearly in each pass.
    assert gathers() == 1
    assert gathers(stage3_max_reuse_distance=100) == 1
    assert gathers(stage3_max_live_parameters=5000) == 1
    assert gathers(stage3_max_live_parameters=5000, stage3_max_reuse_distance=100) == 6
    assert gathers(stage3_prefetch_bucket_size=0, stage3_max_reuse_distance=100) == 6
