"""`--help` of every command: its usage, the choices of its groups, and each setting's meaning.

Meanings are the comments of conf/ (`meanings.py`), values those that the other words of the line
give: `model=b7_base --help` shows that model's settings. `--help data` shows one part.

Price: one composition and the reading of conf/, half a second; torch is not imported.
"""

from __future__ import annotations

import ast
import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import align_train
from align_train.config.grammar import quoted
from align_train.config.meanings import (
    files_of,
    first_sentence,
    groups_of,
    meanings,
    read_comments,
    with_bases,
)
from align_train.config.messages import no_such_setting
from align_train.config.overrides import Compose, as_typed, options_parser
from align_train.config.schema import Node, conf_dir
from align_train.errors import UserError, shown

_WIDEST = 100  # columns
_NARROWEST = 40
_COLUMN = 34  # where meanings begin
_LONGEST_VALUE = 60  # characters
_MORE = "--help KEY explains one part (--help data); --cfg job prints the settings as YAML."

# `${model.image_size}`, `${oc.select:model.max_tokens,null}`: as another setting.
_REFERENCE = re.compile(r"\$\{(?:oc\.select:)?([\w.]+)(?:,\w+)?\}")

# In the first line of a command's file: `python -m data.pack source=… to=…`: what it does.
_USAGE = re.compile(r"`(python -m [^`]*)`: (.*)")
_MODULE = re.compile(r"python -m (?:align_train\.data\.|align_train\.|data\.|align_train)(\w*)")


class Setting(NamedTuple):
    """A row of the help.

    Attributes:
        key: The dotted key.
        value: As composed; None: the key of other settings.
        meaning: The comment, or the class of a component.
    """

    key: str
    value: str | None
    meaning: str


def summary_of(module: str) -> str:
    """What a command does, by the first line of its file; nothing of it is imported."""
    spec = find_spec(module)
    # A package is run by its `__main__`, so its usage stands there.
    if spec is not None and spec.submodule_search_locations is not None:
        spec = find_spec(f"{module}.__main__")
    assert spec is not None
    assert spec.origin is not None
    doc = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return _usage(doc)[1]


def answer_to(
    arguments: Sequence[str],
    about: str,
    root: Path,
    schema: type,
    compose: Compose,
    groups: Sequence[str] = (),
) -> str:
    """The answer to `--help` or `--version`.

    Args:
        arguments: The command, its options and its overrides.
        about: The docstring of the command's file.
        root: The command's YAML file.
        schema: The dataclass of the settings.
        compose: Composes overrides with Hydra's own settings.
        groups: Groups that a command in `conf/commands/` chooses from; others name theirs in
            their file.

    Returns:
        The text to print; empty: the line asks for neither.

    Raises:
        UserError: The overrides cannot be composed, or a key to explain does not exist.
    """
    # Before the parser: Hydra's would print its own version, and exit.
    if "--version" in arguments:
        return f"align_train {align_train.__version__}"
    given, rest = options_parser().parse_known_args(arguments[1:])
    if not given.help:
        return ""

    if root.parent == conf_dir():
        groups = groups_of(root)
    # argparse leaves words behind an option to us.
    given.overrides += [word for word in rest if not word.startswith("-")]
    # `model=tiny` is composed with; a bare `data` says which part is to be shown.
    words = [word for word in given.overrides if "=" in word or word.startswith("~")]
    only = [word for word in given.overrides if word not in words]
    words = as_typed(words, schema, compose)
    asked = Help(root, compose, words, groups=groups, config_dir=given.config_dir)
    return asked.text(about, only)


class Help:
    """The parts of one command's help."""

    def __init__(
        self,
        root: Path,
        compose: Compose,
        words: Sequence[str],
        *,
        groups: Sequence[str] = (),
        config_dir: str | None = None,
    ) -> None:
        """Composes the settings.

        Args:
            root: The command's YAML file.
            compose: Composes overrides with Hydra's own settings.
            words: Overrides.
            groups: Groups of conf/ that the command chooses from.
            config_dir: A user's own folder of groups.
        """
        self.root = root
        self.folders = [conf_dir()]
        if config_dir is not None:
            self.folders.append(Path(config_dir).absolute())
            words = [*words, f"hydra.searchpath=[{quoted(f'file://{self.folders[-1]}')}]"]

        self.config = compose(words)
        # Hydra's own settings record the choices, and are no rows of the help.
        choices = self.config.pop("hydra")["runtime"]["choices"]
        self.chosen = {group: _names(group, choices, words) for group in groups}

    def settings(self) -> list[Setting]:
        """Each setting in the order of the composed file; a plan's own before those of a run."""
        means = meanings(self.root, self.chosen, self.folders)
        rows = list(_rows(self.config, means, "", OmegaConf.create(self.config)))
        if len(with_bases(self.root)) > 1:
            own = {key.partition(".")[0] for key in read_comments(self.root).of_keys}
            rows.sort(key=lambda row: row.key.partition(".")[0] not in own)
        # `logger={}`: a choice without settings of its own.
        return [row for row in rows if row.value != "{}" or row.key not in self.chosen]

    def choices(self, group: str) -> Iterator[tuple[str, str]]:
        """Each choice of a group, and for what it is."""
        for name, file in files_of(group, self.folders).items():
            comments = read_comments(file)
            # Of models it takes more than a sentence to choose one: parameters, pixels, memory.
            about = comments.purpose if group == "model" else first_sentence(comments.header)
            yield name, _renamed(about)

    def text(self, doc: str, only: Sequence[str] = ()) -> str:
        """Spells the help.

        Args:
            doc: The docstring of the command's file.
            only: Groups and keys to show; empty: all.

        Raises:
            UserError: A key does not exist.
        """
        width = max(_NARROWEST, min(_WIDEST, shutil.get_terminal_size((_WIDEST, 24)).columns))
        settings = self.settings()
        for name in only:
            if name not in self.chosen and not any(_under(row.key, name) for row in settings):
                raise UserError(no_such_setting(name))

        lines: list[str] = []
        if not only:
            for about in (": ".join(_usage(doc)), _renamed(read_comments(self.root).header)):
                lines += [*textwrap.wrap(about, width), ""]
        lines += self._lines_of_choices(only, width)
        lines += self._lines_of_settings(settings, only, width)
        if not only:
            lines += ["", *textwrap.wrap(_MORE, width)]
        return "\n".join(lines).rstrip()

    def _lines_of_choices(self, only: Sequence[str], width: int) -> Iterator[str]:
        shown_groups = [group for group in self.chosen if not only or group in only]
        if shown_groups:
            yield "Groups (group=choice); * is chosen now:"

        for group in shown_groups:
            yield f"  {group}"
            for name, about in self.choices(group):
                mark = "*" if name in self.chosen[group] else " "
                yield from _columns(f"  {mark} {name}", about, width, column=26)
        if shown_groups:
            yield ""

    def _lines_of_settings(
        self, settings: Sequence[Setting], only: Sequence[str], width: int
    ) -> Iterator[str]:
        rows = [row for row in settings if not only or any(_under(row.key, one) for one in only)]
        if rows:
            must = "; ??? must be given" if any(row.value == "???" for row in rows) else ""
            yield f"Settings (key=value), and what they are now{must}:"
        for row in rows:
            left = row.key if row.value is None else f"{row.key}={row.value}"
            yield from _columns(f"  {left}", row.meaning, width, column=_COLUMN)


def _names(group: str, choices: Node, words: Sequence[str]) -> list[str]:
    """The chosen names of a group; Hydra keeps no record of a list of them."""
    for word in reversed(words):
        key, _, value = word.partition("=")
        if key.lstrip("+") == group and value.startswith("["):
            return [name.strip() for name in value.strip("[]").split(",")]
    choice = choices.get(group)
    return [choice] if isinstance(choice, str) else []


def _rows(
    node: Node, means: dict[str, str], prefix: str, composed: DictConfig
) -> Iterator[Setting]:
    for name, value in node.items():
        if name in ("_target_", "_partial_"):
            continue
        key = f"{prefix}{name}"
        meaning = _renamed(means.get(key, ""))
        if not isinstance(value, dict) or not value:
            other = _REFERENCE.fullmatch(_spelled(value))
            spelled = shown(_spelled(_resolved(composed, key, value)), _LONGEST_VALUE)
            yield Setting(key, spelled, meaning or (f"as {other[1]}" if other else ""))
            continue

        yield Setting(key, None, value.get("_target_") or meaning)
        yield from _rows(value, means, f"{key}.", composed)


def _resolved(composed: DictConfig, key: str, value: object) -> object:
    """The value to which an interpolation leads; itself if it refers to what is not there yet."""
    if "${" not in _spelled(value):
        return value
    try:
        found = OmegaConf.select(composed, key)
    except OmegaConfBaseException:
        return value
    return value if OmegaConf.is_config(found) else found


def _spelled(value: object) -> str:
    """A value as the command line takes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(_spelled, value))}]"
    if isinstance(value, dict):
        inner = [f"{key}:{_spelled(one)}" for key, one in value.items()]
        return f"{{{','.join(inner)}}}"
    return str(value)


def _under(key: str, name: str) -> bool:
    return key == name or key.startswith(f"{name}.")


def _columns(left: str, right: str, width: int, column: int) -> Iterator[str]:
    """A row of two columns, the second of which wraps; a long first one has a line alone."""
    indent = " " * column
    # In a narrow terminal, lines may pass its edge: a few letters a line would be worse.
    wrapped = textwrap.wrap(right, max(width - column, _NARROWEST // 2), break_on_hyphens=False)
    if len(left) < column and wrapped:
        yield left.ljust(column) + wrapped.pop(0)
    else:
        yield left
    yield from (indent + line for line in wrapped)


def _usage(doc: str) -> tuple[str, str]:
    """The usage and the purpose in the first line of a command's docstring."""
    match = _USAGE.match(doc)
    return (_renamed(match[1]), match[2]) if match else ("", "")


def _renamed(text: str) -> str:
    """The same with the one name that commands have in a checkout and from a wheel."""
    return _MODULE.sub(lambda match: f"align-train {match[1] or 'train'}", text)
