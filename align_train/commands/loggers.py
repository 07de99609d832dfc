"""Loggers that a run writes to beside its own metrics.csv."""

from __future__ import annotations

from dataclasses import asdict

from lightning.pytorch.loggers import Logger

from align_train.cluster import launcher
from align_train.config.components import build, has_true
from align_train.config.loggers import check_loggers
from align_train.config.schema import Node, TrainSettings
from align_train.errors import UserError, one_line
from align_train.loggers import LoggedRun, RunLogger
from align_train.pretrained.published import published
from align_train.run.folder import RunFolder

_REASON = 200  # characters of a service's own error


def run_loggers(settings: TrainSettings, folder: RunFolder) -> list[Logger]:
    """Builds the loggers of `logger`, and starts them under the identity in the run's lineage.

    The identity makes a resumed run continue the same run in each service.

    Args:
        settings: The run's settings.
        folder: The run's folder; its lineage has begun.

    Returns:
        The loggers; none with `logger=csv`, since metrics.csv is written in any case, and none on
        other ranks than the first.

    Raises:
        UserError: A logger cannot be built, or its service cannot start.
    """
    nodes = {name: node for name, node in (settings.logger or {}).items() if node is not None}
    if not nodes or not launcher.is_first_process():
        return []
    # A finished run may be older than its rules.
    check_loggers(nodes)

    run = LoggedRun(
        path=folder.path,
        name=settings.name,
        identity=folder.lineage.read()[0]["run"],
        finished_steps=folder.last_step(),
        settings=published(asdict(settings)),
    )
    return [_started(node, f"logger.{name}", run) for name, node in nodes.items()]


def _started(node: Node, key: str, run: LoggedRun) -> Logger:
    fix = "check its settings"
    try:
        if has_true(node, key, "takes_run"):
            # Not as an argument of `build`, which would build the run's own components, too.
            logger = build({**node, "_partial_": True})(run=run)
        else:
            logger = build(node)  # any other of Lightning's
        if isinstance(logger, RunLogger):
            fix = logger.fix
            logger.begin()
    except Exception as error:  # each service has its own kinds
        reason = one_line(error, _REASON)
        raise UserError(f"{key}: cannot start ({reason}); {fix}") from error

    if not isinstance(logger, Logger):
        raise UserError(f"{key}: {node['_target_']} makes no logger of Lightning's")
    return logger
