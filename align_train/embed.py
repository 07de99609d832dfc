"""`python -m align_train.embed model=RUN shards=… to=DIR`: pictures -> embeddings, once, to be searched."""

from __future__ import annotations

from omegaconf import DictConfig

from align_train.config.compose import command


def run(config: DictConfig) -> None:
    from align_train.commands.embed import embed

    embed(config)


def main() -> None:
    command(run, config_name="embed")


if __name__ == "__main__":
    main()
