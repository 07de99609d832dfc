"""What services hold of a run equals metrics.csv, over kills and resumes, each step once."""

from __future__ import annotations

import csv
import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.loggers import Logger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from align_train.commands.last_results import images_of
from align_train.config.check import check
from align_train.config.compose import compose_training
from align_train.errors import UserError
from align_train.loggers import LoggedRun, TensorBoard, Trackio, Wandb, show_images, tell
from align_train.run.folder import RunFolder
from tests.support.commands import NO_COMPOSED, finish, run, start
from tests.support.logged import (
    Series,
    in_process_of_its_own,
    mlflow_series,
    tensorboard_series,
    trackio_series,
)
from tests.support.runs import metrics, wait_for_step

KILLED_AT = 6
CHECKPOINT = 4
LAST = 8


def run_of(folder: Path, finished_steps: int) -> LoggedRun:
    return LoggedRun(folder, "run", "0123abcd", finished_steps, {"batch_size": 32})


def loss_at(step: int) -> float:
    return 1 / step


def row_of(step: int) -> dict[str, float]:
    return {"loss": loss_at(step), "lr": 1e-3}


def write_rows(folder: Path, last: int) -> None:
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["step", "loss", "lr"])
        writer.writeheader()
        for step in range(1, last + 1):
            writer.writerow({"step": step, **row_of(step)})


def log_over_a_kill(make: Callable[[LoggedRun], TensorBoard | Trackio], folder: Path) -> None:
    """Killed at step 6, resumed from step 4 to the last one, which is then evaluated."""
    first = make(run_of(folder, 0))
    first.begin()
    for step in range(1, KILLED_AT + 1):
        tell([first], row_of(step), step=step)
    # trackio's thread has time to write; of a killed one rows are missing, see below.
    if isinstance(first, Trackio):
        first.finalize("failed")

    write_rows(folder, CHECKPOINT)
    second = make(run_of(folder, CHECKPOINT))
    second.begin()
    for step in range(CHECKPOINT + 1, LAST + 1):
        tell([second], row_of(step), step=step)
    second.finalize("success")
    # Of step 6 an evaluation had not come before the kill.
    tell([second], {"retrieval/recall@1": 0.5}, step=LAST)
    second.add_image("samples", Image.new("L", (4, 4)), step=LAST)
    second.finalize("success")


def expected() -> dict[str, list[tuple[int, Any]]]:
    steps = range(1, LAST + 1)
    return {
        "loss": [(step, pytest.approx(loss_at(step), rel=1e-6)) for step in steps],
        "lr": [(step, pytest.approx(1e-3)) for step in steps],
        "retrieval/recall@1": [(LAST, 0.5)],
    }


def test_tensorboard_has_each_step_once_over_a_kill(tmp_path: Path) -> None:
    log_over_a_kill(lambda logged: TensorBoard(run=logged), tmp_path)
    assert tensorboard_series(tmp_path) == expected()
    assert len(list((tmp_path / "tensorboard").iterdir())) == 3  # starts, and the evaluation


def test_trackio_has_each_step_once_over_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    assert "trackio" not in sys.modules, "trackio knows one folder a process"
    log_over_a_kill(
        lambda logged: Trackio(run=logged, project="align_train", space_id=None), tmp_path
    )
    assert trackio_series(tmp_path) == expected()

    # What a KILL kept from it comes from metrics.csv.
    write_rows(tmp_path, LAST + 2)
    third = Trackio(run=run_of(tmp_path, LAST + 2), project="align_train", space_id=None)
    third.begin()
    third.finalize()
    assert trackio_series(tmp_path)["loss"][LAST:] == [(9, loss_at(9)), (10, loss_at(10))]


def drawn_images(folder: Path) -> list[Path]:
    """What evaluators draw, and what is not theirs."""
    names = ("retrieval", "retrieval_text_to_image", "zero_shot_mistakes", "curves", "search")
    for place, name in enumerate(names):
        Image.new("RGB", (8, 8), (20 * place, 0, 0)).save(folder / f"{name}.png")
    return images_of(["retrieval", "zero_shot"], RunFolder(folder))


def test_images_of_evaluators_reach_tensorboard_by_their_names(tmp_path: Path) -> None:
    images = drawn_images(tmp_path)
    assert [path.stem for path in images] == [
        "retrieval",
        "retrieval_text_to_image",
        "zero_shot_mistakes",
    ]
    logger = TensorBoard(run=run_of(tmp_path, 0))
    logger.begin()
    show_images([Failing(), logger], images, step=LAST)
    logger.finalize("success")

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["images"] == [path.stem for path in images]
    (event,) = events.Images("retrieval_text_to_image")
    assert event.step == LAST
    pixels = Image.open(io.BytesIO(event.encoded_image_string)).convert("RGB")
    assert pixels.getpixel((0, 0)) == (20, 0, 0)


@pytest.mark.long
def test_images_of_evaluators_reach_wandb(tmp_path: Path) -> None:
    images = drawn_images(tmp_path)
    logger = Wandb(run=run_of(tmp_path, 0), project="align_train", offline=True, resume="allow")
    logger.begin()
    tell([logger], row_of(LAST), step=LAST)
    show_images([logger], images, step=LAST)
    logger.finalize("success")
    logger.experiment.finish()

    kept = {path.name for path in tmp_path.glob("wandb/offline-run-*/files/media/images/*.png")}
    # wandb adds its own step and a hash.
    assert {name.rsplit("_", 2)[0] for name in kept} == {path.stem for path in images}


class Failing(Logger):
    """A service that has gone; `clock` has the seconds by then, and each call takes 5 of them."""

    name = "failing"
    version = 0

    def __init__(self) -> None:
        self.clock = 1000.0
        self.asked = 0

    def log_hyperparams(self, *_: object, **__: object) -> None:
        """Nothing."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.asked += 1
        self.clock += 5
        raise ConnectionError("no route to host")


def test_a_service_that_fails_costs_its_rows_and_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing = Failing()
    for step in (1, 2):
        tell([failing], row_of(step), step=step)
    assert capsys.readouterr().out == (
        "logger Failing: cannot write (no route to host); "
        "the run goes on, and metrics.csv has every row\n"
    )


def test_a_service_that_hangs_is_not_asked_in_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = Failing()
    clock = SimpleNamespace(monotonic=lambda: hanging.clock)
    monkeypatch.setattr("align_train.loggers.base.time", clock)
    for step in range(1, 50):
        tell([hanging], row_of(step), step=step)
        hanging.clock += 1
    assert hanging.asked == 1
    hanging.clock += 1
    tell([hanging], row_of(50), step=50)
    assert hanging.asked == 2


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        (["+logger._target_=lightning.pytorch.loggers.WandbLogger"], "expected loggers by name"),
        (["+logger.mine=3"], "logger.mine=3: no logger"),
        (["logger=mlflow", "logger.mlflow.experiment=null"], "logger.mlflow.experiment=None"),
    ],
)
def test_a_wrong_logger_is_refused_in_one_line(overrides: list[str], error: str) -> None:
    with pytest.raises(UserError) as refused:
        check(compose_training(*overrides))
    assert error in str(refused.value)


def test_a_missing_library_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    settings = compose_training("logger=[csv,tensorboard]")
    with pytest.raises(UserError, match=r"logger\.tensorboard: tensorboard is not installed; pip"):
        check(settings)
    # One that is taken out wants nothing.
    check(compose_training("logger=[csv,tensorboard]", "logger.tensorboard=null"))


SECRETS = {
    "WANDB_API_KEY": "f" * 40,
    "HF_TOKEN": "hf_secretsecretsecret",
    "MLFLOW_TRACKING_TOKEN": "mlflow-secret-token",
    "AWS_SECRET_ACCESS_KEY": "aws-secret-access-key",
}


@pytest.mark.long
def test_four_services_hold_the_losses_of_a_killed_and_resumed_run_of_two_ranks(
    tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    """And no file of the run holds a secret of the environment."""
    options = (
        *small_run,
        *NO_COMPOSED,
        "name=run",
        "trainer.devices=2",
        "logger=[wandb,tensorboard,mlflow,trackio]",
        "logger.wandb.offline=true",
    )
    secrets: dict[str, Any] = SECRETS
    folder = tmp_path / "outputs" / "run"
    killed = start(*options, cwd=tmp_path, **secrets)
    wait_for_step(KILLED_AT, RunFolder(folder), killed)
    os.killpg(killed.pid, signal.SIGKILL)
    finish(killed)
    assert "trained to step 12" in run(*options, cwd=tmp_path, **secrets).stdout

    rows = metrics(folder)
    columns = {name for row in rows for name in row if name != "step"}
    of_csv = {
        name: [(int(row["step"]), float(row[name])) for row in rows if row[name]]
        for name in columns
    }
    of_services: dict[str, Series] = {
        "tensorboard": tensorboard_series(folder),
        "mlflow": mlflow_series(folder),
        "trackio": in_process_of_its_own("trackio_series", folder),
    }
    for service, series in of_services.items():
        assert columns == set(series), service
        for name in columns:
            steps = [step for step, _ in series[name]]
            assert steps == [step for step, _ in of_csv[name]], (service, name)
        # tensorboard has float32, as losses are.
        assert series["loss"] == of_csv["loss"], service
        for name in ("retrieval/image_to_text/recall@1", "zero_shot/top1"):
            ((step, value),) = series[name]
            assert step == 12
            assert value == pytest.approx(of_csv[name][0][1], rel=1e-6), service

    # Rank 0 alone writes: a folder or file for each start, and one for the evaluation.
    assert len(list(folder.glob("wandb/offline-run-*"))) == 2
    assert len(list(folder.glob("tensorboard/events*"))) == 3

    for path in folder.rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        found = [name for name, secret in SECRETS.items() if secret.encode() in data]
        assert not found, (path, found)
