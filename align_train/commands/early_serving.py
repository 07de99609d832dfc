"""Mistakes in the settings of `serve`, found before torch is imported."""

from __future__ import annotations

import ipaddress
import os
import socket
from importlib.util import find_spec
from pathlib import Path

from align_train.commands.early import look_for_device
from align_train.commands.named_models import look_for_model
from align_train.config.serve_schema import ServeSettings
from align_train.errors import UserError, shown
from align_train.index.settings import refuse_absent_collection

_EXTRA = ("fastapi", "uvicorn", "prometheus_client", "gradio")
_LEAST_TOKEN = 8  # characters

_LOOPBACK = ("127.", "::1", "localhost")


def look_before_serving(settings: ServeSettings) -> None:
    """Looks for the libraries, the models, the collection, the token and the port.

    Args:
        settings: The command's settings.

    Raises:
        UserError: One of them is not there, or a number is out of range.
    """
    refuse_without_extra()
    _check_numbers(settings)
    for path in paths_of(settings):
        look_for_model(path)
    if settings.index is not None:
        refuse_absent_collection(Path(settings.index).expanduser().absolute())
    look_for_device(settings.device)
    _check_proxy(settings.proxy)
    token_of(settings)
    # Only a look: `serve` takes the port for good, before it loads the models.
    listening(settings).close()


def refuse_without_extra() -> None:
    """Refuses to serve if a library of the extra `serve` is missing; imports none of them."""
    missing = [name for name in _EXTRA if find_spec(name) is None]
    if missing:
        raise UserError(
            f"serve wants {', '.join(missing)}, which is not installed: "
            f"pip install 'align_train[serve]'"
        )


def paths_of(settings: ServeSettings) -> list[str]:
    """The models' paths, one or several.

    Raises:
        UserError: There is none.
    """
    paths = settings.model if isinstance(settings.model, list) else [settings.model]
    if not paths or not all(isinstance(path, str) and path for path in paths):
        raise UserError(f"model={shown(settings.model)}: expected a path, or a list of paths")
    return [str(path) for path in paths]


def token_of(settings: ServeSettings) -> str | None:
    """The token, from the environment variable that the setting names; None: there is none.

    Raises:
        UserError: The variable is not set, or holds no token. The line never shows it.
    """
    name = settings.token_from
    if name is None:
        return None
    token = os.environ.get(name, "")
    # A short token can be guessed, and other characters would not survive in a header.
    if len(token) < _LEAST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        what = "is not set" if not token else "holds no token"
        raise UserError(
            f"token_from={shown(name)}: this environment variable {what}; expected at least "
            f"{_LEAST_TOKEN} letters and digits in it"
        )
    return token


def is_loopback(host: str) -> bool:
    """Whether only this machine can ask.

    Args:
        host: The setting.
    """
    return host.startswith(_LOOPBACK)


def listening(settings: ServeSettings) -> socket.socket:
    """Takes the port.

    Args:
        settings: The command's settings.

    Returns:
        A socket that has the port, and does not listen yet.

    Raises:
        UserError: The address is none of this machine's, or another process has the port.
    """
    where = f"host={shown(settings.host)} port={settings.port}"
    try:
        # The address itself decides between IPv4 and IPv6.
        family, kind, _, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise UserError(f"{where}: no such address; expected 127.0.0.1, 0.0.0.0, …") from None

    taken = socket.socket(family, kind)
    # Ports of connections that have ended count as free.
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind(address)
        # Two may bind a port that nobody listens on; the second to listen fails.
        taken.listen()
    except OSError as error:
        taken.close()
        raise UserError(f"{where}: {error.strerror}; give another host=… or port=…") from None
    return taken


def _check_proxy(proxy: str | None) -> None:
    # A name would be compared with addresses, and `*` would believe everybody: rates for nobody.
    for address in [] if proxy is None else proxy.split(","):
        try:
            ipaddress.ip_network(address.strip())
        except ValueError:
            raise UserError(
                f"proxy={shown(proxy)}: expected the proxy's address, e.g. 127.0.0.1 or 10.0.0.0/8"
            ) from None


def _check_numbers(settings: ServeSettings) -> None:
    for key in (
        "chunk_size",
        "most_waiting",
        "max_bytes",
        "max_pixels",
        "max_images",
        "max_texts",
        "max_characters",
        "max_top",
        "max_requests",
    ):
        if getattr(settings, key) < 1:
            raise UserError(f"{key}={getattr(settings, key)}: expected at least 1")
    for key in ("receive_seconds", "answer_seconds", "rate"):
        value = getattr(settings, key)
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"{key}={value}: expected a finite number above 0")
    if not 0 <= settings.wait_ms <= 1000:
        raise UserError(f"wait_ms={settings.wait_ms}: expected 0 to 1000 milliseconds")
    if settings.approximate_from < 0:
        raise UserError(f"approximate_from={settings.approximate_from}: expected at least 0 images")
    if not 0 <= settings.port <= 65535:
        raise UserError(f"port={settings.port}: expected 0 to 65535")
    # A request waits chunk by chunk: its first one must fit into an empty queue.
    least = min(settings.chunk_size, max(settings.max_images, settings.max_texts))
    if settings.most_waiting < least:
        raise UserError(
            f"most_waiting={settings.most_waiting}: expected at least {least}, a chunk of one "
            f"request; raise it, or lower chunk_size={settings.chunk_size}"
        )
