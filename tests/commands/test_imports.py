"""A library that one feature wants is imported by it alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import REPOSITORY, SMALL_MAKE, SMALL_RUN, UNEVALUATED

# The libraries of the extras, of loggers and of tests. scipy is not here: Lightning imports it.
OPTIONAL = (
    "deepspeed",
    "duckdb",
    "faiss",
    "gcsfs",
    "ibis",
    "imagehash",
    "pyarrow",
    "pyspark",
    "s3fs",
    "wandb",
)


@pytest.mark.long
def test_a_run_draws_its_shards_and_trains_without_optional_libraries(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({OPTIONAL}))\n"
        "import align_train\n"
        "from align_train.__main__ import main\n"
        "main()\n"
    )
    folder = tmp_path / "pairs"
    options = (*SMALL_RUN, *SMALL_MAKE, *UNEVALUATED, f"data.make.folder={folder}", "max_steps=2")
    done = subprocess.run(
        [sys.executable, "-c", code, *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "outputs" / "demo" / "checkpoints" / "step-00000002.ckpt").exists()
