"""Memory and CPU time of processes, read from Linux's /proc.

Only the standard library is imported: the peers' loaders are measured by this file as well, each
inside its own environment.

PSS is the memory of a process in which a page that n processes share counts 1/n. Mapped files,
which are the libraries' code, are left out. Their pages are shared with all other programs of the
machine, so that the figures would depend on those programs.
"""

from __future__ import annotations

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")  # a second

_KIB = 1024


def process_tree() -> list[int]:
    """Returns the process ids of this process, its children, their children and so on."""
    tree = [os.getpid()]

    # The list grows while the loop walks along it.
    for pid in tree:
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                children = path.read_text().split()
            except OSError:  # the process has ended meanwhile
                continue
            tree.extend(int(child) for child in children)
    return tree


def rollup_bytes(pid: int) -> dict[str, int]:
    """Returns the fields of a process's `smaps_rollup` in bytes.

    Raises:
        OSError: The process has ended.
    """
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    sizes = {}
    for line in lines[1:]:  # the first one is the range of addresses
        field, kib, *_ = line.split()
        sizes[field.removesuffix(":")] = int(kib) * _KIB
    return sizes


def memory_now() -> int:
    """Returns the PSS of the process tree in bytes, without mapped files."""
    total = 0
    for pid in process_tree():
        try:
            sizes = rollup_bytes(pid)
        except OSError:
            continue
        total += sizes.get("Pss_Anon", 0)
        total += sizes.get("Pss_Shmem", 0)
    return total


def cpu_seconds() -> float:
    """Returns the user and system time of the process tree so far, of all threads."""
    ticks = 0
    for pid in process_tree():
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue
        # A name in parentheses may hold spaces; what follows the last one is regular.
        fields = stat.rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS


def status_bytes(field: str) -> int:
    """Returns a field of this process's status in bytes.

    Args:
        field: `VmRSS`, the resident set, or `VmHWM`, its peak.
    """
    return _field_of(Path("/proc/self/status"), field)


def reset_peak() -> None:
    """Sets this process's peak (`VmHWM`) back to its present memory."""
    Path("/proc/self/clear_refs").write_text("5")


def free_bytes() -> int:
    """Returns the memory of the machine that programs can still take."""
    return _field_of(Path("/proc/meminfo"), "MemAvailable")


def _field_of(path: Path, field: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * _KIB
    raise ValueError(f"{path}: no line {field}; expected Linux's")
