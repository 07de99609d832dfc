"""`align-train plan`: its settings beside those of a run, and its refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from align_train.commands.plan import plan
from align_train.commands.plan_settings import check_plan, compose_plan
from align_train.errors import UserError
from tests.support.commands import SMALL_MAKE, finish, run, start

PLAN = "align_train.plan"

MINE = """\
name: my card
memory_gb: 48
bf16_tflops: 100
fp32_tflops: 20
memory_gbs: 700
node_link_gbs: 16
network_gbs: 1
gpus_per_node: 4
cpu_cores: 32
"""


SMALL_B3 = ("model=b3_mini", "model.image_size=64", "norm_group=8", "batch_size=1024", "nodes=8")


def refusal(*words: str, cwd: Path) -> str:
    done = finish(start(*words, cwd=cwd, module=PLAN))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    return done.stderr


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What the command prints, without a process of its own."""
    settings = compose_plan(*words)
    check_plan(settings)
    plan(settings)
    return capsys.readouterr().out


def test_a_plan_needs_neither_data_nor_hardware_and_says_what_it_assumed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("data=webdataset", "nodes=2", "batch_size=65536", "data.lanes=1024")
    found = printed(capsys, *words, "price_per_gpu_hour=2.5")
    assert "2 x 8 NVIDIA H100" in found
    assert "data.shards is not set: give pairs=… shards=… bytes_per_pair=…" in found
    assert "data.tokenizer is not set" in found
    assert "planned with BERT's 30,522 words" in found
    assert "$" in found
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_data_that_is_there_is_counted(tmp_path: Path) -> None:
    run(*SMALL_MAKE, "dry_run=true", cwd=tmp_path)
    done = run(*SMALL_MAKE, cwd=tmp_path, module=PLAN)
    assert "512 pairs" in done.stdout
    assert "300 words in the vocabulary" in done.stdout
    assert "planned with" not in done.stdout and "give pairs=" not in done.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        # Weights, gradients and moments are too much on each rank; sharded they fit.
        (("gpu.memory_gb=0.4", *SMALL_B3), "nearest that fits: strategy=fsdp"),
        pytest.param(
            ("gpu.memory_gb=0.01",), "nothing fits, up to 1,024 GPUs", marks=pytest.mark.long
        ),
    ],
)
def test_a_step_that_does_not_fit_is_answered_with_the_nearest_that_does(
    words: tuple[str, ...], told: str
) -> None:
    settings = compose_plan("data=webdataset", "data.lanes=1024", "batch_size=65536", *words)
    with pytest.raises(UserError, match=told) as error:
        plan(settings)
    assert "GB a GPU, most of it" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_choice_may_be_a_file_or_lie_in_a_folder_of_the_users(tmp_path: Path) -> None:
    (tmp_path / "conf" / "gpu").mkdir(parents=True)
    (tmp_path / "conf" / "gpu" / "mine.yaml").write_text(
        f"_target_: align_train.planning.hardware.Hardware\n{MINE}"
    )
    (tmp_path / "h100.yaml").write_text(MINE)
    for words in (("--config-dir", "conf", "gpu=mine"), ("gpu=h100.yaml",)):
        done = run(*words, "nodes=1", "--cfg", "job", cwd=tmp_path, module=PLAN)
        assert "name: my card" in done.stdout

    (tmp_path / "wrong.yaml").write_text(MINE.replace("cpu_cores", "cpu_croes"))
    told = refusal("gpu=wrong.yaml", cwd=tmp_path)
    assert "gpu.cpu_croes: no such setting, did you mean gpu.cpu_cores?" in told
    assert "gpu=none.yaml: no such file" in refusal("gpu=none.yaml", cwd=tmp_path)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("nods=3",), "nods: no such setting, did you mean nodes?"),
        (("optimizer.lrr=3",), "optimizer.lrr: no such setting, did you mean optimizer.lr?"),
        (("gpu=h10",), "gpu=h10: no such choice; there are a100"),
        (("nodes=0",), "nodes=0: expected at least 1"),
        (("price_per_gpu_hour=-1",), "price_per_gpu_hour=-1.0: expected more than 0"),
        (("precision=fp16",), "precision=fp16: expected one of"),
        (("clip=-1",), "clip=-1.0: expected a gradient norm above 0"),
    ],
)
def test_a_mistake_in_either_set_of_settings_is_one_line(
    words: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    assert told in refusal(*words, cwd=tmp_path)


def test_an_uneven_batch_is_answered_with_the_nearest_that_fit(tmp_path: Path) -> None:
    told = refusal("data=coyo700m", "nodes=3", "gpus_per_node=8", cwd=tmp_path)
    assert "no even split over 24 GPUs (nodes=3 gpus_per_node=8)" in told
    assert "16 GPUs (nodes=2) or 32 GPUs (nodes=4)" in told

    # What is proposed is accepted.
    fix = told.rpartition(" or ")[2].split()
    check_plan(compose_plan("data=coyo700m", "nodes=3", "gpus_per_node=8", *fix))


def test_processes_are_the_plans_whatever_the_trainer(tmp_path: Path) -> None:
    words = ("data=coyo700m", "trainer=multinode", "nodes=4", "gpus_per_node=4", "gpu=a100")
    trainer = compose_plan(*words).trainer
    assert (trainer.nodes, trainer.devices) == (4, 4)
    shown = run(*words, "--cfg", "job", cwd=tmp_path, module=PLAN).stdout
    assert "accelerator: gpu" in shown and "gpus_per_node: 4" in shown


def test_a_folder_gets_every_figure_and_an_image(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    place = tmp_path / "plans" / "tiny"
    said = printed(capsys, "batch_size=512", "price_per_gpu_hour=2", f"to={place}", "gpu=l4")
    assert f"{place}: plan.json, plan.png" in said
    assert (place / "plan.png").stat().st_size > 10_000

    written = json.loads((place / "plan.json").read_text())
    rows = written["gpus"]
    assert [row["gpus"] for row in rows] == [1, 2, 4, 8]
    for row in rows:
        seconds = written["steps"] * row["seconds_a_step"]
        assert row["days"] == pytest.approx(seconds / 86_400)
        assert row["cost"] == pytest.approx(2 * row["gpus"] * seconds / 3_600)
        assert row["pairs_a_second"] == pytest.approx(512 / row["seconds_a_step"])
    assert "strategy=ddp" in written["strategies"]
