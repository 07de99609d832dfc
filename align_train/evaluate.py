"""`python -m align_train.evaluate model=RUN_OR_FOLDER`: figures of a trained model.

Prints a table and writes `results.json` and the evaluators' images.
"""

from __future__ import annotations

from align_train.cluster.interruption import leave
from align_train.config.command import command
from align_train.config.command_schema import EvaluateSettings
from align_train.config.messages import report_once


def run(settings: EvaluateSettings) -> None:
    """Evaluates a model."""
    leave("no results are saved, and the same command begins anew")
    # Here, and in this order: an error in the settings must not wait for torch.
    from align_train.commands.early import look_before_opening

    with report_once():
        look_before_opening(settings)

    from align_train.commands.evaluate import evaluate

    evaluate(settings)


def main() -> None:
    """Runs the command."""
    command(run, config_name="evaluate", schema=EvaluateSettings, groups=["eval"])


if __name__ == "__main__":
    main()
