"""`python -m tests.support.docs.parsed MODULE ARGUMENTS`: parses a benchmark's command line.

The benchmark's module is imported; it ends as soon as its parser has read the line.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from typing import Any, NoReturn


def main() -> None:
    """Runs the module up to its parser, which must have accepted the line."""
    parse: Any = argparse.ArgumentParser.parse_args

    def parse_and_end(parser: argparse.ArgumentParser, *given: Any, **named: Any) -> NoReturn:
        parse(parser, *given, **named)
        sys.exit(0)

    patched: Any = argparse.ArgumentParser
    patched.parse_args = parse_and_end
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    sys.exit("it has no parser")


if __name__ == "__main__":
    main()
