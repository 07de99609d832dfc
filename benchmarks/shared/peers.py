from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.shared.children import TOP


def peers_python() -> Path:
    """The interpreter of open_clip's environment, which is made where it is missing or was left half made."""
    python, done = PEERS / "bin" / "python", PEERS / ".done"
    needed = "\n".join(PEERS_NEED)
    if not done.is_file() or done.read_text() != needed:
        print(f"making {PEERS.name} for open_clip (a minute, 5 GB) ...", flush=True)
        uv = str(Path(sys.executable).with_name("uv"))
        try:
            subprocess.run(
                [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(PEERS)],
                check=True,
            )
            subprocess.run(
                [uv, "pip", "install", "--quiet", "--python", str(python), *PEERS_NEED], check=True
            )
        except FileNotFoundError:
            raise SystemExit(
                f"{uv}: not there; run `python -m pip install uv` in this environment"
            ) from None
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"{PEERS.name} could not be made, see above ({error})") from None
        done.write_text(needed)
    return python


def versions(python: Path | str, *packages: str) -> str:
    code = "import sys, importlib.metadata as m; print(', '.join(f'{p} {m.version(p)}' for p in sys.argv[1:]))"
    return subprocess.run(
        [str(python), "-c", code, *packages], check=True, capture_output=True, text=True
    ).stdout.strip()


PEERS = TOP / ".venv-peers"


PEERS_NEED = (
    "clip-benchmark>=1.6.2",
    "numpy<2.4",
    "open_clip_torch[training]>=3.3",
    "torchmetrics>=1.8",
)  # their accuracy fails on newer NumPy
