"""`python -m align_train.export model=RUN to=DIR`: a folder that `transformers.AlignModel` and `AlignProcessor` load."""

from __future__ import annotations

from omegaconf import DictConfig

from align_train.config.compose import command


def run(config: DictConfig) -> None:
    from align_train.commands.export import export

    export(config)


def main() -> None:
    command(run, config_name="export")


if __name__ == "__main__":
    main()
