"""The command line of a benchmark: its `--help` shows the docstring, with targets and price."""

from __future__ import annotations

import argparse


def parser_of(topic: str, docstring: str | None) -> argparse.ArgumentParser:
    """Returns a parser for `python -m benchmarks.TOPIC`.

    Args:
        topic: The folder of the benchmark.
        docstring: The docstring of its `__main__.py`.
    """
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{topic}",
        description=docstring,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def refuse_no_rounds(rounds: int) -> None:
    """Ends the benchmark if `--rounds` is below 1: there would be no median."""
    if rounds < 1:
        raise SystemExit(f"--rounds {rounds}: expected at least 1")
