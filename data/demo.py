"""`python -m data.demo`: writes the demo's shards, held-out split and vocabulary.

`align_train/demo/` draws them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from align_train.cluster.interruption import leave
from align_train.config.command import command


@dataclass
class DemoSettings:
    """`conf/commands/make_demo.yaml` explains each key and has the defaults."""

    folder: str
    pairs: int
    held_out: int
    noise: float
    size: int
    seed: int
    pairs_per_shard: int
    vocabulary: int


def run(settings: DemoSettings) -> None:
    """Writes the demo's data, unless the folder has it."""
    # Imported here, so that `--help` does not wait for it.
    from align_train.demo import make_demo

    leave("nothing is saved, and the same command begins anew")
    make_demo(**asdict(settings))
    # A signal from here on costs nothing, and its line says so.
    leave(f"{settings.folder} is complete")
    print(
        f"{settings.folder}: {settings.pairs:,} pairs, {settings.noise:.0%} noise; "
        f"{settings.held_out:,} clean held-out pairs"
    )


if __name__ == "__main__":
    command(run, config_name="make_demo", schema=DemoSettings)
