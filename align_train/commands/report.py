"""One HTML file on a run, or on several: recipe, curves, results, images, faults, lineage.

A run writes its own at its end; `python -m align_train.report` does so at any time, of whatever is
there. The file opens offline.

Price: under a second of CPU time for the demo; most of it goes to composing the defaults and to
making the images smaller.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import align_train
from align_train.commands.report_facts import RunFacts, facts_of
from align_train.commands.report_pages import comparison_of, page_of
from align_train.config.command_schema import ReportSettings
from align_train.errors import UserError, one_line, shown
from align_train.figures.html.page import render
from align_train.files import check_writable, write_whole
from align_train.run.folder import RunFolder

_FIX = "give to=…, a file that you can write"

_REASON = 200  # characters of an error

_MOST_RUNS = 10  # more curves in a panel cannot be told apart


def report(settings: ReportSettings) -> Path:
    """Writes a report: `python -m align_train.report`.

    Args:
        settings: The command's settings.

    Returns:
        The file.

    Raises:
        UserError: There is no such run, or the file cannot be written.
    """
    names = settings.name if isinstance(settings.name, list) else [settings.name]
    # A run that is named twice would be compared with itself.
    names = list(dict.fromkeys(map(str, names)))
    if not 1 <= len(names) <= _MOST_RUNS:
        raise UserError(f"name={shown(names)}: {len(names)} runs; expected 1 to {_MOST_RUNS}")

    runs = Path(settings.output_dir).expanduser().absolute()
    folders = [RunFolder(runs / name) for name in names]
    for name, folder in zip(names, folders, strict=True):
        _refuse_missing(name, folder)

    path = folders[0].report if len(folders) == 1 else runs / folders[0].report.name
    if settings.to is not None:
        path = Path(settings.to).expanduser().absolute()
    check_writable(path, _FIX)

    begun = time.monotonic()
    facts = [facts_of(folder, name) for name, folder in zip(names, folders, strict=True)]
    write_whole(path, _html(facts, path.parent), fix=_FIX)
    print(f"{path}: written in {time.monotonic() - begun:.1f} s", flush=True)
    return path


def report_at_end(folder: RunFolder, name: str) -> None:
    """Writes a run's report at its end. An error is one printed line: the run has done its work.

    Args:
        folder: The run's folder.
        name: The run's name.
    """
    try:
        facts = facts_of(folder, name)
        write_whole(folder.report, _html([facts], folder.path))
    except Exception as error:  # whatever it is, the run is complete
        reason = one_line(f"{type(error).__name__}: {error}", _REASON)
        print(f"{folder.report}: no report ({reason}); the run is complete without it", flush=True)
        return
    print(f"{folder.report}: recipe, curves, results and images in one file", flush=True)


def _html(runs: Sequence[RunFacts], beside: Path) -> str:
    """The file's content. beside: the folder that it is written to."""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    written = f"written by align_train {align_train.__version__} on {now}"
    if len(runs) == 1:
        page, charts = page_of(runs[0], links=beside == runs[0].folder.path)
    else:
        page, charts = comparison_of(runs, beside)
    return render(page | {"written": written}, charts)


def _refuse_missing(name: str, folder: RunFolder) -> None:
    """Refuses a name that is no run's: a folder without anything that a run writes."""
    files = (folder.config, folder.metrics, folder.lineage.path, folder.results)
    if not any(file.is_file() for file in files):
        raise UserError(
            f"name={shown(name)}: no run in {folder.path}; give output_dir=… if it lies elsewhere"
        )
