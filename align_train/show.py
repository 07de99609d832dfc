"""`python -m align_train.show name=RUN step=N`: the pairs of a step as a table and a contact sheet, without a replay."""

from __future__ import annotations

from omegaconf import DictConfig

from align_train.config.compose import command


def run(config: DictConfig) -> None:
    from align_train.commands.show import show

    show(config)


def main() -> None:
    command(run, config_name="show")


if __name__ == "__main__":
    main()
