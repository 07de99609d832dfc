"""`python -m data.repeats source=… to=…`: of images that look nearly the same one stays.

After SemDeDup (arXiv 2303.09540). It works on the embeddings of a collection, and writes a manifest
with a selection; the tars stay as they are. Price: `python -m benchmarks.repeats`.
"""

from __future__ import annotations

from align_train.config.command import command

from .settings import RepeatsSettings, check


def run(settings: RepeatsSettings) -> None:
    """Finds the repeats, and writes the selection and its report."""
    check(settings)

    # Here: `--help` and a wrong setting must not wait for torch.
    from .job import select

    select(settings)


if __name__ == "__main__":
    command(run, config_name="repeats", schema=RepeatsSettings)
