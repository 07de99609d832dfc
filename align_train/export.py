"""`python -m align_train.export model=RUN to=FOLDER`: a trained model for transformers or ONNX.

`transformers.AlignModel` and `AlignProcessor` load the folder; `push=OWNER/NAME` sends it to the
Hugging Face hub.
"""

from __future__ import annotations

from align_train.cluster.interruption import leave
from align_train.config.command import command
from align_train.config.command_schema import ExportSettings
from align_train.config.messages import report_once


def run(settings: ExportSettings) -> None:
    """Exports a model."""
    leave("nothing is exported, and the same command begins anew")
    # Here, and in this order: an error in the settings must not wait for torch.
    from align_train.commands.early import look_before_opening
    from align_train.commands.push import check_push

    with report_once():
        look_before_opening(settings)
        if settings.push is not None:
            check_push(settings.push)

    from align_train.commands.export import export

    export(settings)


def main() -> None:
    """Runs the command."""
    command(run, config_name="export", schema=ExportSettings)


if __name__ == "__main__":
    main()
