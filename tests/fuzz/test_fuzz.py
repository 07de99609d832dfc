"""A little of the fuzzing, and what the fuzzer itself promises."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fuzz import targets, watch
from tests.fuzz.mutate import Corpus, mend_png, mend_tar
from tests.fuzz.targets import TARGETS, Target
from tests.fuzz.watch import fuzz
from tests.support.commands import run

# Mutants of two seconds, and of a minute.
FEW = dict.fromkeys(TARGETS, 200) | {"index": 30, "tar": 100}
MANY = {kind: 15 * few for kind, few in FEW.items()}
MANY["settings"] = 20  # each takes as long as a hundred images


@pytest.mark.parametrize("kind", [kind for kind in TARGETS if kind != "settings"])
def test_a_few_mutants_are_accepted_or_refused(kind: str, tmp_path: Path) -> None:
    # By the command, whose process has one thread: children of this one have hung once.
    words = ("--only", kind, "--mutants", str(FEW[kind]))
    table = run(*words, cwd=tmp_path, module="tests.fuzz").stdout
    row = next(line.split() for line in table.splitlines() if line.startswith(kind))
    _, mutants, accepted, refused, *_ = row
    assert int(accepted) + int(refused) == int(mutants) == FEW[kind]


@pytest.mark.long
@pytest.mark.parametrize("kind", TARGETS)
def test_many_mutants_are_accepted_or_refused(kind: str) -> None:
    assert not fuzz(kind, range(FEW[kind], FEW[kind] + MANY[kind])).escapes


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tar", "manifest", "caption"])
def test_the_originals_are_accepted_and_some_mutants_too(kind: str) -> None:
    for original in TARGETS[kind].corpus().originals:
        TARGETS[kind].probe(original)
    report = fuzz(kind, range(100))
    assert report.accepted and report.refused


def test_a_mutant_is_a_function_of_its_kind_and_number() -> None:
    corpus = TARGETS["png"].corpus()
    first = [corpus.mutant(number) for number in range(50)]
    assert first == [corpus.mutant(number) for number in range(50)]
    assert len(set(first)) > 45
    assert first != [replace(corpus, kind="other").mutant(number) for number in range(50)]


@pytest.mark.parametrize(("kind", "mend"), [("png", mend_png), ("tar", mend_tar)])
def test_mending_changes_no_whole_file(kind: str, mend: object) -> None:
    assert callable(mend)
    for original in TARGETS[kind].corpus().originals:
        mended = bytearray(original)
        mend(mended)
        TARGETS[kind].probe(bytes(mended))


def _tried(data: bytes) -> None:
    match data[:1]:
        case b"h":
            time.sleep(60)
        case b"d":
            os._exit(7)
        case b"m":
            len(b"x" * 700_000_000)
        case b"e":
            raise LookupError("nothing\nthere")
        case b"r":
            raise ValueError("refused")


@pytest.mark.long
def test_hangs_deaths_memory_and_errors_are_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One mutant each, and the others are tried all the same."""

    class Spelt(Corpus):
        def mutant(self, number: int) -> bytes:
            return b"ahdmera"[number : number + 1]

    monkeypatch.setitem(targets.TARGETS, "test", Target(lambda: Spelt("test", ()), _tried))
    monkeypatch.setattr(watch, "MEGABYTES", 300)
    report = fuzz("test", range(7), seconds=5)
    reasons = {escape.number: escape.reason for escape in report.escapes}
    assert reasons.pop(1) == "no end after 5 s"
    assert reasons.pop(2) == "ended with 7"
    assert reasons.pop(3).endswith(" MB of memory")
    assert reasons.pop(4).startswith("LookupError: nothing there (test_fuzz.py:")
    assert not reasons
    assert report.mutants == 7 and report.refused == 1
