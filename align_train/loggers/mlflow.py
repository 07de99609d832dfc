"""MLflow: a tracking server, or without one a database in the run's own folder.

A resumed run continues the MLflow run that carries its identity as a tag. MLflow deletes no rows.
So of steps that an interruption undid, what it has of them stays and is not written again: a
resumed run computes the same losses, and no step stands there twice.

Price: the database takes some five seconds to be made, once a run.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import MLFlowLogger
from PIL import Image

from align_train.loggers.base import LoggedRun, RunLogger, flat, going_on

_IDENTITY = "align_train.run"  # the tag

# MLflow's own are 7 and 120 seconds, with pauses: four minutes in which the run would wait for a
# server that has gone, in each row.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}

# MLflow's limits.
_LONGEST_VALUE = 500  # characters of a parameter
_MOST_PARAMETERS = 100  # of one request


class Mlflow(RunLogger, MLFlowLogger):
    """An MLflow run. In names of metrics `@`, which MLflow refuses, is `_at_`."""

    library = "mlflow"
    fix = "check logger.mlflow.tracking_uri, and that its server answers"

    def __init__(self, *, run: LoggedRun, experiment: str, tracking_uri: str | None) -> None:
        """Opens the database, or notes the server; sends nothing yet.

        Args:
            run: The run.
            experiment: The experiment's name.
            tracking_uri: A server or database; None: `MLFLOW_TRACKING_URI`, or else `mlflow.db` in
                the run's folder.
        """
        # They tell of each table, and of a new experiment.
        for name in ("mlflow.store.db.utils", "alembic", "lightning.pytorch.loggers.mlflow"):
            logging.getLogger(name).setLevel(logging.ERROR)

        for variable, value in _PATIENCE.items():
            os.environ.setdefault(variable, value)
        uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        local = run.path / "mlflow.db"
        super().__init__(
            experiment_name=experiment,
            run_name=run.name,
            tracking_uri=uri or f"sqlite:///{local}",
            tags={_IDENTITY: run.identity},
            # Of the others the server knows a place.
            artifact_location=None if uri else str(run.path / "mlflow"),
        )
        self._run = run
        self._had: dict[str, int] = {}  # metric -> the last step that MLflow had at the start

    def begin(self) -> None:
        """Finds the run or makes it, and gives it the settings that it does not have."""
        client = self._mlflow_client
        experiment = client.get_experiment_by_name(self._experiment_name)
        found: list[Any] = []
        if experiment is not None:
            words = f"tags.`{_IDENTITY}` = '{self._run.identity}'"
            found = list(client.search_runs([experiment.experiment_id], words))
        known: set[str] = set()
        if found:
            self._run_id = found[0].info.run_id
            known = set(found[0].data.params)
            self._had = {metric.key: metric.step for metric in found[0].data._metric_objs}
            client.update_run(self._run_id, status="RUNNING")

        # MLflow changes no parameter that it has: those are the run's first.
        settings = {
            key: value for key, value in flat(self._run.settings).items() if key not in known
        }
        self._add_parameters(settings)

    def _add_parameters(self, settings: Mapping[str, object]) -> None:
        from mlflow.entities import Param

        params = [Param(key, str(value)[:_LONGEST_VALUE]) for key, value in settings.items()]
        for start in range(0, len(params), _MOST_PARAMETERS):
            part = params[start : start + _MOST_PARAMETERS]
            self.experiment.log_batch(self.run_id, params=part)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Sends values, but for those of undone steps that MLflow has already.

        Args:
            metrics: By name.
            step: From 1.
        """
        step = step or 0
        undone = step > self._run.finished_steps
        named = {name.replace("@", "_at_"): value for name, value in metrics.items()}
        new = {
            name: value
            for name, value in named.items()
            if not (undone and step <= self._had.get(name, 0))
        }
        if new:
            super().log_metrics(new, step=step)

    def add_image(self, name: str, image: Image.Image, *, step: int) -> None:
        """See `RunLogger`."""
        self.experiment.log_image(
            self.run_id or "", image, artifact_file=f"{name}/step-{step:08d}.png"
        )

    def finalize(self, status: str = "success") -> None:
        """Sets how the run ended.

        Args:
            status: Lightning's word for it.
        """
        with going_on(self):
            super().finalize(status)
