"""`python -m align_train.evaluate model=RUN_OR_HF_DIR`: a table, `results.json` and pictures of a trained model."""

from __future__ import annotations

from omegaconf import DictConfig

from align_train.config.compose import command


def run(config: DictConfig) -> None:
    from align_train.commands.evaluate import evaluate

    evaluate(config)


def main() -> None:
    command(run, config_name="evaluate", groups=["eval"])


if __name__ == "__main__":
    main()
