"""`python -m data.filter source=… to=…`: the paper's filters on a crawl's table, or on shards.

A table gives the rows that pass; shards give a selection too, so that no tar is written anew. Rules
may be on any column, on a model's scores, and on a list of uids. Price: 20 M rows take four
minutes on two cores and 5 GB of disk.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from align_train.config.command import command
from align_train.errors import UserError
from align_train.files import check_writable

from ..tables.extra import need_prepare
from .settings import FilterSettings

if TYPE_CHECKING:
    from .plan import Plan


def run(settings: FilterSettings) -> None:
    """Filters the source, goes on with a filter that was killed, or says that all is done."""
    need_prepare("filter")
    # After `need_prepare`: these modules import pyarrow and Ibis, which are in an extra.
    from .column_rules import column_rules
    from .job import DONE, WORK, partial_of, run_filter
    from .plan import make_plan
    from .rules import check
    from .scored import match_scores, open_scores
    from .source import open_source
    from .uids import open_list

    check(settings.rules)
    column_rules(settings.rules.columns)
    _check_numbers(settings)
    _check_rights(settings)

    # Before the source, which may have to be counted.
    uids = open_list(settings.rules.uids.of)
    scores = open_scores(settings.scores)

    tables = open_source(settings, partial_of(settings.to) / WORK)
    plan = make_plan(settings, tables, scored=match_scores(scores, tables), uids=uids)
    plan.print_recipe()

    done = plan.to / DONE
    if done.is_file():
        _print_finished(plan, done)
        return
    if plan.to.exists():
        raise UserError(
            f"to={settings.to} exists, and is no filter's output; remove it or choose another "
            f"folder"
        )
    run_filter(plan)


def _check_numbers(settings: FilterSettings) -> None:
    least_memory = 1 if settings.engine == "spark" else 0.5
    numbers = {
        "memory_gb": (settings.memory_gb, least_memory),
        "threads": (settings.threads, 1),
        "examples": (settings.examples, 0),
    }

    for name, (value, least) in numbers.items():
        # `not >=` refuses NaN too.
        if value is not None and not value >= least:
            raise UserError(f"{name}={value}: expected at least {least}")


def _check_rights(settings: FilterSettings) -> None:
    to = Path(settings.to).expanduser().absolute()
    # A filter that is finished may be a colleague's: nothing is written to it.
    if not to.exists():
        check_writable(to, "give to=…, a new folder in one that you can write")
    if settings.temporary:
        spill = Path(settings.temporary).expanduser().absolute() / "spill"
        check_writable(spill, "give temporary=…, a folder that you can write")


def _print_finished(plan: Plan, done: Path) -> None:
    plan.refuse_another(done)

    text = (plan.to / "report.md").read_text(encoding="utf-8")
    # Without the examples, which follow the table under headings of their own.
    print(text.split("## ")[0].strip())
    print(f"{plan.to}: is finished; remove it to filter anew")


if __name__ == "__main__":
    command(run, config_name="filter", schema=FilterSettings)
