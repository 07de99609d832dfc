"""`python -m align_train.export model=RUN to=DIR`: the weights of a run's last checkpoint as one `model.safetensors`."""

from __future__ import annotations

from omegaconf import DictConfig

from align_train.config import command


def run(config: DictConfig) -> None:
    from align_train.evaluation import export

    export(config)


def main() -> None:
    command(run, config_name="export")


if __name__ == "__main__":
    main()
