"""`python -m align_train [group=… key=…]`: trains a run and evaluates its last checkpoint.

The same command resumes the run. Without an argument it trains the demo.
"""

from __future__ import annotations

import os

from align_train.config.compose import command
from align_train.config.messages import report_once
from align_train.config.schema import Node, TrainSettings


def explicit(model: Node, data: Node) -> Node:
    """Makes `model=huggingface` and `model=classifier` explicit; others need nothing."""
    if "path" not in model:
        return {}
    from align_train.pretrained.explicit import explicit_settings

    return explicit_settings(model, data)


def run(settings: TrainSettings) -> None:
    """Checks the settings and trains."""
    # Here: `--help` and a misspelt key must wait for neither.
    from align_train.config.check import check, check_values

    with report_once():
        # What needs no class first: classes bring torch.
        check_values(settings)
        from align_train.commands.early import look_before_training

        look_before_training(settings)
        check(settings)

    from align_train.commands.train import train

    train(settings)


def main() -> None:
    """Runs the command."""
    # The tokenizer warns if loader workers fork after it was used, unless this is set.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # If a process is gone, torch's C++ parts print stack addresses; the watchdog names the process.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    command(run, config_name="train", schema=TrainSettings, fill_in=explicit)


if __name__ == "__main__":
    main()
