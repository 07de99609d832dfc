"""A sweep of training runs: from the command line to the runs that it asks for.

`--multirun` (`-m`) and `hydra.mode=MULTIRUN` ask for one. Hydra itself would train the runs in this
process. Here each gets a command line of its own (`commands/sweep.py`).

Price: one composition to know that a line is no sweep, if it might be one.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from align_train.config.compose import compose_training, plain_settings, register
from align_train.config.overrides import as_typed, asks_for_sweep, options_parser, searchpath
from align_train.config.schema import Node, TrainSettings
from align_train.config.sweep_space import Swept, read_swept
from align_train.errors import UserError, shown

# Settings of the sweep itself. A run that got them would be a sweep again.
_OF_SWEEP = ("hydra.mode", "hydra/sweeper", "hydra.sweeper", "hydra/launcher", "hydra.launcher")

# Words that may ask for a sweep without an option.
_MAY_SWEEP = ("experiment", "hydra")


@dataclass
class OptunaSettings:
    """The settings of `hydra/sweeper=optuna`, under `hydra.sweeper`."""

    metric: str
    """A column of metrics.csv, or a result; its value at the last step counts."""

    direction: str
    """`maximize` or `minimize`."""

    n_trials: int
    """Runs in all, failed ones too."""

    sampler: str
    """`tpe` or `random`."""

    seed: int
    """Seed of the sampler."""

    storage: str | None
    """A database of Optuna; null: a journal in the sweep's folder."""

    study_name: str | None
    """The study's name in the storage; null: the sweep's name."""

    params: dict[str, str] | None
    """More that is swept, by key."""


ConfigStore.instance().store(group="hydra/sweeper", name="optuna_schema", node=OptunaSettings)


@dataclass(frozen=True)
class Sweep:
    """What a command line asks for.

    Attributes:
        words: Overrides that all runs have.
        options: Options that all runs have, `--config-dir`.
        space: The settings that differ.
        optuna: The search; None: every combination is a run.
    """

    words: list[str]
    options: list[str]
    space: list[Swept]
    optuna: OptunaSettings | None

    def line(self, words: Sequence[str]) -> list[str]:
        """The arguments of one run's command.

        Args:
            words: Its own overrides.
        """
        # An experiment may ask for a sweep itself: each of its runs would begin one again.
        return [*self.options, *self.words, *words, "hydra.mode=RUN"]

    def settings(self, words: Sequence[str]) -> TrainSettings:
        """Composes the settings of one run; trained models are not spelled out yet.

        Args:
            words: Its own overrides.

        Raises:
            UserError: A setting that must be given is missing.
        """
        where = searchpath(self.options[1] if self.options else None)
        return compose_training(*self.words, *words, "hydra.mode=RUN", *where)


def sweep_of(arguments: Sequence[str]) -> Sweep | None:
    """Finds out whether a command line asks for a sweep, and for which.

    Args:
        arguments: `sys.argv` as it was typed.

    Returns:
        The sweep; None: the line is one run, or asks for something else.

    Raises:
        UserError: The line asks for what no sweep here does.
    """
    # Intermixed: words may stand on both sides of `-m`.
    given, _ = options_parser().parse_known_intermixed_args(arguments[1:])
    # These options only print, and Hydra answers them.
    if given.cfg or given.info or given.shell_completion or given.hydra_help:
        return None
    words: list[str] = given.overrides
    # Cheap signs first: the line of a single run must not pay for the composition below.
    may_sweep = given.multirun or given.config_dir
    if not may_sweep and not any(word.lstrip("+").startswith(_MAY_SWEEP) for word in words):
        return None

    register("train", TrainSettings)
    compose = partial(plain_settings, "train")
    if not asks_for_sweep(given, compose):
        return None
    where = searchpath(given.config_dir)
    typed = as_typed(words, TrainSettings, compose, sweep=lambda: True)
    overrides = OverridesParser.create().parse_overrides(typed)
    # Swept words stay out: `seed=0,1` is no value that could be composed.
    fixed = [word for word, one in zip(typed, overrides, strict=True) if not _is_swept(one)]
    hydra = compose([*fixed, *where])["hydra"]
    _refuse_others(given, hydra)
    return _sweep(words, overrides, given, hydra)


def _sweep(
    words: Sequence[str], overrides: Sequence[Override], given: Namespace, hydra: Node
) -> Sweep:
    sweeper = hydra["sweeper"]
    params = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    of_params = OverridesParser.create().parse_overrides(params)
    by_key = {one.get_key_element(): one for one in of_params}

    # What comes later on the line wins, also over an experiment.
    kept = []
    for word, one in zip(words, overrides, strict=True):
        if _is_swept(one):
            by_key[one.get_key_element()] = one
            continue
        by_key.pop(one.get_key_element(), None)
        if not one.key_or_group.startswith(_OF_SWEEP):
            kept.append(word)
    # A param of the sweeper with a single value is a setting of all runs.
    kept += [one.input_line or "" for one in by_key.values() if not one.is_sweep_override()]

    optuna = None
    if hydra["runtime"]["choices"]["hydra/sweeper"] == "optuna":
        optuna = _optuna(sweeper)
    space = [read_swept(one) for one in by_key.values() if one.is_sweep_override()]
    # An interval has no list of values, which a grid needs.
    for swept in space:
        if optuna is None and not swept.values:
            raise UserError(
                f"{swept.key}=interval(…): has no values of its own to run through; take "
                f"hydra/sweeper=optuna, or name them: {swept.key}={swept.low:g},{swept.high:g}"
            )
    options = [] if given.config_dir is None else ["--config-dir", given.config_dir]
    return Sweep(kept, options, space, optuna)


def _is_swept(override: Override) -> bool:
    return bool(override.is_sweep_override() and not override.is_hydra_override())


def _refuse_others(given: Namespace, hydra: Node) -> None:
    """Refuses options and plugins that no sweep here knows."""
    for option in ("config_name", "config_path"):
        if getattr(given, option) is not None:
            raise UserError(
                f"--{option.replace('_', '-')}: a sweep takes conf/train.yaml; "
                f"add choices of your own by --config-dir"
            )
    choices = hydra["runtime"]["choices"]
    for group, known in (("sweeper", ("basic", "optuna")), ("launcher", ("basic",))):
        choice = choices.get(f"hydra/{group}")
        if choice not in known:
            raise UserError(
                f"hydra/{group}={choice}: expected {' or '.join(known)}; a sweep starts its runs "
                f"one after another"
            )


def _optuna(node: Node) -> OptunaSettings:
    for key, value in node.items():
        if value == "???":
            raise UserError(f"hydra.sweeper.{key} is not set; give hydra.sweeper.{key}=…")
    settings = OptunaSettings(**node)
    if settings.direction not in ("maximize", "minimize"):
        raise UserError(
            f"hydra.sweeper.direction={shown(settings.direction)}: expected maximize or minimize"
        )
    if settings.sampler not in ("tpe", "random"):
        raise UserError(f"hydra.sweeper.sampler={shown(settings.sampler)}: expected tpe or random")
    if settings.n_trials < 1:
        raise UserError(f"hydra.sweeper.n_trials={settings.n_trials}: expected at least 1")
    return settings
