"""The headers of a request: decoded, and checked before the body is read."""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Iterable, Mapping

from align_train.errors import shown
from align_train.serving.refused import Refused


def decoded(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers by their names, which ASGI gives in lower case."""
    # ASGI gives bytes. Latin-1 has a letter for each, so decoding never fails.
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}


def check_host(host: str) -> None:
    """Refuses a foreign name: its owner lets it lead to this machine, and reads the answers.

    A browser takes a page of evil.example for one of the server's, once evil.example has the
    address 127.0.0.1 (DNS rebinding).

    Args:
        host: The header `Host`; empty: there is none.

    Raises:
        Refused: It is a name other than localhost.
    """
    # `[::1]` has colons of its own: only digits after the last one are a port.
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    name = name.strip("[]").lower().rstrip(".")

    # Browsers always send a Host, and only a browser can be led here by a foreign name.
    if name in ("", "localhost") or name.endswith(".localhost"):
        return
    try:
        ipaddress.ip_address(name)
    except ValueError:
        raise Refused(
            f"Host: {shown(host, 80)}: expected localhost or an address; the server may be told "
            f"token_from=…, or of a proxy before it, proxy=…",
            code=403,
        ) from None


def check_kind(headers: Mapping[str, str]) -> None:
    """Checks that a question is JSON, and not packed.

    Args:
        headers: By their names.

    Raises:
        Refused: It is something else.
    """
    # Packed bodies can hold a thousand times their size.
    packed = headers.get("content-encoding", "identity")
    if packed.lower() != "identity":
        raise Refused("Content-Encoding: expected none; send the body as it is", code=415)

    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused("Content-Type: expected application/json", code=415)


def token_of(authorization: str) -> bytes:
    """The token of `Bearer TOKEN`, or of `Basic`, whose user may be anybody; empty if none is."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        # Back to the bytes that came, see `decoded`: a token may hold any letters.
        return value.strip().encode("latin-1")
    if scheme.lower() == "basic":
        try:
            # `validate`: Python would pass over all letters that are not base64.
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return b""
    return b""
