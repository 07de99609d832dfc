"""What `python -m align_train.plan` does: what a run will need, before the cluster is booked."""

from __future__ import annotations

from align_train.commands.plan_data import DataFacts, data_facts
from align_train.commands.plan_settings import check_as_run, hardware_of, with_usual_tokenizer
from align_train.config.plan_schema import PlanSettings
from align_train.planning.hardware import Hardware


def plan(settings: PlanSettings) -> None:
    """Plans a run, and prints what it will need.

    Args:
        settings: Composed and typed; what needs no class is checked.

    Raises:
        UserError: As of the run itself; or the hardware cannot be read.
    """
    settings, assumed = with_usual_tokenizer(settings)
    check_as_run(settings)
    hardware = hardware_of(settings)
    facts = data_facts(settings)

    for name, line in _lines(settings, hardware, facts).items():
        print(f"{name:>13}  {line}")
    for note in (*assumed, *facts.notes):
        print(f"{'note':>13}  {note}")


def _lines(settings: PlanSettings, hardware: Hardware, facts: DataFacts) -> dict[str, str]:
    trainer = settings.trainer
    pairs = f"{facts.pairs:,} pairs" if facts.pairs else "unknown number of pairs"
    return {
        "hardware": f"{trainer.nodes} x {trainer.devices} {hardware.name}",
        "global batch": f"{settings.batch_size:,} pairs",
        "data": f"{pairs}, {facts.vocabulary:,} words, {facts.tokens} tokens a text",
    }
