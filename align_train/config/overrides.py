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
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

from antlr4 import CommonTokenStream, InputStream
from antlr4.error.ErrorListener import ErrorListener
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from hydra.grammar.gen.OverrideLexer import OverrideLexer
from hydra.grammar.gen.OverrideParser import OverrideParser

from align_train.config.kinds import Kind, kind_of, takes_text
from align_train.config.messages import no_such_setting
from align_train.config.schema import Node
from align_train.errors import UserError, shown

_WORD = re.compile(r"(?P<key>\+{0,2}(?P<name>[^=~]*))=(?P<value>.*)", re.DOTALL)

# Underscores that part digits as in a date: `2024_01_15` is no number, `1_000` is one.
_DATE = re.compile(r"(?!\d{1,3}(_\d{3})+$)\d+(_\d+)+")

# OmegaConf reads `${` in any text; a backslash before it says that it is meant.
_REFERENCE = re.compile(r"(\\*)\$\{")

_BARE = {OverrideLexer.INT, OverrideLexer.FLOAT, OverrideLexer.BOOL}
_OPENING = {OverrideLexer.POPEN, OverrideLexer.BRACKET_OPEN, OverrideLexer.BRACE_OPEN}
_CLOSING = {OverrideLexer.PCLOSE, OverrideLexer.BRACKET_CLOSE, OverrideLexer.BRACE_CLOSE}
_BETWEEN = {OverrideLexer.COMMA, OverrideLexer.EQUAL, OverrideLexer.QUOTED_VALUE}

_UNKNOWN = -1  # characters that the grammar has no token for

Piece = tuple[str, int]
"""Characters, and the kind of token that they are."""


Compose = Callable[[Sequence[str]], Node]
"""Composes overrides, and leaves the settings unresolved."""


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
    given, _ = get_args_parser().parse_known_args(arguments[1:])
    sweep = given.multirun or "hydra.mode=MULTIRUN" in given.overrides
    quoted = as_typed(given.overrides, schema, compose, sweep=sweep)

    by_word = dict(zip(given.overrides, quoted, strict=True))
    return [by_word.get(word, word) for word in arguments]


def as_typed(
    words: Sequence[str], schema: type, compose: Compose, *, sweep: bool = False
) -> list[str]:
    """Quotes overrides so that Hydra reads texts as they were typed.

    Args:
        words: Overrides such as `name=2024_01_15`.
        schema: The dataclass of the settings.
        compose: For signatures of components.
        sweep: Commas part the runs of a sweep (`--multirun`).

    Returns:
        The overrides for Hydra.

    Raises:
        UserError: The grammar refuses a word.
    """

    def is_text(key: str) -> bool:
        others = [word for word in words if word.partition("=")[0].lstrip("+") != key]
        return takes_text(key, lambda: compose(others))

    return [_as_typed(word, schema, sweep, is_text) for word in words]


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
    # Hydra's own settings, and groups by their folder, have no texts of ours.
    kind = Kind.OTHER if name.startswith("hydra") else kind_of(schema, name)
    if not sweep and kind is Kind.VERBATIM:
        bare = value in ("", "null")
        return word if bare else f"{key}={_quoted(_without_references(value))}"
    if not sweep and kind is Kind.TEXT:
        return word if _is_read_as_text(value) else f"{key}={_quoted(value)}"

    @cache
    def is_text() -> bool:
        if kind is Kind.OF_COMPONENT:
            return takes_text(name)
        return kind is not Kind.OTHER

    quoted = f"{key}={''.join(_with_quotes(value, is_text))}"
    refused = _refused_at(quoted)
    # The grammar has no list or mapping here, so it is one text: a range {00..10}.tar.
    if refused is not None and not sweep and not value.startswith(("[", "{")) and is_text():
        return f"{key}={_quoted(value)}"
    _refuse(word, key, value, quoted, refused, sweep)
    return quoted


def _is_read_as_text(value: str) -> bool:
    """Whether Hydra makes a text, or null, of a value by itself."""
    try:
        read = OverridesParser.create().parse_override(f"key={value}").value()
    except HydraException:
        return False
    return read is None or isinstance(read, str)


def _quoted(text: str) -> str:
    quoted: str = QuotedString(text, Quote.double).with_quotes()
    return quoted


def _without_references(text: str) -> str:
    """Keeps OmegaConf from reading `${…}` in a text."""
    return _REFERENCE.sub(r"\1\1\\${", text)


def _with_quotes(value: str, is_text: Callable[[], bool]) -> Iterator[str]:
    """Yields a value piece by piece, with quotes around elements that are texts.

    Args:
        value: As typed.
        is_text: Whether bare numbers and booleans in it are meant as texts.
    """
    inside: list[str] = []
    element: list[Piece] = []
    for source, kind in _pieces(value):
        is_colon = kind == OverrideLexer.COLON and inside[-1:] == ["{"]
        if kind not in _OPENING | _CLOSING | _BETWEEN and not is_colon:
            element.append((source, kind))
            continue

        name = "".join(text for text, _ in element).strip()
        # Names of functions and keys of mappings take no quotes.
        if kind == OverrideLexer.POPEN or is_colon:
            yield name
        else:
            yield _element(element, is_text, inside)
        yield source

        element = []
        if kind in _OPENING:
            inside.append(source.strip())
        elif kind in _CLOSING and inside:
            inside.pop()
    yield _element(element, is_text, inside)


def _pieces(value: str) -> Iterator[Piece]:
    """Cuts a value into the grammar's tokens, and what lies between them."""
    lexer = OverrideLexer(InputStream(value))
    lexer.removeErrorListeners()
    lexer.mode(OverrideLexer.VALUE_MODE)

    end = 0
    for token in lexer.getAllTokens():
        if token.start > end:
            yield value[end : token.start], _UNKNOWN
        yield token.text, token.type
        end = token.stop + 1
    if end < len(value):
        yield value[end:], _UNKNOWN


def _element(element: list[Piece], is_text: Callable[[], bool], inside: list[str]) -> str:
    """Spells an element of a value, in quotes if the grammar would take it otherwise."""
    source = "".join(text for text, _ in element)
    kinds = [kind for _, kind in element if kind != OverrideLexer.WS]
    # A function of Hydra's, such as range(1,3), takes its arguments as they are.
    is_bare = len(kinds) == 1 and kinds[0] in _BARE and "(" not in inside

    if _UNKNOWN in kinds or (is_bare and (_DATE.fullmatch(source.strip()) or is_text())):
        # Without the grammar's own escapes, such as `\,`.
        plain = (text[1::2] if kind == OverrideLexer.ESC else text for text, kind in element)
        return _quoted("".join(plain).strip(" \t"))
    return source


class _FirstError(ErrorListener):  # type: ignore[misc]
    """Remembers where the grammar first refuses a character."""

    def __init__(self) -> None:
        self.place: int | None = None

    def syntaxError(
        self, recognizer: object, token: object, line: int, column: int, text: str, error: object
    ) -> None:
        """Called by the lexer, without a token, and by the parser."""
        if self.place is None:
            at = getattr(token, "start", None)
            self.place = at if at is not None else recognizer._tokenStartCharIndex  # type: ignore


def _refused_at(word: str) -> int | None:
    """The index of the first character that the grammar refuses; None: it takes all."""
    first = _FirstError()
    lexer = OverrideLexer(InputStream(word))
    parser: Any = OverrideParser(CommonTokenStream(lexer))
    for part in (lexer, parser):
        part.removeErrorListeners()
        part.addErrorListener(first)
    parser.override()
    return first.place


def _refuse(word: str, key: str, value: str, quoted: str, at: int | None, sweep: bool) -> None:
    """Refuses a word, and says how its value is quoted.

    Args:
        word: As typed.
        key: Its part before the first `=`.
        value: The part after it.
        quoted: The word for Hydra.
        at: The index of the character in `quoted` that the grammar refuses; None: it takes all.
        sweep: Commas part the runs of a sweep.
    """
    if at is not None and at < len(key):
        raise UserError(no_such_setting(shown(key)))

    as_text = shlex.quote(f"{key}={_quoted(value)}")
    if at is not None:
        found = "a bracket is open"
        if at < len(quoted):
            found = f"{quoted[at]} has a meaning of its own there in Hydra's grammar"
        raise UserError(
            f"{shown(word)}: {found}; if all of it is a text, write {shown(as_text, 200)}"
        )

    try:
        read = OverridesParser.create().parse_override(quoted)
    except HydraException as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{shown(word)}: cannot be read ({shown(reason)})") from None
    if read.is_sweep_override() and not sweep and not read.is_hydra_override():
        raise UserError(
            f"{shown(word)}: , parts the values of a sweep, which wants --multirun; a list is "
            f"{shlex.quote(f'{key}=[…,…]')}, a text with a comma {shown(as_text, 200)}"
        )
