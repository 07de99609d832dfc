"""`align-train serve` under 32 clients at once, against the model alone in batches.

    python -m benchmarks.serving --model outputs/demo [--clients 32] [--requests 20]

The server is a process of its own, asked over HTTP by threads of this one; both share the machine's
cores, so that the clients' JSON counts against the server. Each request has one image (a JPEG of
500 x 375 pixels in base64), or one text of its own that no request had before. *alone* embeds the
same files and texts in one process by `align_train.load`, 32 at a time, decoding included. p50 and
p99 are milliseconds of a request as its client sees them. If other work shares the machine, speeds
depend on it; the CPU's milliseconds an item, of the server or of *alone*, hardly do.

Rounds alternate; each figure is the median of `--rounds`. Price: some minutes on two cores.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.serving.alone import jpegs, texts
from benchmarks.shared.children import REPOSITORY, json_of
from benchmarks.shared.command_line import parser_of, refuse_no_rounds

KINDS = ("images", "texts")
JSON = {"Content-Type": "application/json"}

_COMMAND = (sys.executable, "-m", "align_train.serve", "port=0", "rate=null")


@dataclass(frozen=True)
class Figures:
    """Of one round: items a second, milliseconds of a request, answers that are no 200."""

    per_second: float
    cpu_ms: float  # of the server, an item
    p50: float
    p99: float
    errors: int


@dataclass(frozen=True)
class Running:
    """A server's process."""

    port: int
    pid: int

    def cpu_seconds(self) -> float:
        # The name in brackets may hold spaces.
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(model: str, *words: str) -> Iterator[Running]:
    """A server that answers."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [*_COMMAND, f"model={model}", *words],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            while not (line := process.stdout.readline()).startswith("http://"):
                if not line:
                    raise SystemExit("the server has ended")
            yield Running(int(line.split()[0].rsplit(":", 1)[1]), process.pid)
        finally:
            process.terminate()
            process.wait()


def bodies_of(kind: str, count: int, first: int) -> list[bytes]:
    if kind == "texts":
        return [json.dumps({"texts": [text]}).encode() for text in texts(count, first)]
    files = jpegs()
    encoded = [base64.b64encode(file).decode() for file in files]
    return [json.dumps({"images": [encoded[n % len(encoded)]]}).encode() for n in range(count)]


def asked(server: Running, bodies: list[bytes], clients: int) -> Figures:
    """All clients ask at once, each over a connection of its own that stays open."""

    def client(own: list[bytes]) -> list[tuple[float, int]]:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
        answers = []
        for body in own:
            begun = time.perf_counter()
            connection.request("POST", "/embed", body, JSON)
            answer = connection.getresponse()
            answer.read()
            answers.append((time.perf_counter() - begun, answer.status))
        connection.close()
        return answers

    cpu = server.cpu_seconds()
    begun = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        of_clients = list(pool.map(client, [bodies[n::clients] for n in range(clients)]))
    seconds = time.perf_counter() - begun
    cpu_ms = 1000 * (server.cpu_seconds() - cpu) / len(bodies)

    answers = [answer for own in of_clients for answer in own]
    milliseconds = [1000 * taken for taken, _ in answers]
    errors = sum(status != 200 for _, status in answers)
    p50, p99 = np.percentile(milliseconds, [50, 99])
    return Figures(len(bodies) / seconds, cpu_ms, float(p50), float(p99), errors)


def main() -> None:
    parser = parser_of("serving", __doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=20, help="of each client in a round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    refuse_no_rounds(options.rounds)
    model = str(Path(options.model).resolve())
    count = options.clients * options.requests

    found: dict[tuple[str, str], list[Figures]] = {}
    alone: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    first = 0
    with serving(model) as usual, serving(model, "wait_ms=0") as hasty:
        servers = {"wait_ms=5": usual, "wait_ms=0": hasty}
        for server in servers.values():
            for kind in KINDS:
                asked(server, bodies_of(kind, 2 * options.clients, first), options.clients)
                first += count
        for _ in range(options.rounds):
            for kind in KINDS:
                alone[kind].append(json_of("benchmarks.serving.alone", model, kind, str(count)))
                for name, server in servers.items():
                    figures = asked(server, bodies_of(kind, count, first), options.clients)
                    found.setdefault((kind, name), []).append(figures)
                    first += count

    print(f"{options.clients} clients, {options.requests} requests each; {model}")
    print(f"{'':<18}{'a second':>9}{'p50 ms':>8}{'p99 ms':>8}{'errors':>8}{'CPU ms an item':>16}")
    for kind in KINDS:
        speed = median(one["per_second"] for one in alone[kind])
        cpu = median(one["cpu_ms"] for one in alone[kind])
        print(f"{kind + ', alone':<18}{speed:>9.0f}{'':>24}{cpu:>16.1f}")
        for name in servers:
            print(row_of(f"{kind}, {name}", found[kind, name]))


def row_of(name: str, rounds: list[Figures]) -> str:
    speed = median(one.per_second for one in rounds)
    p50 = median(one.p50 for one in rounds)
    p99 = median(one.p99 for one in rounds)
    errors = sum(one.errors for one in rounds)
    cpu = median(one.cpu_ms for one in rounds)
    return f"{name:<18}{speed:>9.0f}{p50:>8.0f}{p99:>8.0f}{errors:>8}{cpu:>16.1f}"


if __name__ == "__main__":
    main()
