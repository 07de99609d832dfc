"""`python -m align_train [group=… key=…]`: trains, then evaluates what it saved. Without an argument: the demo."""

from __future__ import annotations

import os

from omegaconf import DictConfig

from align_train.config.check import check
from align_train.config.compose import command
from align_train.config.messages import report_once


def run(config: DictConfig) -> None:
    if "path" in config.model:  # model=huggingface
        from align_train.pretrained.explicit import with_pretrained

        config = with_pretrained(config)
    with report_once():
        check(config)
    from align_train.commands.train import train

    train(config)


def main() -> None:
    # Loader workers fork after the tokenizer was used; it warns unless told.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Where a process is gone, torch's C++ parts say so at length, with addresses; the run says which one it was.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    command(run, config_name="train")


if __name__ == "__main__":
    main()
