"""`python -m align_train.evaluate model=RUN`: a table, `results.json` and pictures from the run's last checkpoint."""

from __future__ import annotations

from omegaconf import DictConfig

from align_train.config import command


def run(config: DictConfig) -> None:
    from align_train.evaluation import evaluate

    evaluate(config)


def main() -> None:
    command(run, config_name="evaluate")


if __name__ == "__main__":
    main()
