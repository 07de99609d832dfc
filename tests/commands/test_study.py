"""A search by Optuna: one trial for all ranks; NaN is a failure, a kill costs nothing."""

from __future__ import annotations

import csv
import math
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from align_train.commands import study as study_module
from align_train.commands.apart import Ended
from align_train.commands.sweep import run_sweep
from align_train.config.sweep import Sweep, sweep_of
from align_train.errors import Interrupted, UserError
from align_train.run.folder import RunFolder
from tests.support.commands import finish, start
from tests.support.runs import metrics, wait_for_step

SEARCH = (
    "hydra/sweeper=optuna",
    "hydra.sweeper.metric=loss",
    "hydra.sweeper.direction=minimize",
)

Values = Callable[[dict[str, str]], float]


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def asked(folder: Path, *words: str) -> Sweep:
    found = sweep_of(["align_train", "-m", *SEARCH, f"output_dir={folder}", "name=search", *words])
    assert found is not None
    return found


class Runs:
    """In place of processes: each run writes the one row that the study reads."""

    def __init__(self, loss: Values) -> None:
        self.loss = loss
        self.lines: list[dict[str, str]] = []
        self.interrupt_at = -1

    def __call__(self, arguments: Sequence[str], log: Path) -> Ended:
        words = dict(word.split("=", 1) for word in arguments)
        if len(self.lines) == self.interrupt_at:
            self.interrupt_at = -1
            raise Interrupted(signal.SIGTERM)
        self.lines.append(words)
        folder = RunFolder(Path(words["output_dir"]) / words["name"])
        folder.path.mkdir(parents=True, exist_ok=True)
        loss = self.loss(words)
        if loss < 0:
            return Ended(2, 0.1, "align_train: batch_size=3: no")
        folder.config.touch()
        folder.metrics.write_text(f"step,loss\n8,{loss!r}\n")
        return Ended(0, 0.1, "done")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    made = Runs(lambda words: abs(float(words["optimizer.lr"]) - 0.3))
    monkeypatch.setattr(study_module, "run_apart", made)
    return made


LR = "optimizer.lr=interval(0.01,1)"


def test_an_interrupted_study_ends_as_one_that_was_left_alone(tmp_path: Path, runs: Runs) -> None:
    run_sweep(asked(tmp_path / "alone", LR, "hydra.sweeper.n_trials=4"))
    alone = [words["optimizer.lr"] for words in runs.lines]
    assert len(set(alone)) == 4

    runs.lines.clear()
    runs.interrupt_at = 2
    again = asked(tmp_path / "twice", LR, "hydra.sweeper.n_trials=4")
    with pytest.raises(Interrupted):
        run_sweep(again)
    run_sweep(again)
    assert [words["optimizer.lr"] for words in runs.lines] == alone
    assert [words["name"] for words in runs.lines] == [f"search-00{n}" for n in range(4)]

    # All is done: nothing runs. More trials go on.
    run_sweep(again)
    assert len(runs.lines) == 4
    run_sweep(asked(tmp_path / "twice", LR, "hydra.sweeper.n_trials=5"))
    assert len(runs.lines) == 5


def test_the_table_has_the_best_first_and_failures_last(
    tmp_path: Path, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.loss = lambda words: math.inf if words["seed"] == "3" else float(words["seed"])
    run_sweep(asked(tmp_path, "seed=range(1,4)", "hydra.sweeper.n_trials=8"))
    rows = rows_of(tmp_path / "search")
    done = [row for row in rows if row["state"] == "done"]
    failed = rows[len(done) :]
    assert len(rows) == 8 and done and failed
    assert [row["loss"] for row in done] == sorted(row["loss"] for row in done)
    assert all(row["loss"] == repr(float(row["seed"])) for row in done)
    assert {(row["state"], row["reason"]) for row in failed} == {("failed", "loss is not finite")}

    table = capsys.readouterr().out.splitlines()
    assert "loss, the lowest first:" in table
    assert table[table.index("loss, the lowest first:") + 1].split() == [
        "trial",
        "value",
        "state",
        "minutes",
        "seed",
    ]
    assert (tmp_path / "search" / "trials.png").stat().st_size > 1000


@pytest.mark.long
def test_another_line_is_no_continuation(tmp_path: Path, runs: Runs) -> None:
    run_sweep(asked(tmp_path, LR, "hydra.sweeper.n_trials=1"))
    with pytest.raises(UserError, match="its study was begun with another line"):
        run_sweep(asked(tmp_path, LR, "max_steps=7"))
    with pytest.raises(UserError, match="its study was begun with another line"):
        run_sweep(asked(tmp_path, "optimizer.lr=interval(0.01,2)"))
    assert len(runs.lines) == 1


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["hydra.sweeper.metric=los", LR], "hydra.sweeper.metric=los: no such metric here, did"),
        (["optimizer.learning=interval(1,2)"], "optimizer.learning"),
        (["name=a,b"], "name: a trial's name and folder are given by the sweep"),
        ([], "nothing differs between the trials"),
        (["optimizer=adamw,lammb"], "lammb"),
    ],
)
def test_a_wrong_search_is_refused_before_its_first_trial(
    words: list[str], error: str, tmp_path: Path, runs: Runs
) -> None:
    with pytest.raises(Exception, match=error):
        run_sweep(asked(tmp_path, *words))
    assert not runs.lines and not list(tmp_path.iterdir())


@pytest.mark.long
def test_a_search_of_which_no_run_begins_ends_with_its_reason(tmp_path: Path, runs: Runs) -> None:
    """A failure after others have trained is a trial's own."""
    runs.loss = lambda _: -1
    with pytest.raises(UserError, match="no trial could begin: batch_size=3: no"):
        run_sweep(asked(tmp_path, LR))
    assert len(runs.lines) == 1

    runs.loss = lambda _: 1.0 if len(runs.lines) == 2 else -1
    run_sweep(asked(tmp_path, LR, "hydra.sweeper.n_trials=4"))
    states = sorted(row["state"] for row in rows_of(tmp_path / "search"))
    assert states == ["done", "failed", "failed", "failed"]


@pytest.mark.long
def test_the_corrected_line_of_a_search_that_never_began_is_a_new_search(
    tmp_path: Path, runs: Runs
) -> None:
    """Optuna would refuse its other choices, and keep the direction of the wrong line."""
    runs.loss = lambda _: -1
    with pytest.raises(UserError, match="no trial could begin"):
        run_sweep(asked(tmp_path, "batch_size=choice(64,192)", "hydra.sweeper.n_trials=3"))

    runs.loss = lambda words: float(words["batch_size"])
    words = ("batch_size=choice(128,256)", "hydra.sweeper.n_trials=3")
    run_sweep(asked(tmp_path, *words, "hydra.sweeper.direction=maximize"))
    losses = [float(row["loss"]) for row in rows_of(tmp_path / "search")]
    assert len(losses) == 3 and losses == sorted(losses, reverse=True)


def test_the_folder_of_a_run_is_no_place_for_a_search(tmp_path: Path, runs: Runs) -> None:
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "config.yaml").touch()
    with pytest.raises(UserError, match="is the folder of a run; give the sweep a name"):
        run_sweep(asked(tmp_path, LR))
    assert not runs.lines


@pytest.mark.long
def test_a_search_of_two_ranks_outlives_nan_and_a_kill(
    tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    """Rates up to 1e5. Killed in its third trial, whose run then goes on from its checkpoint."""
    command = (
        "-m",
        *[word for word in small_run if not word.startswith(("max_steps", "optimizer.lr"))],
        "eval=pairs",
        "hydra/sweeper=optuna",
        "hydra.sweeper.metric=retrieval/image_to_text/recall@10",
        "hydra.sweeper.direction=maximize",
        "hydra.sweeper.n_trials=5",
        "hydra.sweeper.sampler=random",
        "name=search",
        "trainer.devices=2",
        "max_steps=6",
        "checkpoint_every=2",
        "optimizer.lr=tag(log,interval(1e-4,1e5))",
    )
    folder = tmp_path / "outputs" / "search"
    sweep = start(*command, cwd=tmp_path, forked=False)
    third = RunFolder(folder / "search-002")
    wait_for_step(3, third, sweep, seconds=900)
    os.kill(sweep.pid, signal.SIGKILL)
    finish(sweep)
    begun = third.lineage.read()[0]["run"]
    before = rows_of(folder)
    assert len(before) == 2

    done = finish(start(*command, cwd=tmp_path, forked=False), timeout=900)
    assert done.returncode == 0, done.stderr
    assert f"{folder}: 2 of 5 trials are done" in done.stdout
    rows = {row["trial"]: row for row in rows_of(folder)}
    assert len(rows) == 5
    assert all(rows[row["trial"]] == row for row in before)
    assert third.lineage.read()[0]["run"] == begun
    assert "from step" in (folder / "search-002.log").read_text()

    for number, row in rows.items():
        one = RunFolder(folder / f"search-{int(number):03d}")
        if row["state"] == "failed":
            assert "finite" in row["reason"]
            continue
        results = one.read_results()
        assert results is not None
        assert results["retrieval/image_to_text/recall@10"] == float(
            row["retrieval/image_to_text/recall@10"]
        )
        # Both ranks had the trial's rate: a run of two ranks that differ is refused by agreement.
        assert float(metrics(one.path)[-1]["step"]) == 6
    assert "retrieval/image_to_text/recall@10, the highest first:" in done.stdout
