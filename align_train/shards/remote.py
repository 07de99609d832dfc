"""Remote places: the file systems of fsspec, and the meaning of their errors.

Each store raises errors of its own kinds. Here they are sorted into three: the file is missing, the
source refuses for good, or anything else, after which another attempt may help. A source may also
say when it will answer again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from align_train.errors import UserError, one_line, shown
from align_train.shards.file_system import FileSystem
from align_train.shards.hub import Address, headers, is_hub, is_offline

_SECONDS_TO_CONNECT = 60
_LONGEST_REASON = 200  # characters of an error that a message quotes

# We try again ourselves. These libraries would do so within the time that a store asks to wait.
_S3 = ("s3://", "s3a://")
_ONCE = {"total_max_attempts": 1}

_BUSY = (429, 503)
_SECONDS = re.compile(r"\d{1,9}")
_RESET = re.compile(r"\bt=(\d{1,9})\b")  # of RateLimit: "resolvers";r=0;t=55

# The option of fsspec's file system that goes to its session of aiohttp. S3's library reads the
# environment by itself.
_WEB = ("http", "https")
_SESSION_OF = {
    **dict.fromkeys(_WEB, "client_kwargs"),
    "gs": "session_kwargs",
    "gcs": "session_kwargs",
}

# Errors of aiohttp.
_NOWHERE = ("InvalidUrlClientError", "TooManyRedirects", "NonHttpUrlRedirectClientError")


# Both, so that callers can go on without the file, and a user reads one line otherwise.
class Vanished(UserError, FileNotFoundError):
    """A file is not (or no longer) at its place.

    Attributes:
        shard: The shard's index in its manifest; -1 if it is not known.
    """

    shard = -1


class Unreachable(UserError):
    """A source has not answered, or by errors only."""


class Stalled(Exception):
    """An attempt was given up; says after how long."""


def is_url(path: str) -> bool:
    """Whether this is a URL, not a plain path."""
    return "://" in path


def filesystem(url: str, options: Mapping[str, object], *, anew: bool) -> tuple[FileSystem, str]:
    """Opens the file system of a URL.

    Args:
        url: A URL, or a plain path.
        options: For the file system of fsspec (`data.storage_options`).
        anew: Whether to make a file system object of its own, not a shared one: the connections of
            the shared one may be stuck.

    Returns:
        The file system, and the path within it.

    Raises:
        UserError: This is no URL, a package is missing, or fsspec does not take the options.
    """
    _check_url(url)
    import fsspec  # asyncio comes with it, a tenth of a second

    if is_hub(url):
        address = Address.parse(url)
        options = _with_token(address, options)
        url = address.download
    settings = _with_session(url, options)
    is_s3 = url.startswith(_S3)
    if is_s3:
        given = settings.get("config_kwargs") or {}
        if isinstance(given, Mapping):
            settings["config_kwargs"] = {"retries": _ONCE, **given}
    if anew:
        settings["skip_instance_cache"] = True

    try:
        fs, path = fsspec.core.url_to_fs(url, **settings)
        # Otherwise an old listing would answer for a file that came or went since.
        fs.invalidate_cache()
        if is_s3:
            fs.retries = 1
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


def _check_url(url: str) -> None:
    """Refuses a URL that no server can have: attempts would not mend it."""
    if url.partition("://")[0] not in _WEB:
        return
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna").decode("idna")
        names_a_server = host != "" and parts.port != 0
    except ValueError as error:
        raise UserError(f"{url}: no URL ({one_line(error, _LONGEST_REASON)})") from None
    if not names_a_server:
        raise UserError(f"{url}: no URL (it names no server)")


def _with_token(address: Address, options: Mapping[str, object]) -> dict[str, object]:
    """The options, with the headers that the hub wants."""
    if is_offline():
        raise UserError(
            f"{address.url}: not in the shard cache, and HF_HUB_OFFLINE is set; unset it, or fetch "
            f"the data set before"
        )
    if "token" in options:
        raise UserError(
            "data.storage_options.token: settings are written to the run's folder; set HF_TOKEN "
            "in the environment, or run hf auth login"
        )
    given = options.get("headers")
    own = given if isinstance(given, Mapping) else {}
    return {**options, "headers": {**headers(), **own}}


def _with_session(url: str, options: Mapping[str, object]) -> dict[str, object]:
    """The options, with those of the session of aiohttp that the user has left open."""
    settings: dict[str, object] = dict(options)
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
    session: dict[str, object] = {"trust_env": True}
    if protocol in _WEB:
        import aiohttp

        # aiohttp's own limit is 300 s for a whole file. We judge by progress instead.
        session["timeout"] = aiohttp.ClientTimeout(total=None, sock_connect=_SECONDS_TO_CONNECT)
    settings[key] = session | dict(given)
    return settings


def stored_size(fs: FileSystem, path: str) -> int | None:
    """The size of a stored file in bytes; None if the store does not say."""
    return fs.info(path).get("size")


def reason_of(error: BaseException) -> str:
    """An error's type and text, short, in one line."""
    status, _ = _answer(error)
    message = getattr(error, "message", None)
    # Not the URL of the error: it is long, and a redirect's has a signature that lets anyone in.
    if status is not None and isinstance(message, str):
        # A loop of redirects has the status 0.
        return one_line(f"{status or type(error).__name__} {message}", _LONGEST_REASON).strip()
    return one_line(f"{type(error).__name__}: {error}", _LONGEST_REASON)


def is_answer(error: BaseException) -> bool:
    """Whether a server has answered, by a status."""
    return _answer(behind(error))[0] is not None


def is_refusal(error: BaseException) -> bool:
    """Whether the source refuses: credentials that are missing or wrong do not mend themselves."""
    if isinstance(error, PermissionError) or getattr(error, "status", None) in (401, 403):
        return True
    # botocore is no dependency, so its errors are known by name.
    return type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError")


def is_hopeless(error: BaseException) -> bool:
    """Whether no attempt can mend it: options that the library lacks, or redirects to nowhere."""
    # By name: aiohttp is slow to import.
    return isinstance(error, TypeError) or type(error).__name__ in _NOWHERE


def refusal(url: str, error: BaseException) -> UserError:
    """The error of a source that refuses, or that no attempt can mend.

    Args:
        url: The file.
        error: The source's own.
    """
    if isinstance(error, TypeError):
        return UserError(
            f"{url}: fsspec cannot open it ({reason_of(error)}); check data.storage_options"
        )
    if is_hopeless(error):
        return UserError(f"{url}: cannot be fetched ({reason_of(error)}); check the URL")
    if is_hub(url):
        return UserError(Address.parse(url).refusal(_answer(error)[0]))
    return UserError(
        f"{url}: the source refuses ({reason_of(error)}); check the credentials (environment, "
        f"data.storage_options)"
    )


def is_missing(error: FileNotFoundError) -> bool:
    """Whether the store really said that the file does not exist.

    fsspec raises FileNotFoundError for any failed HTTP request, with the real error as its cause.
    """
    cause = error.__cause__
    # Errors of the network, or of aiohttp itself, say nothing about the file; only a 404 does.
    unreachable = isinstance(cause, OSError | TypeError) or type(cause).__module__.startswith(
        "aiohttp"
    )
    return not unreachable or getattr(cause, "status", None) == 404


def behind(error: BaseException) -> BaseException:
    """The error that a file system of fsspec has wrapped in a FileNotFoundError, or the same."""
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        return error.__cause__
    return error


def told_to_wait(error: BaseException) -> tuple[float, str] | None:
    """How long a source that has too much to do wants to be left alone.

    Args:
        error: An error of a file system of fsspec.

    Returns:
        Seconds above 0, and the reason; None if the source does not say.
    """
    for each in (error, error.__cause__):
        status, fields = _answer(each)
        if status in _BUSY and (seconds := _seconds_to_wait(fields)) > 0:
            assert each is not None
            return seconds, reason_of(each)
    return None


def _answer(error: BaseException | None) -> tuple[int | None, Mapping[str, str]]:
    """The status and headers of the HTTP answer behind an error; None if there is no answer."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        # Botocore's.
        about = response.get("ResponseMetadata", {})
        return about.get("HTTPStatusCode"), about.get("HTTPHeaders", {})
    return getattr(error, "status", None), getattr(error, "headers", None) or {}


def _seconds_to_wait(fields: Mapping[str, str]) -> float:
    """The seconds that an answer's headers give; 0 if they give none."""
    given = fields.get("retry-after", "").strip()
    if _SECONDS.fullmatch(given):
        return float(given)
    if given:
        until = _date(given)
        # By the server's own clock, if it shows that: ours may be wrong.
        now = _date(fields.get("date", "")) or time.time()
        return max(until - now, 0.0) if until else 0.0

    # The hub's way.
    found = _RESET.search(fields.get("ratelimit", ""))
    return float(found[1]) if found else 0.0


def _date(text: str) -> float | None:
    """An HTTP date in seconds since 1970; None if it is none."""
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
