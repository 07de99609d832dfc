"""What services hold of a run, read by their own readers: metric -> (step, value), in order."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

Series = dict[str, list[tuple[int, float]]]

_PROJECT = "align_train"


def tensorboard_series(folder: Path) -> Series:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def mlflow_series(folder: Path) -> Series:
    """Of the only run in the folder's database; `@` as elsewhere."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(_PROJECT)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    series = {}
    for name in run.data.metrics:
        history = client.get_metric_history(run.info.run_id, name)
        pairs = [(metric.step, metric.value) for metric in history]
        series[name.replace("_at_", "@")] = sorted(pairs)
    return series


def trackio_series(folder: Path) -> Series:
    """Of the only run in `TRACKIO_DIR`, which must be set before trackio is imported."""
    assert os.environ["TRACKIO_DIR"] == str(folder / "trackio")
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = trackio.Api().runs(_PROJECT)
    series: Series = {}
    for row in SQLiteStorage.get_logs(_PROJECT, run=run.name, run_id=run.id):
        step: int = row.pop("step")
        del row["timestamp"]
        for name, value in row.items():
            if isinstance(value, float | int):
                series.setdefault(name, []).append((step, value))
    return series


def in_process_of_its_own(reader: str, folder: Path) -> Any:
    """A reader's answer: trackio knows one folder a process."""
    code = (
        "import sys; from pathlib import Path; from tests.support import logged; "
        f"print(logged.{reader}(Path(sys.argv[1])))"
    )
    environment = os.environ | {"TRACKIO_DIR": str(folder / "trackio")}
    out = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return eval(out.splitlines()[-1])
