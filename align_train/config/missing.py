"""Settings that must be given and are not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from omegaconf import DictConfig, OmegaConf

from align_train.config.plain import plain_node
from align_train.errors import UserError

MISSING = "???"  # OmegaConf's mark of a setting that the user must give


def make_null(config: DictConfig, keys: Sequence[str]) -> None:
    """Makes settings null that are missing.

    Args:
        config: Composed settings.
        keys: Dotted keys; one that does not exist is left out.
    """
    for key in keys:
        parent, _, name = key.rpartition(".")
        node: object = OmegaConf.select(config, parent) if parent else config
        if isinstance(node, DictConfig) and OmegaConf.is_missing(node, name):
            node[name] = None


def refuse_missing(config: DictConfig) -> None:
    """Refuses settings that must be given and are not.

    Args:
        config: Composed settings. They stay unresolved: the evaluators of `align_train.evaluate`
            refer to settings of the run.

    Raises:
        UserError: Names the first setting that is missing or empty.
    """
    plain = plain_node(config)
    missing = sorted(_missing(plain))
    if missing:
        raise UserError(f"{missing[0]} is not set; give {missing[0]}=…")

    # `name=$NAME` with an unset variable: it would write into output_dir itself.
    empty = [key for key, value in plain.items() if value == ""]
    if empty:
        raise UserError(f"{empty[0]}= is empty; give {empty[0]}=…, or leave it out")


def _missing(node: object, path: str = "") -> Iterator[str]:
    """Dotted keys of settings that are missing."""
    if node == MISSING:
        yield path
    elif isinstance(node, dict | list):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in items:
            yield from _missing(value, f"{path}.{key}" if path else str(key))
