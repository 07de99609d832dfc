"""`python -m data.demo`: writes the demo's shards, held-out split and vocabulary; see `align_train/demo/`."""

from __future__ import annotations

from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from align_train.config.compose import command


@dataclass
class DemoConfig:
    """`conf/commands/make_demo.yaml` says what each key is for."""

    folder: str = "demo_data"
    pairs: int = 24576
    held_out: int = 2048
    noise: float = 0.25
    size: int = 54
    seed: int = 0
    pairs_per_shard: int = 2048
    vocabulary: int = 2000


ConfigStore.instance().store(name="make_demo_schema", node=DemoConfig)


def run(config: DictConfig) -> None:
    from align_train.demo import make_demo

    make_demo(**OmegaConf.to_container(config))  # type: ignore[arg-type]
    print(
        f"{config.folder}: {config.pairs:,} pairs, {config.noise:.0%} noise; {config.held_out:,} clean held-out pairs"
    )


if __name__ == "__main__":
    command(run, config_name="make_demo")
