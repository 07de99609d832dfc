"""What `python -m align_train.plan` does: what a run will need, before the cluster is booked.

The story: read the hardware and what is known of the data; count the run's own step on fake
tensors; plan it under every strategy and for many numbers of GPUs; print the tables.
"""

from __future__ import annotations

from math import ceil

import torch

from align_train.commands.plan_counts import model_without_memory, planner_of
from align_train.commands.plan_data import data_facts
from align_train.commands.plan_files import write_plan
from align_train.commands.plan_measure import measure_machine
from align_train.commands.plan_report import MANY, print_plan
from align_train.commands.plan_settings import (
    check_as_run,
    hardware_of,
    split_of,
    with_usual_tokenizer,
)
from align_train.config.components import build
from align_train.config.plan_schema import PlanSettings
from align_train.errors import UserError
from align_train.planning.hardware import GB
from align_train.planning.step import StepPlan, StepPlanner
from align_train.strategy import DDP, FSDP, DeepSpeed, StrategyRecipe

ENGINES: dict[str, StrategyRecipe] = {
    "strategy=ddp": DDP(),
    "strategy=fsdp": FSDP(reshard=False),
    "strategy=fsdp strategy.reshard=true": FSDP(reshard=True),
    "strategy=deepspeed strategy.stage=1": DeepSpeed(stage=1, options=None),
    "strategy=deepspeed strategy.stage=2": DeepSpeed(stage=2, options=None),
    "strategy=deepspeed strategy.stage=3": DeepSpeed(stage=3, options=None),
}
"""The strategies whose memory a plan compares, by the settings that choose them."""


def plan(settings: PlanSettings) -> None:
    """Plans a run, and prints what it will need.

    Args:
        settings: Composed and typed; what needs no class is checked.

    Raises:
        UserError: As of the run itself; the hardware cannot be read; or the step does not fit it.
    """
    if settings.measure:
        _measure(settings)
        return

    settings, assumed = with_usual_tokenizer(settings)
    # After the stand-in, because a run would refuse settings without a tokenizer.
    check_as_run(settings)
    hardware = hardware_of(settings)
    facts = data_facts(settings)

    model = model_without_memory(settings, facts.vocabulary)
    planner = planner_of(settings, model, hardware, tokens=facts.tokens)
    strategy: StrategyRecipe = build(settings.strategy)
    world, nodes = settings.trainer.processes, settings.trainer.nodes
    chosen = planner.step(strategy, world=world, nodes=nodes)
    if chosen is None:
        raise UserError(
            f"strategy._target_={settings.strategy['_target_']}: it does not say what a rank "
            f"needs; give its class a method needs(sizes), or plan with strategy=ddp"
        )
    # Before the refusal, which names the nearest strategy that fits.
    engines = _under_all(planner, world=world, nodes=nodes)
    if not chosen.fits:
        raise UserError(_refusal(chosen, engines, planner, settings))

    rows = _for_many(planner, strategy, settings)
    print_plan(settings, facts, planner, chosen, engines, rows, assumed)
    if settings.to is not None:
        print(f"{'written':>13}  {write_plan(settings.to, settings, hardware, engines, rows)}")


def _for_many(
    planner: StepPlanner, strategy: StrategyRecipe, settings: PlanSettings
) -> list[StepPlan]:
    """The step on each number of GPUs that the batch divides over."""
    trainer = settings.trainer
    # One node may be used in part only; several are filled as the settings say.
    per_node = trainer.devices if trainer.nodes > 1 else planner.hardware.gpus_per_node
    rows: list[StepPlan] = []
    for world in sorted({*MANY, trainer.processes}):
        if not split_of(settings, world).fits:
            continue
        row = planner.step(strategy, world=world, nodes=ceil(world / per_node))
        if row is not None:
            rows.append(row)
    return rows


def _under_all(planner: StepPlanner, *, world: int, nodes: int) -> dict[str, StepPlan]:
    """The step under each strategy, by the settings that choose it."""
    plans: dict[str, StepPlan] = {}
    for words, engine in ENGINES.items():
        plan = planner.step(engine, world=world, nodes=nodes)
        assert plan is not None, "each of these says what it needs"
        plans[words] = plan
    return plans


def _refusal(
    chosen: StepPlan, engines: dict[str, StepPlan], planner: StepPlanner, settings: PlanSettings
) -> str:
    """One line: what a rank would need, what it has, and the nearest that fits."""
    hardware = planner.hardware
    needs = (
        f"{chosen.strategy} on {chosen.world:,} GPUs needs {chosen.memory.peak / GB:.1f} GB a GPU, "
        f"{chosen.memory.largest}; {hardware.name} has {hardware.memory_gb:g}"
    )
    nearest = _quickest_that_fits(engines)
    if nearest is not None:
        return f"{needs}; nearest that fits: {nearest}"

    # More GPUs have smaller shares of the batch, and under some strategies of the weights.
    for world in MANY:
        if world > chosen.world and split_of(settings, world).fits:
            nodes = ceil(world / hardware.gpus_per_node)
            nearest = _quickest_that_fits(_under_all(planner, world=world, nodes=nodes))
            if nearest is not None:
                return f"{needs}; nearest that fits: {world:,} GPUs with {nearest}"
    return f"{needs}; nothing fits, up to {MANY[-1]:,} GPUs: take larger ones, or a smaller model"


def _quickest_that_fits(plans: dict[str, StepPlan]) -> str | None:
    """The settings of the quickest plan that fits, and its memory; None: none does."""
    fitting = {words: plan for words, plan in plans.items() if plan.fits}
    if not fitting:
        return None
    words = min(fitting, key=lambda name: fitting[name].seconds.total)
    best = fitting[words]
    return f"{words} {best.settings} ({best.memory.peak / GB:.1f} GB)"


def _measure(settings: PlanSettings) -> None:
    """Measures this machine and writes the file."""
    device = torch.device("cuda" if settings.trainer.on_gpu else "cpu")
    if settings.trainer.on_gpu and not torch.cuda.is_available():
        raise UserError("measure: no GPU is found here; set trainer=cpu to measure its CPU cores")

    path = measure_machine(device, bf16=settings.precision == "bf16")
    print(f"what this machine reaches is written to {path}; gpu={path} plans with it")
