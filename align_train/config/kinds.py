"""Which settings are texts: by the schema's types, and by the signatures of components."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Sequence
from enum import Enum

from align_train.config.components import parameter_hint
from align_train.config.field_marks import FREE_KEYS, TEXTS, VERBATIM
from align_train.config.numbers import contents, is_computed
from align_train.config.schema import Node, conf_dir
from align_train.errors import UserError

_NUMBERS = (int, float, bool)


class Kind(Enum):
    """How the characters of a setting are meant."""

    VERBATIM = "a text, whatever its characters"
    TEXT = "a text"
    TEXTS = "a text, or a list or mapping of texts"
    OF_COMPONENT = "a parameter of a component: its class knows"
    OTHER = "what the grammar makes of it"


def kind_of(schema: type, key: str) -> Kind:
    """Looks a setting up in the schema.

    Args:
        schema: The dataclass of the settings.
        key: Dotted.

    Returns:
        Its kind.
    """
    field, hint, rest = _find(schema, key)
    if field is None:
        return Kind.OTHER
    if field.metadata.keys() & VERBATIM.keys():
        return Kind.VERBATIM
    if field.metadata.keys() & TEXTS.keys() or hint in (list[str], dict[str, str]):
        return Kind.TEXTS
    if rest:
        return Kind.OF_COMPONENT
    return Kind.TEXT if set(_parts(hint)) == {str} else Kind.OTHER


def has_free_keys(schema: type, key: str, value: str) -> bool:
    """Whether a word sets entries of a mapping that takes any key: `where.split=x`, `where={…}`."""
    field, hint, rest = _find(schema, key)
    if field is None or not (rest or value.startswith("{")):
        return False
    # A component's node is a mapping too, but its keys are known by its class.
    marked = field.metadata.keys()
    holds_texts = typing.get_origin(hint) is dict and bool(marked & TEXTS.keys())
    return holds_texts or hint == dict[str, str] or bool(marked & FREE_KEYS.keys())


def is_list(schema: type, key: str) -> bool:
    """Whether a key names a list of texts, e.g. `accept`."""
    _, hint, rest = _find(schema, key)
    return hint == list[str] and not rest


def _find(schema: type, key: str) -> tuple[dataclasses.Field[object] | None, object, str]:
    """A dotted key in the schema: its field, the field's type, and the rest of the key."""
    name, _, rest = key.partition(".")
    field = getattr(schema, "__dataclass_fields__", {}).get(name)
    if field is None:
        return None, None, rest

    # Not the field's own type: with postponed annotations that is only its text.
    hint = typing.get_type_hints(schema)[name]
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return _find(hint, rest)
    return field, hint, rest


def takes_text(key: str, compose: Callable[[], Node], *, added: bool) -> bool:
    """Whether a component takes a text, or a list of texts, and no number.

    Args:
        key: Dotted, e.g. `data.tokenizer`.
        compose: Composes the settings without this one, unresolved.
        added: Whether a plus says that the key is a new one.

    Returns:
        False if nobody knows: a setting that only `**kwargs` takes.
    """
    # Most settings are seen to be numbers in the group's files, which cost no import.
    group, _, inner = key.partition(".")
    for content in contents(conf_dir() / group):
        # A file of `@package _global_` spells the whole key.
        for value in (_select(content, inner), _select(content, key)):
            if _is_number(value[0] if isinstance(value, list) and value else value):
                return False

    try:
        settings = compose()
        # Another key is misspelt: the composition says so, and the class is not asked for it.
        if not added and not _has(settings, key):
            return False
        hint = parameter_hint(settings, key)
    except UserError:
        return False  # the composition says it, in one line
    kinds = set(_parts(hint)) if hint is not None else set()
    # If a number is possible too, the grammar's own reading stands.
    return str in kinds and not kinds.intersection(_NUMBERS)


def _is_number(value: object) -> bool:
    """Whether a value of a group's file is a number, or is computed from one."""
    return isinstance(value, _NUMBERS) or is_computed(value)


def _has(node: object, key: str) -> bool:
    parent, _, name = key.rpartition(".")
    inner = _select(node, parent) if parent else node
    return isinstance(inner, dict) and name in inner


def _select(node: object, key: str) -> object:
    for name in key.split("."):
        node = node.get(name) if isinstance(node, dict) else None
    return node


def _parts(hint: object) -> list[object]:
    """The types of a union, or of a list's items, without null."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        parts: list[object] = []
        for argument in typing.get_args(hint):
            parts += _parts(argument)
        return parts
    if origin in (list, tuple, Sequence):
        return _parts(typing.get_args(hint)[0])
    return [] if hint is type(None) else [hint]
