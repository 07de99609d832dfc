"""The device kit: as wheels, what a bare GPU machine lacks to run `benchmarks.gpu` of a checkout.

    python -m benchmarks.gpu.kit FOLDER             # here, where packages can be had
    benchmarks/gpu/from_kit.sh FOLDER [--minutes 8 ...]  # there, from a checkout

Nothing is installed there. That machine has PyTorch, torchvision, transformers, timm, lightning,
safetensors, matplotlib, fsspec and tqdm, on x86-64 Linux. The versions of the wheels are those of
this environment: what is tried here runs there. They win over the machine's own. open_clip comes
along to be compared with, DeepSpeed for its strategy.

Target: at most 60 MiB of wheels. Price: half a minute.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.shared.command_line import parser_of

LIMIT = 60.0  # MiB

# Every run imports these.
NEEDED = (
    "antlr4-python3-runtime",
    "braceexpand",
    "filelock",
    "hydra-core",
    "omegaconf",
    "simplejpeg",
    "webdataset",
)

# strategy=deepspeed imports these.
DEEPSPEED = ("deepspeed", "einops", "hjson", "msgpack", "psutil", "py-cpuinfo")

# The project's own environment has no open_clip: nothing pins it.
OPEN_CLIP = ("ftfy", "open_clip_torch", "wcwidth")

# PyPI has no wheels of these; they hold no compiled code, so a wheel made here serves everywhere.
MADE_HERE = ("antlr4-python3-runtime", "deepspeed")

# pip matches a tag exactly, and does not know that a newer system takes older wheels.
PLATFORMS = (
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
    "manylinux_2_12_x86_64",
    "manylinux2010_x86_64",
    "manylinux_2_5_x86_64",
    "manylinux1_x86_64",
)


def collect(folder: Path, python: str) -> float:
    """Fills the folder with wheels; those of an older kit are removed.

    Args:
        folder: The kit's.
        python: The machine's version of Python, such as `3.12`.

    Returns:
        The size of all wheels, in MiB.

    Raises:
        SystemExit: A wheel cannot be had.
    """
    shutil.rmtree(folder / "site", ignore_errors=True)  # where from_kit.sh has unpacked them
    for wheel in folder.glob("*.whl"):
        wheel.unlink()

    _pip("wheel", "--wheel-dir", str(folder), *_pinned(MADE_HERE))
    others = [name for name in NEEDED + DEEPSPEED + OPEN_CLIP if name not in MADE_HERE]
    tags = [f"--platform={platform}" for platform in PLATFORMS]
    where = ["--python-version", python, "--implementation", "cp", *tags]
    _pip("download", "--only-binary=:all:", *where, "--dest", str(folder), *_pinned(others))
    return sum(wheel.stat().st_size for wheel in folder.glob("*.whl")) / 2**20


def _pinned(names: tuple[str, ...] | list[str]) -> list[str]:
    return [name if name in OPEN_CLIP else f"{name}=={_version(name)}" for name in names]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        raise SystemExit(
            f"{name}: not in this environment; make it by `make .venv/.done`"
        ) from None


def _pip(*arguments: str) -> None:
    action, *others = arguments
    command = [sys.executable, "-m", "pip", action, "--quiet", "--no-deps", *others]
    try:
        subprocess.run(command, check=True)
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"a wheel cannot be had, see above ({error})") from None


def main() -> None:
    parser = parser_of("gpu.kit", __doc__)
    parser.add_argument("folder", type=Path, help="of the kit; made if it is missing")
    parser.add_argument("--python", default="3.12", help="the machine's version")
    given = parser.parse_args()

    given.folder.mkdir(parents=True, exist_ok=True)
    size = collect(given.folder, given.python)
    for wheel in sorted(given.folder.glob("*.whl")):
        print(f"{wheel.stat().st_size / 2**20:6.2f} MiB  {wheel.name}")
    print(f"{size:6.2f} MiB of at most {LIMIT:.0f}")
    if size > LIMIT:
        sys.exit("the kit is too large")


if __name__ == "__main__":
    main()
