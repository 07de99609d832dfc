from __future__ import annotations

import random
import socket

# Below those that the kernel gives to connections (32768 and more): such a port may be taken in the
# seconds before a test uses it. Above those of Slurm's jobs (launch/environment.sh).
_FIRST, _LAST = 30_000, 32_766
_ANY = random.SystemRandom()  # no test may seed it: processes of one seed would meet


def free_ports(count: int) -> list[int]:
    """Free ports, one after the other, on this machine."""
    while True:
        first = _ANY.randrange(_FIRST, _LAST - count)
        ports = list(range(first, first + count))
        if all(_is_free(port) for port in ports):
            return ports


def free_port() -> int:
    """A free port; the next one is free, too, for the watchdog's store."""
    return free_ports(2)[0]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # Ports of connections that have ended count as free, as for servers.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True
