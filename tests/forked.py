"""`python -m module …` without its imports: forked from a process that has torch and all the others loaded.

A command imports for ten seconds before it does anything, and the tests start a hundred. What is forked here has a session, a
folder, an environment, streams, arguments and a `__main__` of its own, and ends as Python ends; the ranks that it starts are
new processes. It shares the seed of `hash` with its siblings: where that could matter, tests start Python itself.

`python -m tests.forked` is that process. It reads one request a line and forks twice for each: a waiter, which writes down how
the command ended, and the command.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

PRELOADED = ("align_train.train", "align_train.showing", "align_train.stream.text", "matplotlib.pyplot")  # no command itself


@dataclass(frozen=True)
class Request:
    folder: str  # of the files pid, stdout, stderr, status
    module: str
    arguments: tuple[str, ...]
    cwd: str
    environment: dict[str, str]


class Forked:
    """A command that was started; what tests use of `subprocess.Popen`."""

    def __init__(self, request: Request, server: subprocess.Popen[str]) -> None:
        self.args = [request.module, *request.arguments]
        self.folder = Path(request.folder)
        while (pid := self._read("pid")) is None:
            assert server.poll() is None, "python -m tests.forked ended"
            time.sleep(0.002)
        self.pid = pid

    @property
    def returncode(self) -> int | None:
        return self._read("status")

    def poll(self) -> int | None:
        return self.returncode

    def communicate(self, timeout: float) -> tuple[str, str]:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                os.killpg(self.pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.01)
        return (self.folder / "stdout").read_text(), (self.folder / "stderr").read_text()

    def _read(self, name: str) -> int | None:
        path = self.folder / name
        return int(path.read_text()) if path.exists() else None


class Server:
    """The process that commands are forked from; it ends with this one."""

    def __init__(self, environment: dict[str, str]) -> None:
        command = [sys.executable, "-m", "tests.forked"]
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, text=True, start_new_session=True)
        self.folder = tempfile.TemporaryDirectory()

    def start(self, module: str, arguments: tuple[str, ...], cwd: Path, environment: dict[str, str]) -> Forked:
        folder = tempfile.mkdtemp(dir=self.folder.name)
        request = Request(folder, module, arguments, str(cwd), environment)
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asdict(request)) + "\n")
        self.process.stdin.flush()
        return Forked(request, self.process)


def _written(folder: str, name: str, value: int) -> None:
    """All of it or nothing: others wait for the file."""
    path = Path(folder, f"{name}.part")
    path.write_text(str(value))
    path.rename(Path(folder, name))


def _serve() -> Request:
    """Returns in each command, and never in the server."""
    for module in PRELOADED:
        importlib.import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the waiters
    while line := sys.stdin.readline():
        if os.fork():
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        request = Request(**json.loads(line))
        if child := os.fork():
            _written(request.folder, "pid", child)
            _, status = os.waitpid(child, 0)
            _written(request.folder, "status", os.waitstatus_to_exitcode(status))
            os._exit(0)
        return request
    sys.exit()


def _become(request: Request) -> None:
    """This process as Python would have started it for the request."""
    os.setsid()
    for number, name, flags in ((0, os.devnull, os.O_RDONLY), (1, "stdout", os.O_WRONLY), (2, "stderr", os.O_WRONLY)):
        stream = os.open(Path(request.folder, name), flags | (os.O_CREAT if number else 0))
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request.cwd)
    os.environ.clear()
    os.environ.update(request.environment)
    sys.path[0] = request.cwd
    sys.argv = ["-m", *request.arguments]


if __name__ == "__main__":
    given = _serve()
    _become(given)
    runpy.run_module(given.module, run_name="__main__", alter_sys=True)
