"""Whole runs by the real command.

They are interrupted and resumed, run on two processes, finished, and logged to wandb.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

from align_train.config.saved import read_run
from align_train.errors import UserError
from align_train.run.folder import RunFolder
from align_train.stream.order import Order
from tests.support.commands import NO_COMPOSED, SMALL_RUN, UNEVALUATED, finish, run, start
from tests.support.runs import metrics, numbers, wait_for_step


def test_a_runs_folder(trained: Path, demo: Path) -> None:
    folder = RunFolder(trained)
    rows = metrics(trained)
    assert [row["step"] for row in rows] == [str(step) for step in range(1, 13)]
    assert float(rows[-1]["pairs_seen"]) == 12 * 32
    assert [bool(row["held_out/loss"]) for row in rows] == [
        step in (6, 12) for step in range(1, 13)
    ]
    assert read_run(folder.config).data["make"]["folder"] == str(demo)
    assert (folder.last_step(), os.readlink(trained / "checkpoints" / "last")) == (
        12,
        "step-00000012.ckpt",
    )
    assert sorted(path.name for path in folder.checkpoints.glob("*.ckpt")) == [
        "step-00000008.ckpt",
        "step-00000012.ckpt",
    ]
    for picture in (folder.curves, folder.sheet(1), trained / "zero_shot.png"):
        assert picture.stat().st_size > 1000
    results = json.loads(folder.results.read_text())
    assert results["step"] == 12
    assert 0 <= results["zero_shot/top1"] <= results["zero_shot/top5"] <= 1
    assert results["zero_shot/top1"] <= min(results["zero_shot/colour"], results["zero_shot/shape"])
    # The callback on the live model and the evaluation of the saved checkpoint run the same code on
    # the same weights.
    assert float(rows[-1]["held_out/loss"]) == pytest.approx(results["held_out/loss"], rel=1e-6)
    recipe = {
        "step": 0,
        "pairs": 512,
        "seed": 0,
        "batch_size": 32,
        "lanes": 8,
        "window": 16384,
    }
    assert recipe.items() <= folder.lineage.read()[0].items()


def test_a_checkpoint_is_plain_data(trained: Path) -> None:
    state = torch.load(trained / "checkpoints" / "last", weights_only=True)
    assert state["PairsDataModule"]["cursor"] == 12 * 32


def test_killed_and_resumed_gives_bitwise_the_same_losses(
    trained: Path, tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    """One kill comes within a step after the first checkpoint, the other probably during loading.

    One start has a loader worker, the other has none.
    """
    folder = tmp_path / "outputs" / "killed"
    for step, workers in ((6, 1), (10, 0)):
        process = start(*small_run, "name=killed", f"data.workers={workers}", cwd=tmp_path)
        wait_for_step(step, RunFolder(folder), process)
        os.killpg(process.pid, signal.SIGKILL)
        finish(process)
        assert RunFolder(folder).last_step() in (step - 2, step)
    out = run(*small_run, "name=killed", cwd=tmp_path).stdout
    assert "from step 8" in out or "from step 12" not in out
    assert numbers(folder) == numbers(trained)
    assert json.loads((folder / "results.json").read_text()) == json.loads(
        (trained / "results.json").read_text()
    )


@pytest.mark.long
def test_killed_again_and_again_at_any_moment(
    trained: Path, tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    """Kills come at random times: before, during and after checkpoints.

    The run has one process or two.
    """
    folder = RunFolder(tmp_path / "outputs" / "killed")
    random = Random(0)
    for attempt in range(8):
        options = (
            *small_run,
            "name=killed",
            f"trainer.devices={1 + attempt % 2}",
            "checkpoint_every=1",
        )
        process = start(
            *options, cwd=tmp_path, forked=False
        )  # or it would be over before it is killed
        time.sleep(random.uniform(8, 16))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        finish(process)
        last = folder.last_checkpoint()
        assert (
            last is None or torch.load(last, weights_only=True)["global_step"] == folder.last_step()
        )
    run(*small_run, "name=killed", cwd=tmp_path)
    assert [row["step"] for row in metrics(folder.path)] == [
        row["step"] for row in metrics(trained)
    ]
    for killed, left_alone in zip(metrics(folder.path), metrics(trained), strict=True):
        assert float(killed["loss"]) == pytest.approx(
            float(left_alone["loss"]), rel=2e-5
        )  # two processes: float32 noise


@pytest.mark.long
def test_two_processes_equal_one(tmp_path: Path, small_run: tuple[str, ...]) -> None:
    """The same command on two DDP processes gives the same 20 losses within float32 noise.

    BatchNorm, dropout and drop path are on; the processes communicate by gloo.
    """
    run(*small_run, "name=one", "max_steps=20", cwd=tmp_path)
    run(*small_run, "name=two", "max_steps=20", "trainer.devices=2", cwd=tmp_path)
    folders = [tmp_path / "outputs" / name for name in ("one", "two")]
    for one, two in zip(metrics(folders[0]), metrics(folders[1]), strict=True):
        assert float(two["loss"]) == pytest.approx(float(one["loss"]), rel=2e-5)
        assert float(two["grad_norm"]) == pytest.approx(float(one["grad_norm"]), rel=1e-3)
    assert len(metrics(folders[1])) == 20
    results = [json.loads((folder / "results.json").read_text()) for folder in folders]
    assert results[0]["held_out/loss"] == pytest.approx(results[1]["held_out/loss"], rel=1e-4)


@pytest.mark.long
def test_an_error_on_one_of_two_processes_ends_both(
    tmp_path: Path, demo: Path, small_run: tuple[str, ...]
) -> None:
    """A shard that vanished after the manifest was made: one line, no rank left hanging."""
    shutil.copytree(demo / "train", tmp_path / "train")
    (tmp_path / "train" / "00000128.tar").unlink()
    done = finish(
        start(
            *small_run,
            "name=cut",
            f"data.shards={tmp_path}/train",
            "trainer.devices=2",
            cwd=tmp_path,
        ),
        timeout=120,
    )
    assert done.returncode != 0
    assert "00000128.tar" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_on_one_process_alone_ends_the_other_without_a_stack_trace(
    tmp_path: Path, demo: Path, small_run: tuple[str, ...]
) -> None:
    """With windows as small as this, the vanished shard is needed by the second process only."""
    shutil.copytree(demo / "train", tmp_path / "train")
    order = Order(counts=[128] * 4, seed=0, lanes=8, window=8)
    slots = np.arange(32)
    first = {
        rank: {int(s) for s in order.global_batch(0, 32, slots).shard.reshape(2, -1)[rank]}
        for rank in (0, 1)
    }
    alone = min(first[1] - first[0])
    name = sorted(path.name for path in (tmp_path / "train").glob("*.tar"))[alone]
    (tmp_path / "train" / name).unlink()
    arguments = (
        *small_run,
        "name=cut",
        f"data.shards={tmp_path}/train",
        "trainer.devices=2",
        "data.window=8",
    )
    done = finish(start(*arguments, cwd=tmp_path), timeout=120)
    assert done.returncode != 0 and "Traceback" not in done.stderr, done.stderr
    assert name in done.stderr


def copy_of(trained: Path, to: Path) -> RunFolder:
    shutil.copytree(trained, to / "outputs" / "run", symlinks=True)
    return RunFolder(to / "outputs" / "run")


@pytest.mark.parametrize(
    "length", ["max_steps=1", pytest.param("epochs=0.0625", marks=pytest.mark.long)]
)
def test_a_finished_run_without_held_out_pairs_needs_no_data(
    length: str, demo: Path, tmp_path: Path
) -> None:
    """Nor has it to be told the captions that it found out."""
    shards = shutil.copytree(demo / "train", tmp_path / "shards")
    options = (
        *(option for option in SMALL_RUN if not option.startswith("max_steps=")),
        "data=webdataset",
        f"data.shards={shards}",
        f"data.tokenizer={demo / 'tokenizer'}",
        length,
        "name=bare",
        "eval=pairs",
    )
    out = run(*options, cwd=tmp_path).stdout
    assert "without data.held_out the run is not evaluated by" in out
    shutil.rmtree(shards)
    assert "finished at step 1 of 1" in run(*options, cwd=tmp_path).stdout


def test_a_finished_run_says_so_and_what_changed_is_told_or_refused(
    trained: Path, tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    folder, cwd = copy_of(trained, tmp_path), tmp_path
    before = folder.metrics.read_text()
    out = run(*small_run, "name=run", "evaluate_every=6", cwd=cwd).stdout
    assert "finished at step 12 of 12" in out
    assert "zero_shot/top1" in out
    assert folder.metrics.read_text() == before
    refused = finish(start(*small_run, "name=run", "max_steps=16", "batch_size=64", cwd=cwd))
    assert refused.returncode == 2
    assert "batch_size was 32 in this run and is 64 now" in refused.stderr
    longer = run(
        *small_run, "name=run", "max_steps=14", "optimizer.lr=5e-4", "eval=pairs", cwd=cwd
    ).stdout
    assert "optimizer.lr: 0.002 -> 0.0005" in longer
    rows = metrics(folder.path)
    assert [row["step"] for row in rows] == [str(step) for step in range(1, 15)]
    assert max(float(row["lr"]) for row in rows[12:]) <= 5e-4
    assert folder.lineage.read()[-1]["changed"]["max_steps"] == [12, 14]


def test_a_refused_resume_leaves_the_run_as_it_was(
    trained: Path, tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    folder = copy_of(trained, tmp_path)
    before = {
        path.name: path.read_bytes()
        for path in (folder.config, folder.lineage.path, folder.metrics)
    }
    done = finish(
        start(*small_run, "name=run", "max_steps=16", "model.text_tower.hidden=64", cwd=tmp_path)
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "step-00000012.ckpt: does not go with what changed" in done.stderr
    assert "model.text_tower.hidden: 32 -> 64" in done.stderr
    assert before == {
        path.name: path.read_bytes()
        for path in (folder.config, folder.lineage.path, folder.metrics)
    }


def test_a_last_that_names_nothing_is_no_new_start(
    trained: Path, tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    folder = copy_of(trained, tmp_path)
    (folder.checkpoints / "step-00000012.ckpt").unlink()
    with pytest.raises(UserError, match=r"names no checkpoint .* ln -sfn step-00000008\.ckpt"):
        folder.last_checkpoint()
    (folder.checkpoints / "last").unlink()
    assert folder.last_step() == 8
    folder.results.unlink()
    # Finished, but nobody has evaluated it.
    out = run(*small_run, *NO_COMPOSED, "name=run", "max_steps=8", cwd=tmp_path).stdout
    assert "finished at step 8 of 8" in out and "zero_shot/top1" in out
    assert json.loads(folder.results.read_text())["step"] == 8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ("optimizer.lr=1e30",),
            r"step 14: the loss is nan; the last checkpoint is step 12: look at the data with",
        ),
        (
            ("optimizer.lr=1e39", "checkpoint_every=1"),
            r"step 13: the weights are no longer finite and were not saved",
        ),
    ],
)
def test_weights_that_are_not_finite_are_never_saved(
    options: tuple[str, ...], words: str, trained: Path, tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    folder = copy_of(trained, tmp_path)
    done = finish(
        start(*small_run, "name=run", "max_steps=16", "log_every=100", *options, cwd=tmp_path)
    )
    assert (done.returncode, done.stderr.count("align_train: ")) == (2, 1), done.stderr
    assert words in done.stderr and "Traceback" not in done.stderr
    assert folder.last_step() == 12


def test_a_full_disk_ends_both_processes_in_one_line(
    tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    """FSDP2: both gather what the first cannot write."""
    options = (*small_run, "name=full", "trainer.devices=2", "strategy=fsdp", "max_steps=100000")
    process = start(*options, cwd=tmp_path)
    folder = RunFolder(tmp_path / "outputs" / "full")
    wait_for_step(5, folder, process)
    resource.prlimit(
        process.pid, resource.RLIMIT_FSIZE, (100_000, 100_000)
    )  # no file of its own grows beyond that
    done = finish(process, timeout=120)
    assert (done.returncode, done.stderr.count("align_train: ")) == (2, 1), done.stderr
    assert (
        "the checkpoint cannot be written (File too large)" in done.stderr
        and "Traceback" not in done.stderr
    )
    assert f"the last complete one is step {folder.last_step()}: free some space" in done.stderr
    assert folder.last_step() >= 4 and not list(folder.checkpoints.glob(".*"))
    last = folder.last_checkpoint()
    assert (
        last is not None
        and torch.load(last, weights_only=True)["global_step"] == folder.last_step()
    )


@pytest.mark.parametrize(
    ("number", "devices"),
    [(signal.SIGINT, 1), pytest.param(signal.SIGTERM, 2, marks=pytest.mark.long)],
)
def test_a_signal_saves_and_says_so(
    number: signal.Signals, devices: int, tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    """Ctrl-C reaches the whole group, workers included; SIGTERM here the first process alone."""
    options = (
        *small_run,
        "name=stopped",
        f"trainer.devices={devices}",
        "max_steps=100000",
        "checkpoint_every=100000",
        *UNEVALUATED,
    )
    process = start(*options, cwd=tmp_path)
    folder = RunFolder(tmp_path / "outputs" / "stopped")
    wait_for_step(3, folder, process)
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    done = finish(process, timeout=120)
    assert done.returncode == 128 + number, done.stderr
    assert (
        f"stopped and saved at step {folder.last_step()}; the same command goes on" in done.stderr
    )
    assert "Traceback" not in done.stderr
    assert folder.last_step() >= 3 and metrics(folder.path)[-1]["step"] == str(folder.last_step())
    out = run(*options, f"max_steps={folder.last_step() + 1}", cwd=tmp_path).stdout
    assert f"from step {len(metrics(folder.path)) - 1}" in out


def test_evaluate_command_gives_the_runs_results(trained: Path, tmp_path: Path) -> None:
    folder = copy_of(trained, tmp_path)
    expected = json.loads(folder.results.read_text())
    out = run("model=outputs/run", cwd=tmp_path, module="align_train.evaluate").stdout
    again = json.loads(folder.results.read_text())
    assert {k: v for k, v in again.items() if k != "held_out/loss"} == {
        k: v for k, v in expected.items() if k != "held_out/loss"
    }
    assert again["held_out/loss"] == pytest.approx(expected["held_out/loss"], rel=1e-5)
    assert f"{again['zero_shot/top1']:.4f}" in out


def wandb_log(path: Path) -> Iterator[bytes]:
    """The records of wandb's offline log.

    The log has a header of 7 bytes, then LevelDB's log format in blocks of 32 KiB.
    """
    data = path.read_bytes()
    assert data.startswith(b":W&B")
    place, record = 7, b""
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def wandb_records(folder: Path) -> tuple[str, list[dict[str, Any]], dict[str, Any]]:
    """Run id, history rows and config from an offline run's folder."""
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2

    (log,) = folder.glob("*.wandb")
    identity, rows, config = "", [], {}
    for data in wandb_log(log):
        record = messages.Record()
        record.ParseFromString(data)
        if record.HasField("run"):
            identity = record.run.run_id
        for item in record.run.config.update if record.HasField("run") else record.config.update:
            config[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
        if record.HasField("history"):
            rows.append(
                {
                    item.key or ".".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
            )
    return identity, rows, config


def test_wandb_offline_has_the_losses_and_a_resumed_run_keeps_its_id(
    tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    options = (*small_run, *NO_COMPOSED, "name=logged", "logger=wandb", "logger.wandb.offline=true")
    for steps in (4, 6):
        run(*options, f"max_steps={steps}", cwd=tmp_path)
    folder = tmp_path / "outputs" / "logged"
    starts = [wandb_records(path) for path in sorted((folder / "wandb").glob("offline-run-*"))]
    assert len(starts) == 2
    assert starts[0][0] == starts[1][0] == RunFolder(folder).lineage.read()[0]["run"]
    logged = {
        int(row["trainer/global_step"]): row["loss"]
        for _, rows, _ in starts
        for row in rows
        if "loss" in row
    }
    assert logged == {int(row["step"]): float(row["loss"]) for row in metrics(folder)}
    assert any("samples.filenames" in row for row in starts[0][1])
    results = RunFolder(folder).read_results()
    assert results is not None and results.pop("step") == 6
    (evaluated,) = [
        row for row in starts[1][1] if "zero_shot/top1" in row
    ]  # once more than the losses of that step
    assert {name: evaluated[name] for name in results} == results
    assert {name: float(metrics(folder)[-1][name]) for name in results} == results
    assert starts[0][2]["batch_size"] == 32
    assert starts[0][2]["model"]["image_size"] == 32


def test_a_loader_process_that_dies_ends_the_run_in_one_line(
    tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    """As the kernel kills one when memory runs out."""
    process = start(*small_run, "name=run", "max_steps=100000", cwd=tmp_path)
    folder = RunFolder(tmp_path / "outputs" / "run")
    while folder.last_step() == 0:
        assert process.poll() is None, finish(process).stderr
        time.sleep(0.05)
    command = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    children = [
        int(child)
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ]
    workers = [
        child for child in children if Path(f"/proc/{child}/cmdline").read_bytes() == command
    ]  # forked, not started
    assert len(workers) == 1
    os.kill(workers[0], signal.SIGKILL)
    done = finish(process, timeout=60)
    assert done.returncode == 75 and "Traceback" not in done.stderr
    assert (
        f"loader process {workers[0]} ended by itself (" in done.stderr
        and "goes on from what is saved" in done.stderr
    )
