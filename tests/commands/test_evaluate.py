"""`evaluate` on the sets of images that evaluators name.

The sets are folders of classes, Karpathy's splits and shards.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import tarfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from align_train.commands.devices import device_of
from align_train.commands.evaluate import evaluate
from align_train.config.command_schema import EvaluateSettings
from align_train.config.compose import compose_command
from align_train.demo.scene import class_names
from align_train.errors import Lost, UserError
from align_train.run.folder import RunFolder
from align_train.shards.cache import ShardCache
from align_train.stream.classes import ClassList
from align_train.stream.decode import Views
from align_train.stream.karpathy import Karpathy
from align_train.stream.sets import EvaluationSets, FolderPerClass, Shards
from tests.support.commands import UNEVALUATED, finish, run, start, start_ranks
from tests.support.images import picture

OF = EvaluationSets(
    held_out=None,
    caption="txt",
    vocabulary=ClassList(10),
    views=Views(image_size=32, resize_size=36),
    cache=ShardCache(),
)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Three classes, 2, 1 and 3 pictures."""
    for label, count in ((0, 2), (9, 1), (18, 3)):
        for number in range(count):
            place = (
                tmp_path
                / "classes"
                / class_names()[label].replace(" ", "_")
                / "deeper"
                / f"{number}.PNG"
            )
            place.parent.mkdir(parents=True, exist_ok=True)
            picture(label, number).save(place, "PNG")
    return tmp_path / "classes"


def karpathy(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "dataset.json").write_text(json.dumps({"images": rows, "dataset": "coco"}))
    return folder / "dataset.json"


def row(name: str, *captions: str, split: str = "test", **more: Any) -> dict[str, Any]:
    return {
        "filename": name,
        "split": split,
        "sentences": [{"raw": caption} for caption in captions],
        **more,
    }


def test_a_folder_per_class(folders: Path) -> None:
    found = FolderPerClass(path=str(folders)).open(OF)
    names = ["orange_square"] + ["red_circle"] * 2 + ["yellow_triangle"] * 3
    assert found.about() == [([name], {"class": name}) for name in names]
    assert found[0].shape == (32, 32, 3) and not np.array_equal(found[1], found[2])


def test_karpathys_split(tmp_path: Path) -> None:
    (tmp_path / "val2014").mkdir()
    picture(0).save(tmp_path / "val2014" / "a.jpg")
    picture(1).save(tmp_path / "b.jpg")
    file = karpathy(
        tmp_path,
        [
            row("a.jpg", "one", " two ", filepath="val2014"),
            row("b.jpg", "three"),
            row("c.jpg", "no", split="train"),
        ],
    )
    found = Karpathy(file=str(file), images=str(tmp_path)).open(OF)
    assert [texts for texts, _ in found.about()] == [["one", "two"], ["three"]]
    assert found[1].shape == (32, 32, 3)


def test_labels_in_a_member_of_shards(tmp_path: Path) -> None:
    """As CLIP_benchmark's shards have them: a picture and `cls`."""
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for number, label in enumerate((5, 0, 7)):
            data = io.BytesIO()
            picture(label).save(data, "PNG")
            for extension, content in (("cls", str(label).encode()), ("png", data.getvalue())):
                member = tarfile.TarInfo(f"s{number:07d}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    found = Shards(shards=str(tmp_path / "0.tar"), caption="cls", limit=2).open(OF)
    assert [texts for texts, _ in found.about()] == [["5"], ["0"]]


def _empty_class(folder: Path) -> FolderPerClass:
    (folder / "red_circle").mkdir()
    return FolderPerClass(path=str(folder))


def _missing_picture(folder: Path) -> Karpathy:
    return Karpathy(
        file=str(karpathy(folder, [row("x.jpg", "one", filepath="val")])), images=str(folder)
    )


def _no_caption(folder: Path) -> Karpathy:
    picture(0).save(folder / "x.jpg")
    return Karpathy(file=str(karpathy(folder, [row("x.jpg", " ")])), images=str(folder))


def _other_split(folder: Path) -> Karpathy:
    return Karpathy(
        file=str(karpathy(folder, [row("x.jpg", "one", split="train")])), images=str(folder)
    )


def _other_json(folder: Path) -> Karpathy:
    (folder / "x.json").write_text('{"images": [{"filename": "x.jpg"}]}')
    return Karpathy(file=str(folder / "x.json"), images=str(folder))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: FolderPerClass(path=str(folder / "nowhere")), "nowhere: no such folder"),
        (
            lambda folder: FolderPerClass(path=str(folder)),
            "no folders in it; expected a folder of images per class",
        ),
        (_empty_class, "red_circle: a class without an image"),
        (_missing_picture, r"1 of 1 images with captions are not in images=.*, first .*x\.jpg"),
        (_no_caption, r"1 images have no caption, first x\.jpg"),
        (_other_split, "no image of split=test; there are train"),
        (_other_json, "expected Karpathy's JSON"),
        (
            lambda folder: Karpathy(file=str(folder / "nowhere"), images="."),
            "nowhere: No such file",
        ),
        (lambda folder: Shards(shards=str(folder)), "eval: shards="),
        (lambda folder: Shards(shards="x", limit=0), "limit=0: expected at least 1"),
    ],
)
def test_what_is_missing_is_said_in_one_line(make: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as error:
        make(tmp_path).open(OF)
    assert "\n" not in str(error.value)


# by command


def evaluated(*arguments: str, cwd: Path) -> dict[str, float]:
    run(*arguments, "workers=0", f"to={cwd / 'found'}", cwd=cwd, module="align_train.evaluate")
    found: dict[str, float] = json.loads((cwd / "found" / "results.json").read_text())
    return found


def test_many_evaluators_of_one_run(trained: Path, folders: Path, tmp_path: Path) -> None:
    """A folder per class, neighbours and a probe on the run's own shards, words."""
    (tmp_path / "words.txt").write_text(
        "word1\tword2\tSimLex999\nred\tblue\t3\nring\tcircle\t7\nstar\ta star\t9\n"
    )
    found = evaluated(
        f"model={trained}",
        "eval=[zero_shot,knn,linear_probe,simlex]",
        f"eval.zero_shot.data.path={folders}",
        "eval.linear_probe.iterations=20",
        f"eval.simlex.file={tmp_path / 'words.txt'}",
        cwd=tmp_path,
    )
    assert {
        "zero_shot/top1",
        "zero_shot/mean_per_class",
        "knn/top1",
        "knn/weighted_20",
        "linear_probe/top1",
    } <= found.keys()
    assert found["simlex/couples"] == 3
    assert found["zero_shot/images"] == 6
    assert found["knn/images"] == found["linear_probe/images"] == 64  # the held-out pairs
    with (tmp_path / "found" / "zero_shot_classes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["class"], row["images"]) for row in rows] == [
        ("orange square", "1"),
        ("red circle", "2"),
        ("yellow triangle", "3"),
    ]
    assert sum(int(row["images"]) * float(row["top1"]) for row in rows) == pytest.approx(
        6 * found["zero_shot/top1"], abs=1e-3
    )
    assert (tmp_path / "found" / "zero_shot_confusion.png").is_file()


def test_what_is_found_of_a_finished_run_joins_its_last_row(trained: Path, tmp_path: Path) -> None:
    """On its own pairs; on others, its metrics.csv is left alone."""
    copy = shutil.copytree(trained, tmp_path / "outputs" / "run", symlinks=True)
    before = (copy / "metrics.csv").read_text()
    other = (f"model={copy}", "eval=knn", "workers=0")
    run(
        *other,
        "eval.knn.k=2",
        f"to={tmp_path / 'elsewhere'}",
        cwd=tmp_path,
        module="align_train.evaluate",
    )
    assert (copy / "metrics.csv").read_text() == before
    run(*other, cwd=tmp_path, module="align_train.evaluate")
    with (copy / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert (
        float(rows[-1]["knn/top1"]) == json.loads((copy / "results.json").read_text())["knn/top1"]
    )
    assert [row["knn/top1"] for row in rows[:-1]] == [""] * (len(rows) - 1)
    assert [row["loss"] for row in rows] == [
        row["loss"] for row in csv.DictReader(before.splitlines())
    ]


@pytest.mark.long
def test_an_exported_folder_gives_the_table_of_its_run(
    trained: Path, demo: Path, tmp_path: Path
) -> None:
    """An exported model has every metric of its run; only the step is missing."""
    run(
        f"model={trained}",
        "to=exported",
        "format=huggingface",
        cwd=tmp_path,
        module="align_train.export",
    )
    own = [
        f"eval.{name}.classes={demo}/classes.json"
        for name in ("zero_shot", "composed_colour", "composed_shape")
    ]
    known = (f"eval.knn.train.shards={demo}/train", "eval.knn.train.caption=txt")
    options = (
        f"shards={demo}/held_out",
        "eval=[demo,knn]",
        *own,
        *known,
        "eval.held_out.batch_size=32",
    )
    of_run = run(
        f"model={trained}", *options, "to=one", cwd=tmp_path, module="align_train.evaluate"
    ).stdout.splitlines()
    of_export = run(
        "model=exported", *options, "to=two", cwd=tmp_path, module="align_train.evaluate"
    ).stdout.splitlines()
    one, two = (
        json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two")
    )
    assert one.pop("step") == 12
    assert one == two
    assert len(one) > 20
    tables = [
        [line.split() for line in lines if line.count(" ") and "/" in line.split()[0]]
        for lines in (of_run, of_export)
    ]
    assert tables[0][:-1] == tables[1][:-1]


@pytest.mark.long
def test_two_processes_of_torchrun_find_the_same(
    trained: Path, folders: Path, tmp_path: Path
) -> None:
    arguments = (
        f"model={trained}",
        "eval=[demo,knn,zero_shot]",
        f"eval.zero_shot.data.path={folders}",
        "eval.knn.k=3",
    )
    one = evaluated(*arguments, cwd=tmp_path)
    words = (*arguments, "workers=0", "to=two")
    two = start_ranks(*words, cwd=tmp_path, module="align_train.evaluate", meet=True)
    done = [finish(process) for process in two]
    assert [process.returncode for process in done] == [0, 0], done
    assert "retrieval/" in done[0].stdout and done[1].stdout == ""
    assert json.loads((tmp_path / "two" / "results.json").read_text()) == pytest.approx(
        one, rel=1e-5
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["eval=imagenet"], "eval.imagenet.data.path is not set; give eval.imagenet.data.path=…"),
        (["eval=imagenet", "eval.imagenet.data.path=nowhere"], "nowhere: no such folder"),
        (["eval=knm"], "eval=knm: no such choice; there are classification, coco, "),
        (["eval=[pairs,knm]"], "eval=knm: no such choice; there are classification, coco, "),
        (["eval=knn", "eval.knn.kk=3"], "eval.knn.kk: no such setting, did you mean eval.knn.k?"),
        (["eval=knn", "eval.knn.k=many"], "eval.knn.k=many: expected an integer"),
        (
            ["eval=demo", "eval.zero_shot.classes=nowhere.json"],
            "class file nowhere.json: No such file or directory",
        ),
        (["eval=sts", "eval.sts.file=nowhere"], "nowhere: No such file or directory"),
        (
            ["eval=knn", "eval.knn.train=null"],
            "eval.knn.train=None: expected a set of images: a node with _target_",
        ),
        (
            ["eval=knn", "eval.knn.temperature=inf"],
            "temperature=inf: expected at least 1, and a finite number above 0",
        ),
        (
            ["eval=knn", "eval.knn.label=kind"],
            "label=kind: 512 of 512 images have no such field (the first has class)",
        ),
        (["eval=linear_probe", "eval.linear_probe.weight_decays=[nan]"], "weight_decays=[nan]"),
        (["eval=pairs", "eval.held_out.batch_size=0"], "eval: batch_size=0: expected at least 1"),
        (
            ["eval=pairs", "eval.retrieval.recall_at=[0]"],
            "recall_at=[0]: expected some numbers, each at least 1",
        ),
        (
            ["eval=pairs", "+eval.cwd={_target_:os.getcwd}"],
            "eval.cwd: os.getcwd makes no evaluator",
        ),
        (
            ["eval=pairs", "image_size=64", "resize_size=36"],
            "image_size=64, resize_size=36: expected 8 to 4,096 pixels",
        ),
        (["eval=pairs", "shards=5"], "shards=5: no such manifest, folder or shard"),
        (["eval=pairs", "device=meta"], "device=meta: not there"),
        (["eval=pairs", "chunk_size=99999999999999999999"], "expected 1 to 1,000,000 rows"),
        (["eval=pairs", "caption="], "caption= is empty; give caption=…, or leave it out"),
    ],
)
def test_one_clear_line(arguments: list[str], words: str, trained: Path, tmp_path: Path) -> None:
    done = finish(
        start(
            f"model={trained}", "to=found", *arguments, cwd=tmp_path, module="align_train.evaluate"
        )
    )
    assert done.returncode == 2 and done.stdout == ""
    assert words in done.stderr and done.stderr.count("\n") == 1


def test_a_classifier_has_no_texts_to_compare() -> None:
    with pytest.raises(
        UserError, match="'a photo of 1' is none of the classes, and a classifier has no text tower"
    ):
        ClassList(3)(["1", "a photo of 1"])


@pytest.mark.parametrize(
    ("variables", "visible", "expected"),
    [
        ({}, 8, "cuda"),
        ({"TORCHELASTIC_RUN_ID": "x", "RANK": "10", "LOCAL_RANK": "2"}, 8, "cuda:2"),
        (
            {
                "SLURM_STEP_ID": "0",
                "SLURM_NTASKS": "16",
                "SLURM_PROCID": "11",
                "SLURM_LOCALID": "3",
            },
            8,
            "cuda:3",
        ),
        (
            {
                "SLURM_STEP_ID": "0",
                "SLURM_NTASKS": "16",
                "SLURM_PROCID": "11",
                "SLURM_LOCALID": "3",
            },
            1,
            "cuda:0",
        ),
    ],
)
def test_each_process_of_a_machine_has_its_own_gpu(
    variables: dict[str, str], visible: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    monkeypatch.setattr(torch, "empty", lambda size, device: None)
    assert device_of("cuda") == torch.device(expected)


def test_tasks_that_do_not_meet_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = {
        "SLURM_STEP_ID": "0",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": "1",
        "SLURM_LOCALID": "0",
        "SLURM_JOB_ID": "7",
    }
    for name, value in (tasks | {"MASTER_ADDR": "nowhere.invalid", "MASTER_PORT": "9"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("align_train.cluster.group._TO_MEET", timedelta(seconds=1))
    with pytest.raises(
        Lost, match=r"task 1 does not reach the first one at nowhere\.invalid:9 .*; set MASTER_ADDR"
    ):
        evaluate(compose_command("evaluate", EvaluateSettings, "model=nowhere"))


def test_texts_without_a_picture_are_refused(trained: Path, tmp_path: Path) -> None:
    data = io.BytesIO()
    picture(0).save(data, "PNG")
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name, content in (("a.png", data.getvalue()), ("a.txt", b"one"), ("b.txt", b"two")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    arguments = (f"model={trained}", "to=found", "eval=pairs", "shards=0.tar")
    done = finish(start(*arguments, cwd=tmp_path, module="align_train.evaluate"))
    assert (
        done.returncode == 2
        and "0.tar: 1 texts without an image, first b; pairs to evaluate on must be" in done.stderr
    )


@pytest.mark.long
def test_a_finished_run_is_evaluated_until_all_its_evaluators_have_told(
    small_run: tuple[str, ...], tmp_path: Path, folders: Path
) -> None:
    """A broken image ends the run at its first evaluation, with that step saved, then at its last.

    An evaluation by a single evaluator does not finish the run. The same command does, once the
    image is whole.
    """
    pictures = FolderPerClass(path=str(folders)).open(OF).files
    whole = [picture.read_bytes() for picture in pictures]
    command = (
        *small_run,
        "max_steps=4",
        "name=again",
        "eval=[pairs,zero_shot]",
        f"eval.zero_shot.data.path={folders}",
    )
    command = (*command, "trainer.devices=2", "evaluate_every=2", "checkpoint_every=100")
    ended = []
    for number in (1, 0):  # of the second rank, then of the first
        pictures[number].write_bytes(whole[number][:200])
        ended.append(finish(start(*command, cwd=tmp_path)))
        pictures[number].write_bytes(whole[number])
        assert ended[-1].returncode == 2 and ended[-1].stderr.count("align_train: ") == 1
        assert f"{pictures[number]}: broken image" in ended[-1].stderr
    assert "step 2 is saved, and the same command goes on from there" in ended[0].stderr
    assert "from step 2, seed 0" in ended[1].stdout and "trained to step 4" in ended[1].stdout
    run("model=outputs/again", "eval=pairs", cwd=tmp_path, module="align_train.evaluate")
    out = run(*command, cwd=tmp_path).stdout
    assert "finished at step 4 of 4" in out and "zero_shot/top1" in out
    results = json.loads((tmp_path / "outputs" / "again" / "results.json").read_text())
    with (tmp_path / "outputs" / "again" / "metrics.csv").open(newline="") as file:
        rows = {int(row["step"]): row for row in csv.DictReader(file)}
    assert list(rows) == [1, 2, 3, 4]
    assert float(rows[4]["zero_shot/top1"]) == results["zero_shot/top1"]
    assert rows[2]["retrieval/image_to_text/recall@1"] and not rows[2]["zero_shot/top1"]


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ("fails", "out of memory (CUDA out of memory"),
        pytest.param(
            "breaks", "ZeroDivisionError: a defect of the evaluator", marks=pytest.mark.long
        ),
        pytest.param("is_refused", "embeddings of images are not finite", marks=pytest.mark.long),
    ],
)
def test_an_evaluation_that_fails_costs_no_step(
    trouble: str, words: str, small_run: tuple[str, ...], tmp_path: Path
) -> None:
    """The run evaluates at step 3, and has no other checkpoint due."""
    evaluator = (
        "+eval.late._target_=tests.support.troubled.Troubled",
        f"+eval.late.trouble={trouble}",
    )
    command = (*small_run, *UNEVALUATED, *evaluator, "evaluate_every=3", "checkpoint_every=100")
    done = finish(start(*command, "max_steps=8", "name=a", cwd=tmp_path, TROUBLED_RANK="0"))
    assert done.returncode and words in done.stderr

    folder = RunFolder(tmp_path / "outputs" / "a")
    assert folder.last_step() == 3
    with folder.metrics.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    assert all(row["loss"] for row in rows)


def test_an_undecodable_picture_is_named(trained: Path, folders: Path, tmp_path: Path) -> None:
    broken = folders / "red_circle" / "deeper" / "0.PNG"
    broken.write_bytes(broken.read_bytes()[:200])
    arguments = (
        f"model={trained}",
        "to=found",
        "eval=zero_shot",
        f"eval.zero_shot.data.path={folders}",
        "workers=1",
    )
    done = finish(start(*arguments, cwd=tmp_path, module="align_train.evaluate"))
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert "red_circle/deeper/0.PNG: broken image" in line and "repair or remove it" in line


def test_what_is_missing_shows_before_the_first_step(
    small_run: tuple[str, ...], tmp_path: Path
) -> None:
    options = (
        "eval=[demo,imagenet]",
        f"eval.imagenet.data.path={tmp_path / 'nowhere'}",
        "name=early",
    )
    done = finish(start(*small_run, *options, cwd=tmp_path))
    assert done.returncode == 2 and "nowhere: no such folder" in done.stderr
    assert not (tmp_path / "outputs" / "early" / "checkpoints" / "last").exists()
