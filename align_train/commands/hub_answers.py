"""The hub's refusals in one line each; those that pass are waited for.

An error is final (the token, a right, a name, a limit) or passes by itself (too many requests, a
server that is down, a connection that is cut). The token is in no line, whatever a server or a
library may say.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from align_train.errors import UserError, one_line

Result = TypeVar("Result")

# Seconds before the next try. The library itself tries most requests six times.
_PAUSES = (1.0, 3.0, 9.0)
_LONGEST_WAIT = 600.0  # seconds that a server may ask for
_REASON = 160  # characters of an answer

_PASSING = (408, 429, 500, 502, 503, 504)

# Of httpx or httpx2, by the library's version: neither is imported for its classes.
_CONNECTION = {"TransportError", "NetworkError", "TimeoutException", "RemoteProtocolError"}

# Of these it is one, though no further try mends it: HF_ENDPOINT has no `http://` or `https://`.
_NO_ADDRESS = "UnsupportedProtocol"

_FIXES = {
    400: "the hub does not accept these files; mend what it names",
    401: "log in with `hf auth login`, or set HF_TOKEN to a valid token",
    402: "free some of the account's storage, or raise its plan",
    403: "take a token that may write there, or give push= a name of your own account",
    404: "no such account, or the token may not see it; check the name",
    409: "somebody else has changed it meanwhile; give the same command again",
    412: "somebody else has changed it meanwhile; give the same command again",
    413: "a file, or all of it, is beyond the hub's limit; export a smaller model, or remove old "
    "revisions there",
}

# Of signed URLs, and of whatever a server or proxy sends back.
_SECRETS = re.compile(r"\?\S+|hf_\w+|Bearer \S+")


def insist(once: Callable[[], Result], *, name: str, token: str) -> Result:
    """Tries until it succeeds, the hub means its no, or the patience is over.

    Args:
        once: One try; what an earlier one has sent is not sent again.
        name: What errors begin with.
        token: Taken out of every line.

    Returns:
        The result of the first try that succeeds.

    Raises:
        UserError: The hub refuses, or cannot be reached.
    """
    pauses = iter(_PAUSES)
    while True:
        try:
            return once()
        except UserError:
            raise
        except Exception as error:  # the library has many kinds, and its connection others
            line = f"{name}: {_reason(error, token)}"
            _raise_if_final(error, line)
            pause = next(pauses, None)
            if pause is None:
                raise UserError(
                    f"{line}; given up after {len(_PAUSES) + 1} attempts; give the same command "
                    f"again later: it sends only what is missing"
                ) from None
            wait = max(pause, _asked_to_wait(error))

        print(f"align_train: {line}; trying again in {wait:.0f} s", file=sys.stderr, flush=True)
        time.sleep(wait)


def _raise_if_final(error: Exception, line: str) -> None:
    """Raises for an error that no further try would mend; an unknown one as it is."""
    status = _status(error)
    if status is not None:
        if status not in _PASSING:
            fix = _FIXES.get(status, "the hub's answer says why")
            raise UserError(f"{line}; {fix}") from None
    elif not _is_connection(error):
        if isinstance(error, ValueError | OSError) or type(error).__name__ == _NO_ADDRESS:
            # The library's words for an answer that it does not understand, or a file here.
            raise UserError(f"{line}; is HF_ENDPOINT a server of the hub's protocol?") from None
        raise error


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those behind it: the library wraps what goes wrong with a file."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def _answer(error: Exception) -> Any:
    """The server's answer; None: there was none."""
    for cause in _causes(error):
        response = getattr(cause, "response", None)
        if response is not None:
            return response
    return None


def _status(error: Exception) -> int | None:
    response = _answer(error)
    return None if response is None else int(response.status_code)


def _is_connection(error: Exception) -> bool:
    """Whether the connection failed, or a proxy answered with a page of its own."""
    for cause in _causes(error):
        names = {kind.__name__ for kind in type(cause).__mro__}
        if _NO_ADDRESS in names:
            return False
        if names & _CONNECTION or isinstance(cause, ConnectionError | json.JSONDecodeError):
            return True
        # The library that sends chunks of files (hf_xet) reports its network so.
        if type(cause).__module__.startswith("hf_xet"):
            return True
    return False


def _reason(error: Exception, token: str) -> str:
    status = _status(error)
    if status is None:
        *_, last = _causes(error)
        said = f"{type(last).__name__}: {last}"
    else:
        messages = [getattr(cause, "server_message", None) for cause in _causes(error)]
        said = str(next(filter(None, messages), None) or _answer(error).reason_phrase)
    clean = _SECRETS.sub("…", said.replace(token, "…"))
    reason = one_line(clean, _REASON)
    return f"no answer ({reason})" if status is None else f"{status} ({reason})"


def _asked_to_wait(error: Exception) -> float:
    """Seconds that the server asks for; 0: it does not say."""
    response = _answer(error)
    asked = "" if response is None else str(response.headers.get("Retry-After", ""))
    # The header may be a date instead: then the usual pause has to do.
    return min(float(asked), _LONGEST_WAIT) if asked.isdigit() else 0.0
