"""`python -m data.demo`: writes the demo's shards, held-out split and vocabulary.

`align_train/demo/` draws them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from align_train.config.compose import command


@dataclass
class DemoConfig:
    """`conf/commands/make_demo.yaml` explains each key and has the defaults."""

    folder: str
    pairs: int
    held_out: int
    noise: float
    size: int
    seed: int
    pairs_per_shard: int
    vocabulary: int


ConfigStore.instance().store(name="make_demo_schema", node=DemoConfig)


def run(config: DictConfig) -> None:
    """Writes the demo's data, unless the folder has it."""
    settings: DemoConfig = OmegaConf.to_object(config)  # type: ignore[assignment]
    # Imported here, so that `--help` does not wait for it.
    from align_train.demo import make_demo

    make_demo(**asdict(settings))
    print(
        f"{settings.folder}: {settings.pairs:,} pairs, {settings.noise:.0%} noise; "
        f"{settings.held_out:,} clean held-out pairs"
    )


if __name__ == "__main__":
    command(run, config_name="make_demo")
