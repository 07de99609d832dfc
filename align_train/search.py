"""`python -m align_train.search index=DIR text=…`: the nearest pictures, as a table and a contact sheet."""

from __future__ import annotations

from omegaconf import DictConfig

from align_train.config.compose import command


def run(config: DictConfig) -> None:
    from align_train.commands.search import search

    search(config)


def main() -> None:
    command(run, config_name="search")


if __name__ == "__main__":
    main()
