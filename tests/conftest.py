"""Small shards of the demo's own pairs, and the commands as a user runs them."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.commands import SMALL_MAKE, SMALL_RUN, made_once, run

# torch is imported within the fixtures: the process that only hands out tests must not wait for it.

settings.register_profile("shared_machine", deadline=None)  # never a timed test
settings.load_profile("shared_machine")

# The tests' processes share the cores: with more threads each would wait for the others.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Runs of the tests are a CPU's, on machines with a GPU too: `trainer=auto` would take it.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


def pytest_xdist_auto_num_workers() -> int:
    """One process more than cores for `-n auto`: tests of commands often wait for each other."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slurm's tests come first: at the end the other processes would wait for them alone."""
    items.sort(key=lambda item: "tests/slurm" not in item.path.as_posix())


def pytest_collection_finish() -> None:
    """Hides the loaded libraries from the collector: looking through them slows every test."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """512 noisy training pairs in 4 shards, 64 clean held-out ones, vocabulary, classes."""

    def make(folder: Path) -> None:
        from align_train.demo import make_demo

        make_demo(
            folder=str(folder / "pairs"),
            pairs=512,
            held_out=64,
            noise=0.25,
            size=40,
            seed=0,
            pairs_per_shard=128,
            vocabulary=300,
        )

    return made_once(tmp_path_factory, "demo", make) / "pairs"


@pytest.fixture(scope="session")
def small_run(demo: Path) -> tuple[str, ...]:
    """Overrides of a run of seconds on the small demo."""
    return (*SMALL_RUN, f"data.make.folder={demo}", *SMALL_MAKE)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, small_run: tuple[str, ...]) -> Path:
    """A run of seconds that is over, left alone from its first step to its last."""
    options = (*small_run, "name=run", "evaluate_every=6")
    cwd = made_once(tmp_path_factory, "trained", lambda folder: run(*options, cwd=folder))
    return cwd / "outputs" / "run"


@pytest.fixture(scope="session")
def small_align(tmp_path_factory: pytest.TempPathFactory, demo: Path) -> Path:
    """A folder of Hugging Face's ALIGN, 32 of 36 pixels, with the small demo's tokenizer."""

    def make(folder: Path) -> None:
        from tests.support.align_folders import SMALL, folder_of, lively

        folder_of(lively(SMALL), folder / "align", demo / "tokenizer", resize=36, crop=32)

    return made_once(tmp_path_factory, "small_align", make) / "align"
