"""Hydra's grammar of overrides: what it makes of a value, and how to quote for it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from antlr4 import CommonTokenStream, InputStream
from antlr4.error.ErrorListener import ErrorListener
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from hydra.grammar.gen.OverrideLexer import OverrideLexer
from hydra.grammar.gen.OverrideParser import OverrideParser

# Underscores that part digits as in a date: `2024_01_15` is no number, `1_000` is one.
_DATE = re.compile(r"(?!\d{1,3}(_\d{3})+$)\d+(_\d+)+")

_BARE = {OverrideLexer.INT, OverrideLexer.FLOAT, OverrideLexer.BOOL}
_OPENING = {OverrideLexer.POPEN, OverrideLexer.BRACKET_OPEN, OverrideLexer.BRACE_OPEN}
_CLOSING = {OverrideLexer.PCLOSE, OverrideLexer.BRACKET_CLOSE, OverrideLexer.BRACE_CLOSE}
_BETWEEN = {OverrideLexer.COMMA, OverrideLexer.EQUAL, OverrideLexer.QUOTED_VALUE}

_UNKNOWN = -1  # characters that the grammar has no token for

Piece = tuple[str, int]
"""Characters, and the kind of token that they are."""


def is_read_as_text(value: str) -> bool:
    """Whether Hydra makes a text, or null, of a value by itself."""
    try:
        read = OverridesParser.create().parse_override(f"key={value}").value()
    except HydraException:
        return False
    return read is None or isinstance(read, str)


def quoted(text: str) -> str:
    """Quotes a text so that the grammar reads it as it is."""
    spelled: str = QuotedString(text, Quote.double).with_quotes()
    return spelled


def with_quotes(value: str, is_text: Callable[[], bool]) -> Iterator[str]:
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
        return quoted("".join(plain).strip(" \t"))
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


def refused_at(word: str) -> int | None:
    """The index of the first character that the grammar refuses; None: it takes all."""
    first = _FirstError()
    lexer = OverrideLexer(InputStream(word))
    parser: Any = OverrideParser(CommonTokenStream(lexer))
    for part in (lexer, parser):
        part.removeErrorListeners()
        part.addErrorListener(first)
    parser.override()
    return first.place
