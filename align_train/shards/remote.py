"""Remote places: the file systems of fsspec, and the meaning of their errors.

Each store raises errors of its own kinds. Here they are sorted into three: the file is missing, the
source refuses for good, or anything else, after which another attempt may help.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from align_train.errors import UserError, one_line, shown

_SECONDS_TO_CONNECT = 60
_LONGEST_REASON = 200  # characters of an error that a message quotes

# The option of fsspec's file system that goes to its session of aiohttp. S3's library reads the
# environment by itself.
_WEB = ("http", "https")
_SESSION_OF = {
    **dict.fromkeys(_WEB, "client_kwargs"),
    "gs": "session_kwargs",
    "gcs": "session_kwargs",
}


# Both, so that callers can go on without the file, and a user reads one line otherwise.
class Vanished(UserError, FileNotFoundError):
    """A file is not (or no longer) at its place.

    Attributes:
        shard: The shard's index in its manifest; -1 if it is not known.
    """

    shard = -1


class Stalled(Exception):
    """An attempt was given up; says after how long."""


def is_url(path: str) -> bool:
    """Whether this is a URL, not a plain path."""
    return "://" in path


def filesystem(url: str, options: Mapping[str, object], *, anew: bool) -> tuple[Any, str]:
    """Opens the file system of a URL.

    Args:
        url: A URL, or a plain path.
        options: For the file system of fsspec (`data.storage_options`).
        anew: Whether to make a file system object of its own, not a shared one: the connections of
            the shared one may be stuck.

    Returns:
        The file system, and the path within it.

    Raises:
        UserError: A package is missing, or fsspec does not take the URL or the options.
    """
    import fsspec  # asyncio comes with it, a tenth of a second

    settings = _with_session(url, options)
    if anew:
        settings["skip_instance_cache"] = True

    try:
        fs, path = fsspec.core.url_to_fs(url, **settings)
        # Otherwise an old listing would answer for a file that came or went since.
        fs.invalidate_cache()
    except ImportError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{url}: {reason} (pip install 'align_train[cloud]' for s3 and gs)"
        ) from None
    except (ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{url}: fsspec cannot open it ({reason}); check data.storage_options"
        ) from None
    return fs, path


def _with_session(url: str, options: Mapping[str, object]) -> dict[str, Any]:
    """The options, with those of the session of aiohttp that the user has left open."""
    settings: dict[str, Any] = dict(options)
    protocol = url.partition("://")[0]
    key = _SESSION_OF.get(protocol)
    if key is None:
        return settings

    given = settings.get(key) or {}
    if not isinstance(given, Mapping):
        raise UserError(
            f"data.storage_options.{key}={shown(given)}: expected settings, e.g. "
            f"{{trust_env:false}}"
        )

    # By itself aiohttp does not read http_proxy, https_proxy and no_proxy.
    session: dict[str, Any] = {"trust_env": True}
    if protocol in _WEB:
        import aiohttp

        # aiohttp's own limit is 300 s for a whole file. We judge by progress instead.
        session["timeout"] = aiohttp.ClientTimeout(total=None, sock_connect=_SECONDS_TO_CONNECT)
    settings[key] = session | dict(given)
    return settings


def stored_size(fs: Any, path: str) -> int | None:
    """The size of a stored file in bytes; None if the store does not say."""
    size: int | None = fs.info(path).get("size")
    return size


def reason_of(error: BaseException) -> str:
    """An error's type and text, short, in one line."""
    return one_line(f"{type(error).__name__}: {error}", _LONGEST_REASON)


def is_refusal(error: Exception) -> bool:
    """Whether the source refuses: credentials that are missing or wrong do not mend themselves."""
    if isinstance(error, PermissionError) or getattr(error, "status", None) in (401, 403):
        return True
    # botocore is no dependency, so its errors are known by name.
    return type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError")


def is_missing(error: FileNotFoundError) -> bool:
    """Whether the store really said that the file does not exist.

    fsspec raises FileNotFoundError for any failed HTTP request, with the real error as its cause.
    """
    cause = error.__cause__
    unreachable = isinstance(cause, OSError) or type(cause).__module__.startswith("aiohttp")
    return not unreachable or getattr(cause, "status", None) == 404
