"""`python -m module …` without its imports, forked from a process that has torch and others loaded.

A command imports for ten seconds before it does anything, and the tests start a hundred commands.
A forked command has its own session, folder, environment, streams, arguments and `__main__`, and
it ends as Python ends. It shares the seed of `hash` with its siblings; if that could matter, a test
starts Python itself. The ranks of a command are forked as well. This happens at its beginning,
while it has one thread, and they wait until Lightning would start them.

`python -m tests.support.forked` is the process with the libraries. It reads one request a line and
forks twice for each: a waiter, which writes down the command's status, and the command.
"""

from __future__ import annotations

import atexit
import faulthandler
import gc
import importlib
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, NoReturn

PRELOADED = (
    "align_train.commands.train",
    "align_train.commands.show",
    "align_train.stream.tokenizer",
    "matplotlib.pyplot",
)  # no command itself


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
            assert server.poll() is None, "python -m tests.support.forked ended"
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
                self._abort()
                out, error = self._streams()
                raise AssertionError(f"{self.args}: no end after {timeout} s\n{out}\n{error}")
            time.sleep(0.01)
        return self._streams()

    def _abort(self) -> None:
        """Ends it and its children; faulthandler writes down where each thread stands."""
        for number in (signal.SIGQUIT, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)
            time.sleep(1)

    def _streams(self) -> tuple[str, str]:
        return (self.folder / "stdout").read_text(), (self.folder / "stderr").read_text()

    def _read(self, name: str) -> int | None:
        path = self.folder / name
        return int(path.read_text()) if path.exists() else None


class Server:
    """The process that commands are forked from; it ends with this one."""

    def __init__(self, environment: dict[str, str]) -> None:
        command = [sys.executable, "-m", "tests.support.forked"]
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, text=True, start_new_session=True
        )
        self.folder = tempfile.TemporaryDirectory()

    def start(
        self, module: str, arguments: tuple[str, ...], cwd: Path, environment: dict[str, str]
    ) -> Forked:
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
    # timm would import wandb, which makes a folder when it is imported and removes it at the end
    # of the process: each command that logs to wandb must have its own.
    modules: dict[str, Any] = sys.modules
    modules["wandb"] = None
    for module in PRELOADED:
        importlib.import_module(module)
    del modules["wandb"]

    # Without this each command's collector would look through, and so copy, all that is loaded
    # here: two seconds a command.
    gc.collect()
    gc.freeze()
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
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell that starts us in the background has it ignored
    for number, name, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, "stdout", os.O_WRONLY),
        (2, "stderr", os.O_WRONLY),
    ):
        stream = os.open(Path(request.folder, name), flags | (os.O_CREAT if number else 0))
        os.dup2(stream, number)
        os.close(stream)
    sys.path[0] = request.cwd
    faulthandler.register(signal.SIGQUIT)
    _begin(request.arguments, request.cwd, request.environment)


def _begin(arguments: Sequence[str], cwd: str, environment: Mapping[str, str]) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["-m", *arguments]


class _Rank:
    """What Lightning takes for the process of a further rank: one of those that wait."""

    waiting: ClassVar[
        list[tuple[int, int]]
    ] = []  # a process, and the pipe on which it waits for what to do

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str], cwd: str | None) -> None:
        self.pid, pipe = self.waiting.pop()
        self.returncode: int | None = None
        with os.fdopen(pipe, "w") as file:
            json.dump((command[command.index("-m") + 2 :], cwd or os.getcwd(), dict(env)), file)

    def poll(self) -> int | None:
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _fork_ranks(request: Request) -> None:
    """Forks as many ranks as the command may need.

    A rank returns when the command needs it, and ends if the command does not.
    """
    devices = [
        int(one.partition("=")[2])
        for one in request.arguments
        if re.fullmatch(r"trainer\.devices=\d", one)
    ]
    for _ in range(1, max(devices, default=1)):
        read, write = os.pipe()
        if child := os.fork():
            os.close(read)
            _Rank.waiting.append((child, write))
            continue
        for _, pipe in [*_Rank.waiting, (0, write)]:
            os.close(pipe)
        with os.fdopen(read) as file:
            told = file.read()
        if not told:
            os._exit(0)
        _begin(*json.loads(told))
        return
    if devices:
        launcher: Any = importlib.import_module(
            "lightning.pytorch.strategies.launchers.subprocess_script"
        )
        launcher.subprocess = SimpleNamespace(Popen=_Rank)


def _run(module: str) -> NoReturn:
    """`python -m module` to its end, but for taking modules down.

    That would take longer than most commands. Exit handlers run, and threads are waited for.
    """
    status = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except KeyboardInterrupt:
        raise  # Python ends by the signal
    except BaseException as error:
        status = 1
        sys.excepthook(type(error), error, error.__traceback__)

    threading_module: Any = threading
    threading_module._shutdown()
    atexit_module: Any = atexit
    atexit_module._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status & 255)


if __name__ == "__main__":
    given = _serve()
    _become(given)
    _fork_ranks(given)
    _run(given.module)
