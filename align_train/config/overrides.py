"""The words of a command line, before Hydra reads them: a text arrives as it was typed.

Hydra's grammar reads `name=2024_01_15` as a number, and refuses `猫`, `~` and an apostrophe. So
this module quotes, in the grammar's own way, settings that the schema says are texts, and
characters that the grammar does not know. If it still refuses a word, the error names the
character.

Price: each word is parsed twice. A bare number in a component (`logger.id=1e3`) may cost the import
of its class.
"""

from __future__ import annotations

import re
import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode

from align_train.config.grammar import is_read_as_text, quoted, refused_at, with_quotes
from align_train.config.kinds import Kind, has_free_keys, is_list, kind_of, takes_text
from align_train.config.lengths import with_one_length
from align_train.config.messages import no_such_setting
from align_train.config.schema import Node
from align_train.errors import UserError, did_you_mean, printable, shown

_WORD = re.compile(r"(?P<key>\+{0,2}(?P<name>[^=~]*))=(?P<value>.*)", re.DOTALL)

# A choice of a group, several of them, or a class: `eval=[demo,knn]`, `loss._target_=mine.Loss`.
_CHOICE = re.compile(r"\+{0,2}([\w/@]+|[\w.]+\._target_)=([\w.-]+|\[[\w.,-]*\])", re.ASCII)

# OmegaConf reads `${` in any text; a backslash before it says that it is meant.
_REFERENCE = re.compile(r"(\\*)\$\{")

Compose = Callable[[Sequence[str]], Node]
"""Composes overrides with Hydra's own settings under `hydra`, and leaves them unresolved."""


def line_as_typed(arguments: Sequence[str], schema: type, compose: Compose) -> list[str]:
    """Quotes the overrides of a command line, `sys.argv`, for Hydra.

    Args:
        arguments: The command, its options and its overrides.
        schema: The dataclass of the settings.
        compose: For signatures of components.

    Returns:
        The same with quotes.

    Raises:
        UserError: As `as_typed`; or a word ends with a carriage return.
    """
    _refuse_carriage_returns(arguments)
    given = _parsed(arguments[1:])
    compose = _each_once(compose)

    @cache
    def sweep() -> bool:
        return asks_for_sweep(given, compose)

    words = as_typed(given.overrides, schema, compose, sweep=sweep)

    by_word = dict(zip(given.overrides, words, strict=True))
    return with_one_length([by_word.get(word, word) for word in arguments], schema)


def options_parser() -> ArgumentParser:
    """Hydra's parser of the line, with one line for an error in place of argparse's usage."""

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{printable(message)}; --help explains the settings")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    return parser


def _parsed(words: Sequence[str]) -> Namespace:
    parser = options_parser()
    given, unknown = parser.parse_known_args(words)

    for word in unknown:
        if not word.startswith("-"):
            continue
        option = word.partition("=")[0]
        # Hydra's own: `parser` keeps them by name.
        meant = did_you_mean(option, parser._option_string_actions)
        key = option.lstrip("-").replace("-", "_")
        fix = meant or f"; settings have no dashes: {shown(key)}=…"
        raise UserError(f"{shown(option)}: no such option{fix}")
    return given


def asks_for_sweep(given: Namespace, compose: Compose) -> bool:
    """Whether a line asks for a sweep: by `-m`, or by settings, as `experiment=noise_scaling` does.

    Args:
        given: The parsed line.
        compose: See `line_as_typed`.
    """
    if given.multirun:
        return True
    modes = [word for word in given.overrides if word.startswith("hydra.mode=")]
    words = [*_choices(given.overrides), *modes, *searchpath(given.config_dir)]
    try:
        mode = compose(words)["hydra"]["mode"]
    except UserError:
        return False  # Hydra says it once more, in one line
    return bool(mode == RunMode.MULTIRUN)


def searchpath(config_dir: str | None) -> list[str]:
    """Spells `--config-dir` as an override; none if it is not given.

    Args:
        config_dir: A user's own folder of groups.
    """
    if config_dir is None:
        return []
    return [f"hydra.searchpath=[{quoted(f'file://{Path(config_dir).absolute()}')}]"]


def as_typed(
    words: Sequence[str],
    schema: type,
    compose: Compose,
    *,
    sweep: Callable[[], bool] = lambda: False,
) -> list[str]:
    """Quotes overrides so that Hydra reads texts as they were typed.

    Args:
        words: Overrides such as `name=2024_01_15`.
        schema: The dataclass of the settings.
        compose: For signatures of components.
        sweep: Whether commas part the runs of a sweep.

    Returns:
        The overrides for Hydra.

    Raises:
        UserError: The grammar refuses a word.
    """
    compose = _each_once(compose)

    def is_text(key: str) -> bool:
        name = key.lstrip("+")
        return takes_text(name, lambda: compose(_choices(words)), added=key != name)

    typed = []
    for word in words:
        # Other words are no sweeps, and to know costs a composition.
        parted = ("," in word or "(" in word) and sweep()
        typed.append(_as_typed(word, schema, parted, is_text))
    return typed


def _each_once(compose: Compose) -> Compose:
    """Composes each list of words once: a composition takes a tenth of a second."""
    remembered = cache(compose)
    return lambda words: remembered(tuple(words))


def _choices(words: Sequence[str]) -> list[str]:
    """The words that choose files and classes, which want no quotes."""
    return [word for word in words if _CHOICE.fullmatch(word)]


def _refuse_carriage_returns(words: Sequence[str]) -> None:
    """Refuses words of a script with Windows line ends, for which the grammar has no line."""
    for word in words:
        if word.endswith("\r"):
            place = shown(word[:-1]) or "the command"
            raise UserError(
                f"{place}: the line ends with a carriage return, as in a script from Windows; "
                f"mend the script with dos2unix, or sed -i 's/\\r$//'"
            )


def _as_typed(word: str, schema: type, sweep: bool, takes_text: Callable[[str], bool]) -> str:
    match = _WORD.fullmatch(word)
    if match is None:
        # `~key` takes a setting out.
        if not word.startswith("~"):
            raise UserError(
                f"{shown(word)}: expected key=value; a text with spaces wants quotes: 'key=a b'"
            )
        return word

    key, name, value = match["key"], match["name"], match["value"]
    if not key.startswith("+") and has_free_keys(schema, name, value):
        key = f"++{name}"
    if is_list(schema, name) and _is_one_item(value):
        value = f"[{value}]"

    # Hydra's own settings, and groups by their folder, have no texts of ours.
    kind = Kind.OTHER if name.startswith("hydra") else kind_of(schema, name)
    if not sweep and kind is Kind.VERBATIM:
        bare = value in ("", "null")
        return word if bare else f"{key}={quoted(_without_references(value))}"
    if not sweep and kind is Kind.TEXT:
        return word if is_read_as_text(value) else f"{key}={quoted(value)}"

    @cache
    def is_text() -> bool:
        if kind is Kind.OF_COMPONENT:
            return takes_text(key)
        return kind is not Kind.OTHER

    for_hydra = f"{key}={''.join(with_quotes(value, is_text))}"
    refused = refused_at(for_hydra)
    # The grammar has no list or mapping here, so it is one text: a range {00..10}.tar.
    if refused is not None and not sweep and not value.startswith(("[", "{")) and is_text():
        return f"{key}={quoted(value)}"
    _refuse(word, key, value, for_hydra, refused, sweep)
    return for_hydra


def _is_one_item(value: str) -> bool:
    """Whether the value of a list is typed without brackets: `text=caption`."""
    # A comma may mean a list or a sweep: the refusal says how each is written.
    return bool(value) and value != "null" and "," not in value and value[0] not in "[$"


def _without_references(text: str) -> str:
    """Keeps OmegaConf from reading `${…}` in a text."""
    return _REFERENCE.sub(r"\1\1\\${", text)


def _refuse(word: str, key: str, value: str, for_hydra: str, at: int | None, sweep: bool) -> None:
    """Refuses a word, and says how its value is quoted.

    Args:
        word: As typed.
        key: Its part before the first `=`.
        value: The part after it.
        for_hydra: The word for Hydra.
        at: The index of the character in `for_hydra` that the grammar refuses; None: it takes all.
        sweep: Commas part the runs of a sweep.
    """
    if at is not None and at < len(key):
        # A column may have any name.
        if key.startswith("++") and not word.startswith("+"):
            raise UserError(
                f"{shown(key[2:])}: {for_hydra[at]!r} cannot stand in a key; give the whole "
                f"mapping, as 'rules.columns={{my column:{{top:0.3}}}}'"
            )
        raise UserError(no_such_setting(shown(key)))

    as_text = shlex.quote(f"{key}={quoted(value)}")
    if at is not None:
        found = "a bracket is open"
        if at < len(for_hydra):
            found = f"{for_hydra[at]} has a meaning of its own there in Hydra's grammar"
        raise UserError(
            f"{shown(word)}: {found}; if all of it is a text, write {shown(as_text, 200)}"
        )

    try:
        read = OverridesParser.create().parse_override(for_hydra)
    except HydraException as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{shown(word)}: cannot be read ({shown(reason)})") from None
    if read.is_sweep_override() and not sweep and not read.is_hydra_override():
        raise UserError(
            f"{shown(word)}: , parts the values of a sweep, which wants --multirun; a list is "
            f"{shlex.quote(f'{key}=[…,…]')}, a text with a comma {shown(as_text, 200)}"
        )
