"""A command of the docs with the settings that make it take seconds.

A page's own settings stay, except numbers that make a run long: those are divided by what divides
the defaults, so that a page's `max_steps=1200` is still twice a run of the demo.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tests.support.commands import SMALL_MAKE, SMALL_RUN

# 12 steps of 32 pairs in place of 600 of 128; norm groups of 8 in place of 64.
_DIVIDED = {
    "max_steps": 50,
    "max_pairs": 200,
    "epochs": 10,
    "log_every": 10,
    "evaluate_every": 50,
    "checkpoint_every": 50,
    "keep_every": 50,
    "batch_size": 4,
    "norm_group": 8,
    "chunk_size": 8,
    "data.make.pairs": 48,
    "data.make.held_out": 32,
    "hydra.sweeper.n_trials": 20,
    "vocabulary": 25,
    "size": 250,
    "threshold": 100,
}
_OF_OTHER_COMMANDS = {
    "data.pack": ("vocabulary",),
    "data.vocabulary": ("size",),
    "data.balance": ("threshold",),
}
_STEPS_OF_DEMO = 50  # of the docs' demo, to a step of the small one

# What a command's defaults are too large for.
_ADDED = {"data.balance": ("least_count=1",)}

_LENGTH = ("max_steps", "max_pairs", "epochs")

# Groups that bring a model of their own.
_OTHER_MODEL = ("model=", "experiment=")


def smaller(module: str, arguments: Sequence[str]) -> list[str]:
    """The arguments of a command that does the same with less.

    Args:
        module: The command's module.
        arguments: Those of the page.
    """
    if any(word in ("--help", "-h", "--version", "--cfg") for word in arguments):
        return list(arguments)
    if module != "align_train":
        return _smaller_other(module, arguments)

    own = [_divided(word) for word in arguments]
    own = ["seed=0,1" if word.startswith("seed=0,1,") else word for word in own]  # of a sweep
    return [*own, *_additions(own)]


def _smaller_other(module: str, arguments: Sequence[str]) -> list[str]:
    divided = _OF_OTHER_COMMANDS.get(module, ())
    words = [_divided(word) if _key(word) in divided else word for word in arguments]
    if module == "align_train.show":
        words = [_earlier(word) if word.startswith("step=") else word for word in words]
    keys = [_key(word) for word in words]
    return [*words, *(word for word in _ADDED.get(module, ()) if _key(word) not in keys)]


def _earlier(word: str) -> str:
    """`step=100` of a run of 600 steps is step 2 of 12; `step=100:110` is 2:3."""
    if not (found := re.fullmatch(r"step=(\d+)(:\d+)?", word)):
        return word
    step = max(1, int(found[1]) // _STEPS_OF_DEMO)
    return f"step={step}:{step + 1}" if found[2] else f"step={step}"


def _additions(own: Sequence[str]) -> list[str]:
    """Settings of a small run, but for those that the page gives and those it has no use for."""
    keys = [_key(word) for word in own]
    has_length = any(key in _LENGTH for key in keys)
    draws = not any(word.startswith("data=") and word != "data=demo" for word in own)
    draws = draws and not any(word.startswith("experiment=emoji") for word in own)

    added: list[str] = []
    for word in (*SMALL_RUN, *(SMALL_MAKE if draws else ())):
        key = _key(word)
        if key in keys or (has_length and key in _LENGTH):
            continue
        if key.startswith("model.") and any(one.startswith(_OTHER_MODEL) for one in own):
            continue
        # An optimizer's own rate would leave those of the parts unread.
        if key == "optimizer.lr" and any(one.startswith("rates.") for one in keys):
            continue
        added.append(word)
    return added


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+")


def _divided(word: str) -> str:
    """A number over its divisor, at least 1; anything else as it stands."""
    key, equals, value = word.partition("=")
    divisor = _DIVIDED.get(_key(word))
    if divisor is None or not equals:
        return word
    if key == "epochs":
        return f"epochs={float(value) / divisor:g}"
    return f"{key}={max(1, int(value) // divisor)}" if value.isdigit() and int(value) else word
