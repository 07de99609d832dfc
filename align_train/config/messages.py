from __future__ import annotations

import contextlib
import difflib
import re
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

from hydra.core.config_store import ConfigStore
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from align_train.cluster import launcher
from align_train.config.schema import conf_dir
from align_train.errors import UserError

_OWN_ERROR = re.compile(r"align_train\.[a-z_.]+\.[A-Z]\w+: ")


@contextlib.contextmanager
def report_once() -> Iterator[None]:
    """Around what goes wrong alike in every process of a run: the first one tells."""
    try:
        yield
    except UserError as error:
        raise error if launcher.is_first_process() else UserError("") from None


def fail_once(error: Exception) -> NoReturn:
    """Settings that cannot be composed cannot be in any process."""
    fail(in_one_line(error) if launcher.is_first_process() else "")


def fail(message: str, *, status: int = 2) -> NoReturn:
    """One line on stderr, exit status 2 (or what the error asks for)."""
    # From a loader's worker process an error comes wrapped in that process's stack trace.
    message = _OWN_ERROR.split(message)[-1] if "Traceback" in message else message
    message = " ".join(message.split())
    if message:
        printable = message.encode(
            "utf-8", "backslashreplace"
        ).decode()  # names of files may be any bytes
        print(f"align_train: {printable}", file=sys.stderr, flush=True)
    sys.exit(status)


def in_one_line(error: Exception) -> str:
    """Hydra's and OmegaConf's errors span lines and name inner classes: what matters is the key and what was wrong."""
    text = str(error)
    if ours := _between(text, "UserError raised while resolving interpolation: ", "\n"):
        return ours
    if isinstance(error, OverrideParseException):
        return f"{error.override}: cannot be read; a value with {{}}, = or a comma wants quotes inside quotes: 'key=\"…\"'"
    cause = error.__cause__ or error.__context__
    if isinstance(cause, OmegaConfBaseException):
        text = f"{text.splitlines()[0]} {cause}"
    if (key := _between(text, "Could not override '", "'")) and (
        "not in struct" in text or "No match" in text or "not in '" in text
    ):
        return no_such_setting(key)
    choice = _between(text, "Could not find '", "'") or _between(
        text, "Could not load '", "'"
    )  # the latter: one of a list
    if (group := choice.rpartition("/")[0]) and (conf_dir() / group).is_dir():
        there = ", ".join(sorted(path.stem for path in (conf_dir() / group).glob("*.yaml")))
        return f"{group}={choice.rpartition('/')[2]}: no such choice; there are {there}"
    if "could not be converted" in text or "Invalid type assigned" in text:
        value, key = (
            _between(text, "Value '", "'"),
            _between(text, "full_key: ", "\n") or "a setting",
        )
        wanted = _between(text, "converted to ", "\n") or "another type"
        return f"{key}={value}: expected {wanted.strip().lower()}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(
        line for line in lines if not line.startswith(("object_type=", "reference_type=", "In "))
    )


def _between(text: str, before: str, after: str) -> str:
    _, found, rest = text.partition(before)
    return rest.split(after)[0] if found else ""


def no_such_setting(key: str) -> str:
    return f"{key}: no such setting{_nearest(key)}; `--cfg job` shows all settings"


def _nearest(key: str) -> str:
    """`; did you mean …?` for a misspelt root key or a key of a known group's files."""
    parent, _, last = key.rpartition(".")
    schemas = [
        entry.node
        for name, entry in ConfigStore.instance().repo.items()
        if name.endswith("schema.yaml")
    ]
    nodes = [OmegaConf.select(schema, parent) if parent else schema for schema in schemas]
    names = [str(name) for node in nodes if isinstance(node, DictConfig) for name in node]
    if parent:
        group = conf_dir() / parent.split(".")[0]
        names += [name for file in group.glob("*.yaml") for name in _all_keys(OmegaConf.load(file))]
    close = difflib.get_close_matches(
        last, [name for name in names if name != last], n=1, cutoff=0.5
    )
    return f", did you mean {parent + '.' if parent else ''}{close[0]}?" if close else ""


def _all_keys(node: Any) -> Iterator[str]:
    if isinstance(node, DictConfig):
        for name in node:
            yield str(name)
            yield from _all_keys(node._get_node(name))
