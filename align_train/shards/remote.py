from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from align_train.errors import UserError


class Vanished(UserError, FileNotFoundError):
    """A file that is not (or no longer) where it should be. shard: its number, where it is known."""

    shard = -1


class Stalled(Exception):
    """An attempt was given up; says after how long."""


def is_url(place: str) -> bool:
    return "://" in place


def filesystem(url: str, options: Mapping[str, Any], *, anew: bool) -> tuple[Any, str]:
    """anew: a filesystem object of its own: the last one's connections may be stuck."""
    import fsspec

    settings = dict(options)
    if url.startswith(("http://", "https://")):
        import aiohttp

        # Its own limit is 300 s for a whole file; how long a file takes is ours to judge.
        limits = aiohttp.ClientTimeout(total=None, sock_connect=60)
        settings["client_kwargs"] = {"timeout": limits, **settings.get("client_kwargs", {})}
    try:
        fs, path = fsspec.core.url_to_fs(
            url, **settings, **({"skip_instance_cache": True} if anew else {})
        )
        fs.invalidate_cache()  # or a listing of before answers for a file that has gone or come since
    except ImportError as error:
        raise UserError(
            f"{url}: {str(error).splitlines()[0]} (pip install 'align_train[cloud]' for s3 and gs)"
        ) from None
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{url}: fsspec cannot open it ({str(error).splitlines()[0]}); check data.storage_options"
        ) from None
    return fs, path


def size_there(fs: Any, path: str) -> int | None:
    """What the store says that a file has; None where it does not tell."""
    size: int | None = fs.info(path).get("size")
    return size


def spelt(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def is_refusal(error: Exception) -> bool:
    """Credentials that are missing or wrong do not mend themselves."""
    refused = isinstance(error, PermissionError) or getattr(error, "status", None) in (401, 403)
    return refused or type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError")
