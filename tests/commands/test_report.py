"""report.html: its numbers are the run's, it opens offline, and no text of a run acts in it."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from playwright.sync_api import FloatRect, Page

from align_train.commands.report import report, report_at_end
from align_train.commands.report_facts import spell_seconds
from align_train.commands.report_faults import without_paths
from align_train.config.command_schema import ReportSettings
from align_train.config.compose import compose_command
from align_train.errors import UserError
from align_train.figures.curves import spell
from align_train.figures.html.page import as_json
from align_train.run.folder import RunFolder
from tests.support.browser import needs_chromium, visiting
from tests.support.commands import finish, run, start
from tests.support.page import Report

HOSTILE = "</script><img src=x onerror=alert(1)><script>alert(2)</script>'\"{{ 7*7 }}\u202e\x1b[2J"


def written(*words: str) -> Report:
    return Report(report(compose_command("report", ReportSettings, *words)))


def copied(trained: Path, tmp_path: Path, *names: str) -> Path:
    for name in names:
        shutil.copytree(trained, tmp_path / name, symlinks=True)
    return tmp_path


def test_a_run_leaves_its_report(trained: Path) -> None:
    page = Report(RunFolder(trained).report)
    assert {"h1", "canvas"} - {tag for tag, _ in page.tags} == {"canvas"}
    for heading in ("Recipe", "Curves", "Results", "The first batch", "Lineage", "Files"):
        assert heading in page.text
    # One file: whatever it shows is in it.
    sources = [about["src"] or "" for tag, about in page.tags if "src" in about]
    assert len(sources) >= 5 and all(source.startswith("data:image/") for source in sources)
    assert not [about for tag, about in page.tags if tag in ("link", "iframe", "object")]


def test_its_numbers_are_those_of_the_run(trained: Path, tmp_path: Path) -> None:
    page = written("name=run", f"output_dir={copied(trained, tmp_path, 'run')}")

    results = json.loads((trained / "results.json").read_text())
    assert page.tables["numbers"] == [[name, spell(value)] for name, value in results.items()]

    with (trained / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {name.partition(": ")[2]: points for name, points in page.points().items()}
    for name in ("loss", "grad_norm", "held_out/loss", "pairs_per_second"):
        if name in rows[0]:
            points = [(int(row["step"]), float(row[name])) for row in rows if row[name]]
            assert found[name] == points, name
    assert f"steps {rows[-1]['step']} of 12" in page.text
    assert f"pairs seen {int(rows[-1]['pairs_seen']):,}" in page.text


def test_settings_that_differ_from_the_defaults_come_first(trained: Path, tmp_path: Path) -> None:
    page = written("name=run", f"output_dir={copied(trained, tmp_path, 'run')}")
    differs = {row[0]: row[1:] for row in page.tables["differs"][1:]}
    assert differs["batch_size"] == ["32", "128"] and differs["max_steps"] == ["12", "600"]
    assert "seed" not in differs and "name" not in differs
    assert page.text.index("batch_size") < page.text.index("All settings")


def test_runs_are_compared_side_by_side(trained: Path, tmp_path: Path) -> None:
    folder = copied(trained, tmp_path, "first", "second")
    config = folder / "second" / "config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: 5", 1))
    results = json.loads((trained / "results.json").read_text())
    (folder / "second" / "results.json").write_text(json.dumps(results | {"only/here": 3}))

    page = written("name=[first,second]", f"output_dir={folder}")
    assert page.tables["numbers"][0] == ["", "first", "second"]
    for name, value in results.items():
        assert [name, spell(value), spell(value)] in page.tables["numbers"]
    assert ["only/here", "", "3"] in page.tables["numbers"]
    assert ["seed", "0", "5"] in page.tables["1"] and len(page.tables["1"]) == 2

    points = page.points()
    assert points["loss: first"] == points["loss: second"] and len(points["loss: first"]) == 12
    looks = {tuple(chart["colours"]) for chart in page.charts}
    assert len(looks) == 1 and len(set(*looks)) == 2, "a run has one colour of its own"
    links = [about["href"] for tag, about in page.tags if tag == "a"]
    assert "./first/report.html" in links and "./second/report.html" in links


def test_nothing_that_a_run_holds_acts(trained: Path, tmp_path: Path) -> None:
    folder = hostile_run(trained, tmp_path)
    page = written("name=run", f"output_dir={folder}")

    scripts = [about for tag, about in page.tags if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "charts"}, {}, {}]
    images = [about["src"] or "" for tag, about in page.tags if tag == "img"]
    assert images and all(source.startswith("data:image/") for source in images)
    assert not [name for _, about in page.tags for name in about if name.startswith("on")]
    links = [about["href"] or "" for tag, about in page.tags if tag == "a"]
    assert all(link.startswith(("#", "./")) for link in links)
    # The texts are there, spelled out.
    assert "onerror=alert(1)" in page.text and "{{ 7*7 }}" in page.text
    assert "\u202e" not in page.text and "\x1b" not in page.text


def hostile_run(trained: Path, tmp_path: Path) -> Path:
    """A run with hostile texts wherever one may stand, and files that are not what they say."""
    folder = copied(trained, tmp_path, "run")
    run = folder / "run"
    config = run / "config.yaml"
    config.write_text(config.read_text() + f"hostile: {json.dumps(HOSTILE)}\n")
    bad = {"step": 3, "key": HOSTILE, "reason": HOSTILE, "replaced_by": HOSTILE}
    (run / "bad_pairs.jsonl").write_text(json.dumps(bad) + "\n[1]\n{torn\n")
    caption = {"step": 4, "place": 1, "key": "a/b", "caption": HOSTILE + "\udfff"}
    (run / "non_finite.jsonl").write_text(json.dumps(caption) + "\n")
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps(results | {HOSTILE: HOSTILE, "nan": math.nan}))
    (run / "zero_shot_classes.csv").write_text(f'class,pictures,top1\n"{HOSTILE[:20]}",1,0.5\n')
    with (run / "lineage.jsonl").open("a") as file:
        file.write(json.dumps({"step": 5, "changed": {HOSTILE: [HOSTILE, None]}}) + "\n")
    (run / "javascript:alert(1)").touch()
    (run / "x\" onload='y'>.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    rows = list(csv.reader((run / "metrics.csv").open(newline="")))
    rows[0].append(HOSTILE)
    with (run / "metrics.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [*rows[:1], *([*row, place] for place, row in enumerate(rows[1:]))]
        )
    return folder


def test_no_path_and_no_credential_of_the_machine_is_in_it(trained: Path, tmp_path: Path) -> None:
    folder = copied(trained, tmp_path, "run")
    run = folder / "run"
    text = (run / "config.yaml").read_text()
    text = text.replace("storage_options: null", "storage_options: {token: hush, key: hush}")
    text += "more: {api_key: hush, shards: 's3://hush:hush@bucket/shards?sign=hush', "
    text += "path: /home/hush/x}\n"
    (run / "config.yaml").write_text(text)
    reason = "cannot open /home/hush/shards/0.tar of https://a:hush@host/x.tar?token=hush (404)"
    (run / "bad_pairs.jsonl").write_text(json.dumps({"step": 1, "key": "a", "reason": reason}))
    change = {"step": 6, "changed": {"data.shards": ["/home/hush/old", "/home/hush/new"]}}
    with (run / "lineage.jsonl").open("a") as file:
        file.write(json.dumps(change) + "\n")

    page = written("name=run", f"output_dir={folder}")
    content = (run / "report.html").read_text()
    assert "hush" not in content and str(tmp_path) not in content
    assert "0.tar of https://host/x.tar" in page.text and "s3://bucket/shards" in page.text


@pytest.mark.parametrize(
    ("kept", "says"),
    [
        (
            ["config.yaml"],
            ["no metrics.csv", "no results.json", "no lineage.jsonl", "no checkpoint"],
        ),
        (["metrics.csv"], ["no config.yaml", "no results.json"]),
        (["lineage.jsonl"], ["no config.yaml", "no metrics.csv"]),
        (["results.json"], ["no metrics.csv", "no checkpoint"]),
    ],
)
def test_a_part_of_a_run_gives_what_is_there_and_says_what_is_not(
    kept: list[str], says: list[str], trained: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    for name in kept:
        shutil.copy(trained / name, tmp_path / "run")
    page = written("name=run", f"output_dir={tmp_path}")
    for line in says:
        assert line in page.text
    assert bool(page.charts) == ("metrics.csv" in kept)


def test_torn_files_are_no_error(trained: Path, tmp_path: Path) -> None:
    folder = copied(trained, tmp_path, "run")
    for path in (folder / "run").iterdir():
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] + b"\xff\x00")
    page = written("name=run", f"output_dir={folder}")
    for name in ("lineage.jsonl", "results.json"):
        assert f"{name} cannot be read" in page.text


def test_values_that_no_run_writes_are_no_error(trained: Path, tmp_path: Path) -> None:
    folder = copied(trained, tmp_path, "run")
    run = folder / "run"
    rows = ["step,loss,step_seconds,odd", "1,1e308,1e308,nan", "2,-1e308,1e308,inf"]
    rows += [f"{10**30},1,1,1", "-5,1,1,1", f"{'9' * 5000},1,1,1"]
    (run / "metrics.csv").write_text("\n".join(rows) + "\n")
    (run / "results.json").write_text(f'{{"large": {10**400}, "none": NaN}}')
    (run / "bad_pairs.jsonl").write_text("[" * 100_000 + "\n")
    (run / "lineage.jsonl").write_text("[" * 100_000 + "\n")
    for name in ("pipe.png", "sets.csv"):
        os.mkfifo(run / name)
    page = written("name=run", f"output_dir={folder}")
    assert "lineage.jsonl cannot be read" in page.text
    assert "Pairs replaced: 1." in page.text
    assert "odd 2" in page.text


def test_a_run_whose_losses_are_not_finite_says_so_without_curves(
    trained: Path, tmp_path: Path
) -> None:
    folder = copied(trained, tmp_path, "run")
    (folder / "run" / "metrics.csv").write_text("step,loss\n1,nan\n2,nan\n")
    page = written("name=run", f"output_dir={folder}")
    assert "values not finite, left out: loss 2" in page.text


def test_a_missing_run_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "outputs" / "empty").mkdir(parents=True)
    for name in ("empty", "[none,empty]"):
        done = finish(start(f"name={name}", module="align_train.report", cwd=tmp_path))
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert "no run in" in done.stderr and "give output_dir=…" in done.stderr


def test_the_command_says_where_it_wrote(trained: Path, tmp_path: Path) -> None:
    folder = copied(trained, tmp_path, "run")
    said = run(
        "name=run",
        f"output_dir={folder}",
        "to=deep/own.html",
        cwd=tmp_path,
        module="align_train.report",
    )
    assert said.stdout.startswith(f"{tmp_path}/deep/own.html: written in ")
    # Elsewhere it cannot link to the run's files.
    page = Report(tmp_path / "deep" / "own.html")
    assert not [
        about for tag, about in page.tags if tag == "a" and about["href"] == "./metrics.csv"
    ]


def test_at_a_runs_end_an_error_is_one_printed_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(copied(trained, tmp_path, "run") / "run")
    folder.report.unlink()
    folder.report.mkdir()
    (folder.report / "in the way").touch()
    report_at_end(folder, "run")
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "no report (UserError: " in said

    shutil.rmtree(folder.path)
    report_at_end(folder, "run")
    assert capsys.readouterr().out.count("\n") == 1


def long_run(folder: Path, steps: int) -> list[float]:
    """A run with a logged loss for each step; one of them is far above all others."""
    losses = np.random.default_rng(0).normal(3, 0.1, steps)
    losses[steps // 3] = 9.0
    folder.mkdir(parents=True)
    lines = [f"{step},{loss!r}\n" for step, loss in enumerate(losses.tolist(), start=1)]
    (folder / "metrics.csv").write_text("step,loss\n" + "".join(lines))
    return list(losses.tolist())


def test_a_long_run_stays_small_and_keeps_its_spikes(tmp_path: Path) -> None:
    losses = long_run(tmp_path / "long", 50_000)
    page = written("name=long", f"output_dir={tmp_path}")
    (points,) = page.points().values()
    assert len(points) <= 2000
    assert max(points, key=lambda point: point[1]) == (50_000 // 3 + 1, 9.0)
    assert all(losses[step - 1] == value for step, value in points)
    assert "at most 2,000 points" in page.text
    assert (tmp_path / "long" / "report.html").stat().st_size < 300_000


@given(st.recursive(st.text() | st.sampled_from([HOSTILE, "</", "<!--", "\u2028"]), st.lists))
def test_json_cannot_end_its_element(value: object) -> None:
    text = str(as_json(value))
    assert json.loads(text) == value
    assert not set("<>&\u2028\u2029") & set(text)


def test_paths_in_messages_lose_their_folders() -> None:
    assert without_paths("no /a/b/c.tar: x") == "no c.tar: x"
    assert without_paths("'~/my/x.png' and ../up/y.png") == "'x.png' and y.png"
    assert without_paths("s3://user:word@bucket/a/b.tar?X=1") == "s3://bucket/a/b.tar"
    assert without_paths("image/jpeg of 5/7, key 00001/000010") == (
        "image/jpeg of 5/7, key 00001/000010"
    )


def test_times_are_spelled_by_their_largest_units() -> None:
    assert [spell_seconds(value) for value in (0, 59.6, 201, 7261, 190_000)] == [
        "0 s",
        "1 min",
        "3 min 21 s",
        "2 h 1 min",
        "2 d 4 h",
    ]


def test_names_are_checked() -> None:
    with pytest.raises(UserError, match="11 runs; expected 1 to 10"):
        written(f"name=[{','.join(f'r{number}' for number in range(11))}]")


@needs_chromium
def test_a_browser_without_network_draws_and_zooms_it(trained: Path, tmp_path: Path) -> None:
    folder = hostile_run(trained, tmp_path)
    written("name=run", f"output_dir={folder}")
    path = folder / "run" / "report.html"

    with visiting(offline=True) as visit:
        dialogs: list[str] = []
        visit.page.on("dialog", lambda dialog: dialogs.append(dialog.message))
        visit.page.goto(path.as_uri())
        assert visit.page.locator("canvas").count() == len(Report(path).charts) > 5
        # Something is drawn on each, in more colours than those of the axes.
        drawn = visit.page.evaluate(
            "[...document.querySelectorAll('canvas')].map((canvas) => new Set(canvas"
            ".getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data).size)"
        )
        assert min(drawn) > 20

        before = visit.page.evaluate("shownSteps()")
        assert {tuple(shown) for shown in before} == {(1, 12)}
        visit.page.locator(".u-over").first.scroll_into_view_if_needed()
        box = visit.page.locator(".u-over").first.bounding_box()
        assert box is not None
        drag(visit.page, box, 0.25, 0.75)
        zoomed = visit.page.evaluate("shownSteps()")
        assert len({tuple(shown) for shown in zoomed}) == 1, "all panels move together"
        low, high = zoomed[0]
        assert 1 < low < high < 12 and (low, high) == pytest.approx((3.75, 9.25), abs=0.3)

        # A logarithmic axis keeps the range; a double click shows all steps.
        visit.page.locator(".panel input").first.check()
        assert visit.page.evaluate("shownSteps()")[0] == zoomed[0]
        visit.page.locator(".u-over").nth(1).dblclick()
        wait_until(visit.page, "shownSteps().every(([low, high]) => low === 1 && high === 12)")

        visit.screenshot(tmp_path / "report.png")
        assert visit.requests == [path.as_uri()]
        assert not visit.errors and not dialogs
    assert Image.open(tmp_path / "report.png").height > 2000


def drag(page: Page, box: FloatRect, begin: float, end: float) -> None:
    """Drags the mouse across a part of a box."""
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + begin * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + end * box["width"], y, steps=5)
    page.mouse.up()
    wait_until(page, "shownSteps()[1][0] > 1")


def wait_until(page: Page, condition: str) -> None:
    """Waits for a condition. Playwright's own way would evaluate a text, which the page forbids."""
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(condition)


@pytest.mark.long
@needs_chromium
def test_without_scripts_the_rest_is_there(trained: Path, tmp_path: Path) -> None:
    folder = copied(trained, tmp_path, "first", "second")
    written("name=[first,second]", f"output_dir={folder}")
    with visiting(offline=True) as visit:
        browser = visit.page.context.browser
        assert browser is not None
        page = browser.new_context(java_script_enabled=False, offline=True).new_page()
        page.goto((folder / "report.html").as_uri())
        assert page.locator("#numbers tr").count() > 5
        assert "curves.png" in (page.locator("noscript").first.text_content() or "")
