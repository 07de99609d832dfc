"""How a command ends: one line on stderr that says what to do, and an exit status.

Hydra's and OmegaConf's errors span lines and name inner classes. `in_one_line` keeps the key, the
value and the expectation, and proposes the nearest name of a key that does not exist.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import sys
import traceback
import typing
from collections.abc import Iterator
from typing import NoReturn

from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from align_train.cluster import launcher
from align_train.cluster.ending import end, has_peers, say
from align_train.cluster.interruption import catching
from align_train.config.meanings import read_comments
from align_train.config.plain import plain_node
from align_train.config.schema import conf_dir
from align_train.errors import Interrupted, UserError, did_you_mean, one_line, shown

_BROKEN_PIPE = 141  # exit status of a shell's command after SIGPIPE

_NO_HOME = "Could not determine home directory"  # pathlib's words

_LONGEST_PATH = 300  # characters; longer ones are texts that were taken for a path

# A loader's worker process wraps an error in its stack trace, with the class's full name.
_OWN_ERROR = re.compile(r"align_train\.[a-z_.]+\.[A-Z]\w+: ")

# OmegaConf's message of a wrong value -> the value that was expected.
_EXPECTED = {
    "is not a valid bool": "true or false",
    "is not Optional": "a value, not null",
    "is not a ListConfig": "a list",
    # Of `chunk_size` and `recompute`.
    "type hint 'Union[int, str]'": "an integer or auto",
    "type hint 'Union[bool, str]'": "true, false or auto",
    "to Dict[": "settings in braces, e.g. {key: value}",
}


@contextlib.contextmanager
def report_once() -> Iterator[None]:
    """Lets only the run's first process print an error that occurs alike in every process."""
    try:
        yield
    except UserError as error:
        raise error if launcher.is_first_process() else UserError("") from None


@contextlib.contextmanager
def ending_in_one_line() -> Iterator[None]:
    """Ends the process with one line for errors that the user can mend; others pass through.

    A signal that ends the command is one of them.
    """
    try:
        with catching():
            yield
    except UserError as error:
        fail(str(error), status=error.status)
    except (HydraException, OmegaConfBaseException) as error:
        fail_once(error)
    except KeyboardInterrupt as error:
        stopped = error if isinstance(error, Interrupted) else Interrupted()
        # A signal often comes to all processes.
        fail(str(stopped) if launcher.is_first_process() else "", status=stopped.status)
    except BrokenPipeError:
        # The reader of our output has gone (`| head`). Python flushes stdout once more at exit,
        # which would raise again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_BROKEN_PIPE)
    except OSError as error:
        # A path that cannot be made or a full disk, wherever it turns out.
        fail(
            f"{shown(error.filename or 'a file', _LONGEST_PATH)}: {error.strerror or error}; "
            f"check the path, its rights and the space there"
        )
    except Exception as error:
        # `~nobody/x`, or `~/x` in a container without a user.
        if _NO_HOME in str(error):
            fail(f"a path begins with ~: {one_line(error, 80)} Write the path in full")
        # A defect of ours. Without other ranks Python prints it.
        if has_peers():
            traceback.print_exc()
            end(1)
        raise


def fail(message: str, *, status: int = 2) -> NoReturn:
    """Prints one line on stderr, or nothing for an empty message, and exits.

    Args:
        message: The error; a stack trace before it and line breaks are removed.
        status: The exit status.
    """
    if "Traceback" in message:
        message = _OWN_ERROR.split(message)[-1]

    say(" ".join(message.split()))
    end(status)


def fail_once(error: Exception) -> NoReturn:
    """Exits after settings that cannot be composed: the first process alone prints why."""
    fail(in_one_line(error) if launcher.is_first_process() else "")


def in_one_line(error: Exception) -> str:
    """Puts an error of Hydra or OmegaConf as: the key, what was found, what was expected.

    Args:
        error: Raised while settings were composed or resolved.

    Returns:
        One line without the library's inner names.
    """
    text = str(error)
    if ours := _between(text, "UserError raised while resolving interpolation: ", "\n"):
        return ours

    if missing := _between(text, "Interpolation key '", "'"):
        key = getattr(error, "full_key", None) or "a setting"
        return f"{key}: refers to {missing}, which is no setting here"

    if reason := _between(text, " raised while resolving interpolation: ", "\n"):
        key = getattr(error, "full_key", None) or "a setting"
        return f"{key}: cannot be computed from other settings ({reason}); check their values"

    # Hydra's message says which override it was, OmegaConf's what was wrong with it.
    cause = error.__cause__ or error.__context__
    if isinstance(cause, OmegaConfBaseException):
        text = f"{text.splitlines()[0]} {cause}"
    return _about_key(text) or _about_choice(text) or _about_value(text) or _without_types(text)


def _about_key(text: str) -> str:
    """The line for a key that does not exist, or nothing."""
    key = _between(text, "Could not override '", "'")
    absent = any(words in text for words in ("not in struct", "No match", "not in '"))
    return no_such_setting(key) if key and absent else ""


def _about_choice(text: str) -> str:
    """The line for a choice that a group does not have, or nothing."""
    if group := _between(text, "Error resolving interpolation '${", "}'"):
        return f"{group}: another group goes with its choice; give {group}=NAME, one of --help"

    choice = _between(text, "Could not find '", "'")
    if not choice:
        choice = _between(text, "Could not load '", "'")  # one of a list of choices

    group, _, name = choice.rpartition("/")
    folder = conf_dir() / group
    if not group or not folder.is_dir():
        return ""
    names = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
    return f"{group}={name}: no such choice; there are {names}"


def _about_value(text: str) -> str:
    """The line for a value of another type than the setting's, or nothing."""
    if "could not be converted" in text or "Invalid type assigned" in text:
        value = _between(text, "Value '", "'")
        key = _between(text, "full_key: ", "\n") or "a setting"
        wanted = _between(text, "converted to ", "\n") or "another type"
        return f"{key}={value}: expected {wanted.strip().lower()}"

    override = _between(text, "Error merging override ", " ").partition("\n")[0]
    for words, wanted in _EXPECTED.items():
        if override and words in text:
            return f"{override}: expected {wanted}"
    return ""


def _without_types(text: str) -> str:
    inner = ("object_type=", "reference_type=", "In ")
    lines = (line.strip() for line in text.splitlines())
    return " ".join(line for line in lines if line and not line.startswith(inner))


def _between(text: str, before: str, after: str) -> str:
    """The part of a text between two others; nothing if the first is not in it."""
    _, found, rest = text.partition(before)
    return rest.split(after)[0] if found else ""


def no_such_setting(key: str) -> str:
    """Says that a key does not exist, and which one was perhaps meant."""
    return f"{key}: no such setting{_nearest(key)}; `--cfg job` shows all settings"


def _in_choice(key: str) -> str | None:
    """The setting of a key that has the choice's name in it: eval.knn_folders.k is eval.knn.k."""
    group, _, rest = key.partition(".")
    choice, _, name = rest.partition(".")
    file = conf_dir() / group / f"{choice}.yaml"
    if not name or not file.is_file():
        return None

    # Files that set several groups have their keys at the root. Those of evaluators and loggers
    # have a name of their own above their settings.
    node = plain_node(OmegaConf.load(file))
    root = "" if read_comments(file).is_global else f"{group}."
    for at, inner in [(root, node), *((f"{root}{top}.", node[top]) for top in node)]:
        if _has(inner, name):
            return f"{at}{name}"
    return None


def _has(node: object, name: str) -> bool:
    for word in name.split("."):
        if not isinstance(node, dict) or word not in node:
            return False
        node = node[word]
    return True


def _nearest(key: str) -> str:
    """The key that was meant, as `, did you mean …?`; or the choice that has it; or nothing."""
    if (within := _in_choice(key)) is not None:
        # The key is right, but its choice is not taken.
        if within == key:
            first, choice, *_ = key.split(".")
            return f" without {first}={choice}"
        return f", did you mean {within}?"
    parent, _, last = key.rpartition(".")
    # A setting of the root in the wrong place, e.g. trainer.chunk_size.
    if parent and last in set(_names_in_schemas("")):
        return f", did you mean {last}?"

    names = set(_names_in_schemas(parent))
    # Components have no schema but their class, and the class would bring torch. Its keys stand in
    # the group's files.
    if parent:
        group = conf_dir() / parent.split(".")[0]
        for file in group.glob("*.yaml"):
            node = OmegaConf.load(file)
            names |= set(_names_in(node))
            # One step further in: logger.offline is logger.wandb.offline.
            plain = plain_node(node)
            for name, inner in plain.items():
                if group.name == parent and isinstance(inner, dict) and last in inner:
                    return f", did you mean {parent}.{name}.{last}?"

    return did_you_mean(last, names - {last}, before=f"{parent}." if parent else "")


def _names_in_schemas(parent: str) -> Iterator[str]:
    """The keys under `parent` in the schemas that the command has registered."""
    # The classes and not OmegaConf's nodes: a nested dataclass is missing in those.
    for entry in ConfigStore.instance().repo.values():
        schema: object = OmegaConf.get_type(entry.node) if hasattr(entry, "node") else None
        for part in filter(None, parent.split(".")):
            hints = typing.get_type_hints(schema) if dataclasses.is_dataclass(schema) else {}
            schema = hints.get(part)

        if dataclasses.is_dataclass(schema):
            yield from (field.name for field in dataclasses.fields(schema))


def _names_in(node: object) -> Iterator[str]:
    """All keys of a file, at any depth."""
    if isinstance(node, DictConfig):
        for name in node:
            yield str(name)
            yield from _names_in(node._get_node(name))
