"""Settings of OmegaConf as plain dicts and lists."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf

from align_train.config.schema import Node


def plain_node(config: object, *, resolve: bool = False) -> Node:
    """Makes a dict of a mapping of OmegaConf's, and so at any depth.

    Args:
        config: The mapping.
        resolve: Whether references become the values that they refer to; else they stay texts.
    """
    # OmegaConf's type says all that it can hold, lists and single values too.
    plain: Any = OmegaConf.to_container(config, resolve=resolve)
    assert isinstance(plain, dict)
    return plain
