"""`python -m align_train.embed model=RUN shards=… to=FOLDER`: embeddings of images.

Embeds the images of shards once, so that `align_train.search` can search them.
"""

from __future__ import annotations

from align_train.cluster.interruption import leave
from align_train.config.command import command
from align_train.config.command_schema import EmbedSettings
from align_train.config.messages import report_once


def run(settings: EmbedSettings) -> None:
    """Embeds images."""
    leave("shards that were done stay, and the same command embeds the others")
    # Here, and in this order: an error in the settings must not wait for torch.
    from align_train.commands.early import look_before_opening

    with report_once():
        look_before_opening(settings)

    from align_train.commands.embed import embed

    embed(settings)


def main() -> None:
    """Runs the command."""
    command(run, config_name="embed", schema=EmbedSettings)


if __name__ == "__main__":
    main()
