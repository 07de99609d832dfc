from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.forked import Forked, Server
from tests.support.ports import free_port

if TYPE_CHECKING:
    from align_train.stream.datamodule import PairsDataModule

REPOSITORY = Path(__file__).resolve().parents[2]

# Real images and texts, if they lie beside the repository.
SHARED_DATA = REPOSITORY.parent / "shared" / "data"


# A recipe that takes seconds. BatchNorm, dropout and drop path are on, because without them the
# tests of norm groups and chunks would show nothing.
SMALL_RUN = (
    "batch_size=32",
    "norm_group=8",
    "chunk_size=8",
    "max_steps=12",
    "log_every=1",
    "checkpoint_every=4",
    "evaluate_every=0",
    "optimizer.lr=2e-3",
    "model.temperature.initial=0.1",
    "model.image_tower.channels=[8,8,16]",
    "model.image_tower.kernels=[3,3,3]",
    "model.image_tower.strides=[1,2,2]",
    "model.image_tower.repeats=[1,1,1]",
    "model.image_tower.expansions=[1,4,4]",
    "model.image_tower.drop_path=0.2",
    "model.text_tower.hidden=32",
    "model.text_tower.layers=1",
    "model.text_tower.heads=2",
    "model.text_tower.intermediate=64",
    "model.text_tower.dropout=0.1",
    "model.image_size=32",
    "model.resize_size=36",
)

# For runs whose worth nobody reads: to evaluate, and to draw that, takes longer than to train.
UNEVALUATED = ("data.held_out=null", "eval=pairs")

# For runs of which the zero-shot shares are read, but not the answers to composed queries.
NO_COMPOSED = ("eval.composed_colour=null", "eval.composed_shape=null")

SMALL_MAKE = (
    "data.make.pairs=512",
    "data.make.held_out=64",
    "data.make.size=40",
    "+data.make.pairs_per_shard=128",
    "+data.make.vocabulary=300",
)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that `make` fills, once for all processes of the test run.

    No test may change it.
    """
    root = factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder, done = root / name, root / f"{name}.done"
    with (root / f"{name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


def data_module(shards: str | list[str], tokenizer: Path, **options: Any) -> PairsDataModule:
    """Batches of 32 small pictures on 8 lanes."""
    # Here: tests/conftest.py imports this file, and it must not wait for torch.
    from align_train.stream.datamodule import PairsDataModule

    plain: dict[str, Any] = {
        "image_size": 16,
        "resize_size": 20,
        "max_tokens": 16,
        "batch_size": 32,
        "seed": 0,
        "classes": None,
        "weights": None,
        "held_out": None,
        "caption": "txt",
        "held_out_caption": None,
        "first_caption": None,
        "content_ids": False,
        "lanes": 8,
        "window": 16384,
        "workers": 1,
        "flip": True,
        "least_scale": 1.0,
        "augmentation": None,
        "staging": None,
        "storage_options": None,
        "missing_shards": "stop",
        "max_bad_share": 0.1,
        "make": None,
    }
    return PairsDataModule(shards=shards, tokenizer=str(tokenizer), **plain | options)


def launch_command(*, beginning: str) -> str:
    """The one command in docs/cluster.md that begins so."""
    page = (REPOSITORY / "docs" / "cluster.md").read_text()
    # A backslash at the end of a line continues it, as in the shell.
    lines = [" ".join(line.split()) for line in page.replace("\\\n", " ").splitlines()]
    (found,) = [line for line in lines if line.startswith(beginning)]
    return found


def checkout(folder: Path) -> Path:
    """Makes a folder one from which that page's commands find what they name."""
    for name in ("launch", "align_train", "conf", "tests"):
        (folder / name).symlink_to(REPOSITORY / name)
    return folder


@cache
def _server() -> Server:
    return Server(_environment())


def _environment() -> dict[str, str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM_", "HYDRA_", "WANDB_"))
    }
    fixed = {
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "WANDB_SILENT": "true",
    }
    return inherited | fixed


Started = subprocess.Popen[str] | Forked


def start(
    *arguments: str, cwd: Path, module: str = "align_train", forked: bool = True, **environment: str
) -> Started:
    """Starts `python -m module …` in a folder of its own, offline, one thread per process.

    forked: from a process that has the libraries loaded, which takes ten seconds less.
    """
    if forked:
        return _server().start(module, arguments, cwd, _environment() | environment)
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=cwd,
        env=_environment() | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def start_ranks(
    *arguments: str, cwd: Path, module: str, ranks: int = 2, meet: bool = False
) -> list[Started]:
    """Starts a command's ranks as torchrun would; `meet`: with a place to form a group at."""
    group = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": str(ranks)}
    if meet:
        group |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}

    started: list[Started] = []
    for rank in map(str, range(ranks)):
        own = {"RANK": rank, "LOCAL_RANK": rank} if meet else {"RANK": rank}
        started.append(start(*arguments, cwd=cwd, module=module, forked=True, **group, **own))
    return started


def finish(process: Started, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    out, error = process.communicate(timeout=timeout)
    assert process.returncode is not None
    return subprocess.CompletedProcess(process.args, process.returncode, out, error)


def run(
    *arguments: str, cwd: Path, module: str = "align_train", forked: bool = True, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command that must succeed."""
    done = finish(start(*arguments, cwd=cwd, module=module, forked=forked, **environment))
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done
