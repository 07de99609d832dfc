"""What the plan says of published runs beside what was reported of them.

    python -m benchmarks.plan.published_table

The last column is the factor on all efficiencies of `conf/plan.yaml` by which plan and report would
be equal. It holds whatever a plan does not know: a loader that is waited for, other code, restarts.

Price: five plans, a minute and a half.
"""

from __future__ import annotations

from align_train.commands.plan_counts import model_without_memory, planner_of
from align_train.commands.plan_data import data_facts
from align_train.commands.plan_settings import compose_plan, hardware_of, with_usual_tokenizer
from align_train.config.components import build
from align_train.strategy import StrategyRecipe
from benchmarks.plan.published import DAY, PUBLISHED, PublishedRun


def main() -> None:
    print("| run | GPUs | pairs/s a GPU: reported | planned | days: reported | planned | factor |")
    print("|---|---|---|---|---|---|---|")
    for run in PUBLISHED:
        print(row_of(run, planned_speed(run)), flush=True)


def planned_speed(run: PublishedRun) -> float:
    """The pairs a second of one GPU that a plan gives a published run."""
    settings, _ = with_usual_tokenizer(compose_plan(*run.words))
    facts = data_facts(settings)
    model = model_without_memory(settings, facts.vocabulary)
    planner = planner_of(settings, model, hardware_of(settings), tokens=facts.tokens)
    strategy: StrategyRecipe = build(settings.strategy)
    trainer = settings.trainer
    plan = planner.step(strategy, world=trainer.processes, nodes=trainer.nodes)
    assert plan is not None, "our strategies say what they need"
    return plan.pairs_per_second / run.gpus


def row_of(run: PublishedRun, planned: float) -> str:
    """A row of the table. planned: pairs a second of one GPU."""
    days = run.pairs / (planned * run.gpus) / DAY
    cells = [run.name, f"{run.gpus:,}", "not reported", f"{planned:,.1f}"]
    cells += ["not reported", f"{days:.2f}", ""]
    if run.pairs_per_second is not None and run.seconds is not None:
        cells[2] = f"{run.pairs_per_second:,.1f}"
        cells[4] = f"{run.seconds / DAY:.2f}"
        cells[6] = f"{run.pairs_per_second / planned:.2f}"
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
