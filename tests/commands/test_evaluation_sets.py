"""`eval=wds`: one command for a list of sets, its table, and the sets that fail."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from align_train.demo.scene import class_names
from tests.support.commands import SHARED_DATA, UNEVALUATED, finish, run, start, start_ranks
from tests.support.wds_sets import classification, multilabel, retrieval

EMOJI = SHARED_DATA / "emoji"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four sets; the labels of one are broken."""
    classification(tmp_path / "wds_six", [i % 6 for i in range(18)])
    retrieval(tmp_path / "wds_captions", 8, lambda index: [class_names()[index], f"no {index}"])
    multilabel(tmp_path / "wds_several", [[i % 3, 3] for i in range(9)], 4)
    broken = classification(tmp_path / "wds_broken", [0, 1, 2])
    (broken / "classnames.txt").write_text("one\ntwo\n")
    return tmp_path


def rows(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "sets.csv").open(newline="") as file:
        return {row["dataset"]: row for row in csv.DictReader(file)}


def test_sets_that_fail_cost_the_others_nothing(trained: Path, root: Path) -> None:
    """Also if the run's own held-out pairs are gone: nobody asks for them."""
    done = finish(
        start(
            f"model={trained}",
            "eval=wds",
            "eval.wds.sets=[six,nowhere,captions,broken,several]",
            f"eval.wds.root={root}",
            "workers=0",
            "to=found",
            cwd=root,
            module="align_train.evaluate",
        )
    )
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if "wds_" in line]
    assert [line.split(": ")[1] for line in lines[:2]] == ["wds_nowhere", "wds_broken"]
    assert "no such folder" in lines[0] and "an image has the label 2" in lines[1]
    assert "2 of 5 sets have no results: wds_nowhere, wds_broken; see" in lines[2]

    results = json.loads((root / "found" / "results.json").read_text())
    table = rows(root / "found")
    assert [*table] == ["wds/six", "wds/captions", "wds/several"]
    six, captions, several = table.values()
    assert float(six["acc1"]) == results["wds_six/top1"]
    assert float(six["acc5"]) == results["wds_six/top5"]
    assert (six["image_retrieval_recall@5"], six["model"], six["pretrained"]) == (
        "",
        "run",
        "step-12",
    )
    assert (
        float(captions["text_retrieval_recall@5"]) == results["wds_captions/image_to_text/recall@5"]
    )
    assert float(several["mean_average_precision"]) == results["wds_several/mean_average_precision"]
    assert results["wds_six/images"] == 18
    assert "held_out/pairs" not in results

    markdown = (root / "found" / "sets.md").read_text()
    assert markdown in done.stdout
    assert markdown.splitlines()[2].startswith(f"| wds/six | {results['wds_six/top1']:.4f} | ")
    assert markdown.splitlines()[-1].startswith(
        f"| mean (of so many) | {float(six['acc1']):.4f} (1)"
    )


@pytest.mark.long
def test_two_processes_find_the_same_and_fail_alike(trained: Path, root: Path) -> None:
    options = (
        f"model={trained}",
        "eval=wds",
        "eval.wds.sets=[six,broken,captions]",
        f"eval.wds.root={root}",
        "workers=0",
    )
    module = "align_train.evaluate"
    one = finish(start(*options, "to=one", cwd=root, module=module))
    two = start_ranks(*options, "to=two", cwd=root, module=module, meet=True)
    done = [finish(process) for process in two]

    assert [one.returncode, *(process.returncode for process in done)] == [2, 2, 2], done
    assert "1 of 3 sets have no results: wds_broken" in done[0].stderr
    assert done[1].stdout == done[1].stderr == ""
    both = [json.loads((root / name / "results.json").read_text()) for name in ("one", "two")]
    assert both[1] == pytest.approx(both[0], rel=1e-5)


@pytest.mark.long
def test_a_run_is_evaluated_by_sets_on_its_way(small_run: tuple[str, ...], root: Path) -> None:
    """A set that is not there ends the run before its first step."""
    options = (
        *small_run,
        *UNEVALUATED,
        "name=sets",
        "eval=wds",
        f"eval.wds.root={root}",
        "evaluate_every=6",
    )
    done = finish(start(*options, "eval.wds.sets=[six,nowhere]", cwd=root))
    assert done.returncode == 2 and "wds_nowhere: no such folder" in done.stderr

    run(*options, "eval.wds.sets=[six,captions]", cwd=root)
    with (root / "outputs" / "sets" / "metrics.csv").open(newline="") as file:
        found = [row["wds_six/top1"] for row in csv.DictReader(file)]
    assert [bool(value) for value in found] == [step in (6, 12) for step in range(1, 13)]
    assert float(rows(root / "outputs" / "sets")["wds/six"]["acc1"]) == float(found[-1])


@pytest.mark.long
@pytest.mark.skipif(not EMOJI.is_dir(), reason="wants the emoji and their names")
def test_names_in_five_languages(trained: Path, tmp_path: Path) -> None:
    """Each language has its own row; its names are those of the table."""
    languages = ["en", "de", "es", "fr", "ja"]
    names: dict[str, dict[str, str]] = {language: {} for language in languages}
    with (EMOJI / "names.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if row["language"] in names:
                names[row["language"]][row["code"]] = row["tts"]
    folder = classification(tmp_path / "wds_emoji", [i % 8 for i in range(16)])
    codes = [*names["en"]][:8]
    for language in languages:
        lines = [names[language][code] for code in codes]
        (folder / f"classnames_{language}.txt").write_text("\n".join(lines), encoding="utf-8")
        (folder / f"zeroshot_classification_templates_{language}.txt").write_text("{c}\n")

    run(
        f"model={trained}",
        "eval=wds",
        "eval.wds.sets=emoji",
        f"eval.wds.root={tmp_path}",
        f"eval.wds.language=[{','.join(languages)}]",
        "workers=0",
        "to=found",
        cwd=tmp_path,
        module="align_train.evaluate",
    )
    with (tmp_path / "found" / "sets.csv").open(newline="") as file:
        assert [row["language"] for row in csv.DictReader(file)] == languages
    table = (tmp_path / "found" / "sets.md").read_text()
    assert "| wds/emoji | ja | " in table
    with (tmp_path / "found" / "wds_emoji_ja_classes.csv").open(encoding="utf-8") as file:
        assert [row["class"] for row in csv.DictReader(file)] == [
            names["ja"][code] for code in codes
        ]
