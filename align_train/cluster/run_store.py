"""The key-value store through which the processes of one run tell each other that they live.

Rank 0 keeps it (torch's `TCPStore`) from the run's first line to its last. Each process counts up
its own beat there, beside its name and its position in the run. The first verdict that any process
writes is the one that all processes read.

Price: one small message a process and second.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
import zlib
from collections.abc import Sequence
from dataclasses import astuple
from datetime import timedelta
from typing import Any

from torch._C._distributed_c10d import TCPStore

from align_train.cluster.position import Position
from align_train.cluster.verdict import Verdict
from align_train.errors import Lost, UserError, one_line

_PART = 4 * 2**20  # bytes of a published thing in one value
_LOOKS = 40  # while rank 0 waits for the others to leave
_LEAST_TIMEOUT = 10.0  # seconds that one request to the store may take, at least


class RunStore:
    """One process's view of the store."""

    def __init__(self, store: TCPStore, *, rank: int, processes: int) -> None:
        """Enters this process in the store; waits until rank 0 has done so too.

        Args:
            store: An open store.
            rank: This process's rank.
            processes: How many processes the run has.
        """
        self._store = store
        self._rank = rank

        if rank == 0:
            # A request for a counter that nobody has begun would wait.
            for other in range(processes):
                store.add(f"beat/{other}", 0)

        self.own_name = f"rank {rank} ({socket.gethostname()}, process {os.getpid()})"
        store.set(f"who/{rank}", self.own_name)
        store.add("came", 1)
        self.first_name = store.get("who/0").decode()

    @classmethod
    def open(
        cls,
        host: str,
        port: int,
        *,
        rank: int,
        processes: int,
        patience: float,
        silence: float,
    ) -> tuple[RunStore, int]:
        """Rank 0 starts the store, the other ranks connect to it.

        Args:
            host: The machine of rank 0.
            port: The store's port on that machine; 0 takes any that is free.
            rank: This process's rank.
            processes: How many processes the run has.
            patience: Seconds to wait for rank 0.
            silence: Seconds that one later request may take (10 at least).

        Returns:
            The store and its port.

        Raises:
            UserError: On rank 0, if the port is not free.
            Lost: On other ranks, if rank 0 cannot be reached.
        """
        try:
            store = TCPStore(
                host,
                port,
                is_master=rank == 0,
                wait_for_workers=False,  # the process group waits for all, later
                timeout=timedelta(seconds=patience),
            )
        except Exception as error:  # torch raises several kinds
            text = one_line(error, 200)
            if rank == 0:
                raise UserError(
                    f"port {port} on {socket.gethostname()} is not free ({text}); set MASTER_PORT"
                ) from None
            raise Lost(
                f"rank {rank} has not found rank 0 at {host}:{port} within {patience:g} s "
                f"(trainer.timeout): did it end before, can all machines reach that place? ({text})"
            ) from None

        store.set_timeout(timedelta(seconds=max(silence, _LEAST_TIMEOUT)))
        return cls(store, rank=rank, processes=processes), int(store.port)

    def beat(self, position: Position) -> None:
        """Gives a sign of life.

        Args:
            position: Where this process is.
        """
        self._store.set(f"state/{self._rank}", json.dumps(astuple(position)))
        self._store.add(f"beat/{self._rank}", 1)

    def beats_of(self, ranks: Sequence[int]) -> list[int]:
        """How many signs of life each of these ranks has given; 0 if it has not come yet."""
        # One request: with 1,024 ranks rank 0 would make as many in each second.
        counts = self._store.multi_get([f"beat/{rank}" for rank in ranks])
        return [int(count) for count in counts]

    def position_of(self, rank: int) -> Position | None:
        """Where a rank was at its last sign of life; None if it has given none."""
        # `get` alone would wait for a key that is missing.
        if not self._store.check([f"state/{rank}"]):
            return None
        return Position(*json.loads(self._store.get(f"state/{rank}")))

    def has_come(self, rank: int) -> bool:
        """Whether a rank has entered itself in the store."""
        return bool(self._store.check([f"who/{rank}"]))

    def name_of(self, rank: int) -> str:
        """Rank, machine and process number, e.g. `rank 1 (node7, process 1234)`."""
        if not self.has_come(rank):
            return f"rank {rank}"
        return self._store.get(f"who/{rank}").decode()

    def propose(self, message: str, *, status: int, printed: bool = False) -> Verdict:
        """Writes a verdict, unless some process already has.

        Args:
            message: See `Verdict`.
            status: See `Verdict`.
            printed: See `Verdict`.

        Returns:
            The verdict that stands.
        """
        # Atomic: if two processes blame each other, all believe the first.
        verdict = {"message": message, "status": status, "printed": printed}
        standing = self._store.compare_set("verdict", "", json.dumps(verdict))
        return Verdict(**json.loads(standing))

    def verdict(self) -> Verdict | None:
        """The run's verdict; None while the run goes on."""
        if not self._store.check(["verdict"]):
            return None
        return Verdict(**json.loads(self._store.get("verdict")))

    def ask_to_stop(self, number: int) -> None:
        """Tells all ranks that a signal has come to this one.

        Args:
            number: The signal's number.
        """
        self._store.compare_set("stop", "", str(number))

    def asked_to_stop(self) -> int:
        """The signal that has come to some rank; 0: none has."""
        return int(self._store.get("stop")) if self._store.check(["stop"]) else 0

    def publish(self, key: str, made: dict[str, object]) -> None:
        """Rank 0 hands a dict of plain lists, dicts, texts and numbers to the other ranks."""
        packed = zlib.compress(json.dumps(made).encode(), level=1)
        # The store takes neither long keys nor values of more than 8 MiB.
        name = f"made/{_hash(key)}"
        parts = range(0, len(packed), _PART)
        for number, start in enumerate(parts):
            part = packed[start : start + _PART]
            self._store.set(f"{name}/{number}", part)  # type: ignore[arg-type]
        self._store.set(name, str(len(parts)))

    def published(self, key: str) -> dict[str, Any] | None:
        """The dict that rank 0 handed out; None until it has."""
        name = f"made/{_hash(key)}"
        if not self._store.check([name]):
            return None
        parts = range(int(self._store.get(name)))
        packed = b"".join(self._store.get(f"{name}/{number}") for number in parts)
        made: dict[str, Any] = json.loads(zlib.decompress(packed))
        return made

    def finish_first(self) -> None:
        """Rank 0 has done all of its work."""
        self._store.set("first is done", "")

    def first_is_done(self) -> bool:
        """Whether rank 0 has done all of its work."""
        return bool(self._store.check(["first is done"]))

    def leave(self) -> None:
        """Counts this process among those that need the store no longer."""
        self._store.add("left", 1)

    def wait_for_others(
        self, processes: int | None, *, patience: float, patience_if_coming: float
    ) -> None:
        """Rank 0 waits until the others have left: its end is the store's end.

        Args:
            processes: How many will come; None: only those that have come.
            patience: Seconds to wait at most.
            patience_if_coming: The same while some have not even come.
        """
        still_coming = processes is not None and self._count("came") < processes
        deadline = time.monotonic() + (patience_if_coming if still_coming else patience)

        while time.monotonic() < deadline:
            expected = self._count("came") if processes is None else processes
            if self._count("left") >= expected:
                return
            time.sleep(patience / _LOOKS)

    def _count(self, key: str) -> int:
        # `get` would wait for a counter that nobody has begun.
        return int(self._store.add(key, 0))


def _hash(key: str) -> str:
    # Names of files need not be UTF-8.
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
