"""`python -m align_train.serve model=PATH`: a web page and an HTTP interface for trained models.

Classifies images by any labels, compares images with texts, and searches a collection.
"""

from __future__ import annotations

from align_train.cluster.interruption import leave
from align_train.config.command import command
from align_train.config.messages import report_once
from align_train.config.serve_schema import ServeSettings


def run(settings: ServeSettings) -> None:
    """Serves until a signal comes."""
    leave("nobody was being served yet")
    # Here, and in this order: an error in the settings must not wait for torch.
    from align_train.commands.early_serving import look_before_serving

    with report_once():
        look_before_serving(settings)

    from align_train.commands.serve import serve

    serve(settings)


def main() -> None:
    """Runs the command."""
    command(run, config_name="serve", schema=ServeSettings)


if __name__ == "__main__":
    main()
