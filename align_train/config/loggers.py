"""The key `logger`: loggers by name, checked."""

from __future__ import annotations

from importlib.util import find_spec

from align_train.config.components import check_component, find_target, has_true
from align_train.errors import UserError, shown


def check_loggers(nodes: object) -> None:
    """Checks that each entry of `logger` is a logger that can be built here, or null: taken out.

    Args:
        nodes: The loggers' nodes by name.

    Raises:
        UserError: Names the first entry that is no logger, or whose library is missing.
    """
    # Before there could be several, the logger itself stood here.
    if not isinstance(nodes, dict | None) or "_target_" in (nodes or {}):
        raise UserError(
            f"logger={shown(nodes)}: expected loggers by name, as in conf/logger, e.g. "
            f"logger=wandb logger.wandb.offline=true"
        )

    for name, node in (nodes or {}).items():
        if node is None:
            continue
        key = f"logger.{name}"
        if not isinstance(node, dict) or "_target_" not in node:
            raise UserError(
                f"{key}={shown(node)}: no logger; expected a node with _target_, as in "
                f"conf/logger, or null"
            )
        check_component(node, key)
        _check_library(node, key)


def _check_library(node: dict[str, object], key: str) -> None:
    """Of our own loggers the class says which library it wants."""
    if not has_true(node, key, "takes_run"):
        return
    library: str = find_target(node, key).library
    # Looked for and not imported: wandb alone takes about a second.
    if find_spec(library) is None:
        raise UserError(
            f"{key}: {library} is not installed; pip install 'align_train[loggers]', or take "
            f"another logger"
        )
