"""`python -m align_train.score model=RUN shards=… to=FOLDER`: how well texts fit their images.

Writes the cosine of image and text of every pair, beside each shard, for `align-train filter`.
"""

from __future__ import annotations

from align_train.cluster.interruption import leave
from align_train.config.command import command
from align_train.config.command_schema import ScoreSettings
from align_train.config.messages import report_once


def run(settings: ScoreSettings) -> None:
    """Scores pairs."""
    leave("shards that were done stay, and the same command scores the others")
    # Here, and in this order: an error in the settings must not wait for torch.
    from align_train.commands.early import look_before_opening

    with report_once():
        look_before_opening(settings)

    from align_train.commands.score import score

    score(settings)


def main() -> None:
    """Runs the command."""
    command(run, config_name="score", schema=ScoreSettings)


if __name__ == "__main__":
    main()
