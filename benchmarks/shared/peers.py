"""The environment of the projects that we are compared with: `.venv-peers`, made when needed.

It has pins of its own, which would not fit beside ours: open_clip wants webdataset 0.2.86 or older.
Making it takes a minute and 5 GB.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.shared.children import REPOSITORY

PEERS = REPOSITORY / ".venv-peers"

PEERS_NEED = (
    "clip-benchmark>=1.6.2",
    "hydra-core>=1.3.2",  # with the next, what our own models need beside the peers' packages
    "numpy<2.4",  # the peers' accuracy fails on newer ones
    "open_clip_torch[training]>=3.3",
    "requests",  # clip-benchmark imports it, and does not say so
    "simplejpeg>=1.9",
    "torchmetrics>=1.8",
)

# Prints `PACKAGE VERSION, …` of the packages on its command line.
_PRINT_VERSIONS = """
import importlib.metadata, sys
print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in sys.argv[1:]))
"""


def peers_python() -> Path:
    """Returns the interpreter of the peers' environment.

    The environment is made anew if it is missing, was left half made, or has other pins.

    Raises:
        SystemExit: It cannot be made.
    """
    python = PEERS / "bin" / "python"
    done = PEERS / ".done"
    needed = "\n".join(PEERS_NEED)
    if done.is_file() and done.read_text() == needed:
        return python

    print(f"making {PEERS.name} for open_clip (a minute, 5 GB) ...", flush=True)
    uv = str(Path(sys.executable).with_name("uv"))
    make = [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(PEERS)]
    install = [uv, "pip", "install", "--quiet", "--python", str(python), *PEERS_NEED]
    try:
        subprocess.run(make, check=True)
        subprocess.run(install, check=True)
    except FileNotFoundError:
        raise SystemExit(
            f"{uv}: not there; run `python -m pip install uv` in this environment"
        ) from None
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"{PEERS.name} could not be made, see above ({error})") from None

    # Written last: an environment that was left half made has no such file.
    done.write_text(needed)
    return python


def versions(python: Path | str, *packages: str) -> str:
    """Returns the versions of packages in the environment of an interpreter, in one line."""
    command = [str(python), "-c", _PRINT_VERSIONS, *packages]
    child = subprocess.run(command, check=True, capture_output=True, text=True)
    return child.stdout.strip()
