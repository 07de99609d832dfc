"""A page's commands run, in their order, as its reader would run them.

All blocks of the page are one script of bash. Commands of ours are forked from a process with the
libraries, with settings that make them small. A page's first `serve` goes on until its end; further
ones only have to come up. Python blocks run in between, each after those before it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.commands import Started, finish, start
from tests.support.docs.pages import SHELL, Page
from tests.support.docs.rules import EVERYWHERE, of_ours, rule_of
from tests.support.docs.shell import Command, functions_of
from tests.support.docs.small import smaller
from tests.support.ports import free_port

_HANDLER = r"""
command_not_found_handle() { "$DOCS_PYTHON" -I -S "$DOCS_CLIENT" "${BASH_LINENO[-2]:-0}" "$@"; }
source() { command_not_found_handle source "$@"; }
.() { command_not_found_handle . "$@"; }
cd() { builtin cd "$@" 2> /dev/null || command_not_found_handle cd "$@"; }
"""

_BLOCK = "```python"
_PORT = 8000  # of the docs' servers


class Player:
    """Runs the commands of a page.

    Args:
        page: The page.
        world: Its working directory, see `world.py`.
        aside: An empty folder for what a reader does not see.
    """

    def __init__(self, page: Page, world: Path, aside: Path) -> None:
        self.page, self.world, self.aside = page, world, aside
        self.failures: list[str] = []
        self.ran: list[str] = []
        self.made: set[Path] = set()
        self.server: Started | None = None
        self.port = _PORT
        self.blocks = {block.line: block for block in page.blocks()}

    def play(self) -> None:
        """Runs them all; `failures` has a line for each that failed."""
        script, functions = self.aside / "script", self.aside / "functions"
        text = self._script()
        script.write_text(text)
        functions.write_text(_HANDLER + functions_of(text))
        asked = self.aside / "socket"
        with socket.socket(socket.AF_UNIX) as listener:
            # A path of a socket may have 107 characters.
            short = Path("/tmp") / f"docs-{os.getpid()}-{id(self):x}"
            listener.bind(str(short))
            asked.symlink_to(short)
            listener.listen()
            thread = threading.Thread(target=self._serve, args=(listener,), daemon=True)
            thread.start()
            try:
                self._run_script(script, functions, short)
            finally:
                if self.server is not None:
                    _stop(self.server)
                short.unlink()

    def _run_script(self, script: Path, functions: Path, asked: Path) -> None:
        done = subprocess.run(
            ["/bin/bash", "--norc", "--noprofile", str(script)],
            stdin=subprocess.DEVNULL,
            env={
                "HOME": str(self.aside),
                "PATH": str(self._tools()),
                "BASH_ENV": str(functions),
                "DOCS_SOCKET": str(asked),
                "DOCS_PYTHON": sys.executable,
                "DOCS_CLIENT": str(Path(__file__).with_name("client.py")),
            },
            cwd=self.world,
            capture_output=True,
            text=True,
            timeout=1800,
        )
        complaints = done.stderr.replace(f"{script}: line ", f"{self.page.name}:").strip()
        if complaints:
            self.failures.append(complaints)

    def _script(self) -> str:
        """The page as a script: lines of shell as they stand, a word for each block of Python."""
        lines: list[str] = []
        for block in self.blocks.values():
            if block.file is None and block.language in (*SHELL, "python"):
                lines += [""] * (block.line - 1 - len(lines))
                lines += (
                    block.text.splitlines()
                    if block.language in SHELL
                    else [f"'{_BLOCK}' {block.line}"]
                )
            elif block.file is not None:
                path = self.world / block.file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.text + "\n", encoding="utf-8")
        return "\n".join(lines) + "\n"

    def _tools(self) -> Path:
        """A folder with the programs that run as they stand."""
        tools = self.aside / "tools"
        tools.mkdir()
        for name in EVERYWHERE - {"curl"}:
            if path := shutil.which(name):
                (tools / name).symlink_to(path)
        return tools

    def _serve(self, listener: socket.socket) -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rw") as stream:
            asked = json.loads(stream.readline())
            status, out = 1, ""
            try:
                status, out, error = self._run(asked)
                if status:
                    self._fail(asked, error)
            except Exception as error:
                self._fail(asked, repr(error))
            stream.write(json.dumps({"status": status, "out": out}) + "\n")

    def _fail(self, asked: Mapping[str, Any], error: str) -> None:
        said = [line for line in error.strip().splitlines() if line.strip()]
        command = Command(self.page.name, asked["line"], tuple(asked["words"]))
        self.failures.append(f"{command}\n    {said[-1] if said else 'no word why'}")

    def _run(self, asked: Mapping[str, Any]) -> tuple[int, str, str]:
        """Status, output and errors of a command."""
        words, cwd = tuple(asked["words"]), Path(asked["cwd"])
        if words[0] == _BLOCK:
            return self._run_block(int(words[1]))
        own = {
            name: value
            for name, value in asked["environment"].items()
            if name not in ("PATH", "PWD", "OLDPWD", "SHLVL", "_") and "DOCS_" not in name
        }
        own.pop("BASH_ENV", None)
        command = Command(self.page.name, asked["line"], words, own)
        rule = rule_of(command)
        if rule is None:
            return 1, "", "no rule knows it"
        if rule.reason(command):
            return 0, "", ""

        self.ran.append(str(command))
        if rule.name == "ours":
            return self._run_ours(command, cwd)
        if rule.name == "benchmark":
            module, *arguments = words[2:]
            return self._finished(_PARSED, [module, *arguments], cwd, own)
        if rule.name == "python -c":
            return self._run_python(words[2], cwd)
        return self._run_tool(command, cwd)

    def _run_ours(self, command: Command, cwd: Path) -> tuple[int, str, str]:
        found = of_ours(command.words)
        assert found is not None
        module, arguments = found
        if module == "align_train.serve" and not {"--help", "--cfg"} & set(arguments):
            return self._run_server(arguments, cwd)
        self._make_room(module, arguments, cwd)
        ours = smaller(module, arguments)
        return self._finished(module, ours, cwd, command.environment)

    def _finished(
        self, module: str, arguments: list[str], cwd: Path, environment: dict[str, str]
    ) -> tuple[int, str, str]:
        variables: Any = environment  # else they might be taken for `start`'s own options
        return _streams(start(*arguments, cwd=cwd, module=module, **variables))

    def _make_room(self, module: str, arguments: list[str], cwd: Path) -> None:
        """Removes what the world has where this page makes its own, the first time it does."""
        for word in arguments:
            key, _, value = word.partition("=")
            path = Path(value)
            if module == "align_train" and key == "name" and value != "demo":
                path = Path("outputs", value)
            elif key != "to":
                continue
            if value and path not in self.made and not path.is_absolute():
                self.made.add(path)
                shutil.rmtree(cwd / path, ignore_errors=True)

    def _run_server(self, arguments: list[str], cwd: Path) -> tuple[int, str, str]:
        port = free_port()
        words = [word for word in arguments if not word.startswith("port=")]
        server = start(*words, f"port={port}", cwd=cwd, module="align_train.serve")
        if not _is_up(server, port):
            _stop(server)
            return 1, "", _streams(server)[2]
        if self.server is None:
            self.server, self.port = server, port
        else:
            _stop(server)
        return 0, "", ""

    def _run_tool(self, command: Command, cwd: Path) -> tuple[int, str, str]:
        """A program of the system; its server is the one of this page."""
        words = [self._with_port(word) for word in command.words]
        done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=120)
        failed = done.returncode or ('"detail"' in done.stdout and done.stdout)
        return int(bool(failed)), done.stdout, done.stderr or str(failed)

    def _run_block(self, line: int) -> tuple[int, str, str]:
        before = [
            block.text
            for block in self.blocks.values()
            if block.language == "python" and block.file is None and block.line <= line
        ]
        return self._run_python("\n".join(before), self.world)

    def _run_python(self, text: str, cwd: Path) -> tuple[int, str, str]:
        name = f"block_of_page_{len(list(cwd.glob('block_of_page_*')))}"
        (cwd / f"{name}.py").write_text(self._with_port(text) + "\n")
        return _streams(start(cwd=cwd, module=name))

    def _with_port(self, text: str) -> str:
        return re.sub(rf"\b(localhost|127\.0\.0\.1):{_PORT}\b", rf"\1:{self.port}", text)


_PARSED = "tests.support.docs.parsed"


def _is_up(server: Started, port: int) -> bool:
    """Waits until a server answers, or ends."""
    deadline = time.monotonic() + 120
    while server.poll() is None and time.monotonic() < deadline:
        with suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/openapi.json", timeout=5)
            return True
        time.sleep(0.1)
    return False


def _stop(server: Started) -> None:
    if server.poll() is None:
        with suppress(ProcessLookupError):
            os.kill(server.pid, signal.SIGINT)
        finish(server, timeout=60)


def _streams(process: Started) -> tuple[int, str, str]:
    done = finish(process, timeout=900)
    return done.returncode, done.stdout, done.stderr
