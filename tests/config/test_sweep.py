"""A sweep's command line: what differs, what all runs have, and what is refused before any run."""

from __future__ import annotations

from pathlib import Path

import pytest

from align_train.config.sweep import Sweep, sweep_of
from align_train.config.sweep_space import Swept, combinations
from align_train.errors import UserError

OPTUNA = ("hydra/sweeper=optuna", "hydra.sweeper.metric=loss", "hydra.sweeper.direction=minimize")


def asked(*words: str) -> Sweep:
    found = sweep_of(["align_train", *words])
    assert found is not None
    return found


def test_a_line_without_multirun_is_no_sweep() -> None:
    assert sweep_of(["align_train", "seed=1", "experiment=lit"]) is None
    assert sweep_of(["align_train", "-m", "seed=1,2", "--cfg", "job"]) is None


def test_words_on_both_sides_of_the_option_count() -> None:
    sweep = asked("max_steps=3", "-m", "name=a-${seed}", "seed=0,1")
    assert sweep.words == ["max_steps=3", "name=a-${seed}"]
    assert [one.key for one in sweep.space] == ["seed"]


def test_every_combination_is_a_run_with_a_line_of_its_own() -> None:
    sweep = asked(
        "-m", "name=a-${seed}", "seed=range(0,2)", "max_steps=3", "loss=contrastive,sigmoid"
    )
    runs = list(combinations(sweep.space))
    assert runs == [
        ["seed=0", "loss=contrastive"],
        ["seed=0", "loss=sigmoid"],
        ["seed=1", "loss=contrastive"],
        ["seed=1", "loss=sigmoid"],
    ]
    assert sweep.line(runs[3]) == ["name=a-${seed}", "max_steps=3", *runs[3], "hydra.mode=RUN"]

    first, last = sweep.settings(runs[0]), sweep.settings(runs[3])
    assert (first.name, last.name) == ("a-0", "a-1")
    assert first.model["bias"] is None and last.model["bias"] is not None
    assert first.max_steps == last.max_steps == 3


@pytest.mark.long
def test_a_text_and_a_length_arrive_as_typed() -> None:
    sweep = asked("-m", "name=2025_11_30,6e23,猫", "epochs=1,2")
    settings = [sweep.settings(words) for words in combinations(sweep.space)]
    assert [one.name for one in settings] == ["2025_11_30"] * 2 + ["6e23"] * 2 + ["猫"] * 2
    assert [one.epochs for one in settings[:2]] == [1, 2]
    assert {one.max_steps for one in settings} == {None}


def test_an_experiment_sweeps_and_the_line_has_the_last_word() -> None:
    """And no run of it is a sweep again."""
    sweep = asked("experiment=noise_scaling", "data.make.noise=0.5", "max_steps=3")
    runs = list(combinations(sweep.space))
    assert len(runs) == 4
    names = [sweep.settings(words).name for words in (runs[0], runs[3])]
    assert names == ["noise_scaling-384-0.5", "noise_scaling-24576-0.5"]
    assert sweep_of(["align_train", *sweep.line(runs[0])]) is None


@pytest.mark.long
def test_a_folder_of_ones_own_goes_along(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nname: mine-${seed}\n"
        "hydra: {mode: MULTIRUN, sweeper: {params: {seed: '4,5'}}}\n"
    )
    sweep = asked("--config-dir", str(tmp_path), "experiment=mine")
    runs = list(combinations(sweep.space))
    assert [sweep.settings(words).name for words in runs] == ["mine-4", "mine-5"]
    assert sweep.line([])[:2] == ["--config-dir", str(tmp_path)]


def test_the_grammar_of_what_is_searched() -> None:
    expected = {
        "clip=interval(1,2)": Swept("clip", low=1.0, high=2.0),
        "ema=tag(log,interval(1e-4, 1))": Swept("ema", low=1e-4, high=1.0, log=True),
        "max_steps=int(interval(1,9))": Swept("max_steps", low=1, high=9),
        "seed=range(1,6,2)": Swept("seed", ("1", "3", "5"), low=1, high=5, step=2),
        "+x=choice(a,'b c')": Swept("+x", ("a", "b\\ c")),
        "model=tiny,timm_base": Swept("model", ("tiny", "timm_base")),
    }
    assert asked("-m", *OPTUNA, *expected).space == list(expected.values())


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["clip=interval(1,2)"], r"clip=interval\(…\): has no values of its own"),
        (["clip=1,2", "hydra/sweeper=optuna"], r"hydra\.sweeper\.metric is not set"),
        ([*OPTUNA, "hydra.sweeper.direction=up"], r"direction=up: expected maximize or minimize"),
        pytest.param(
            [*OPTUNA, "hydra.sweeper.sampler=grid"],
            r"sampler=grid: expected tpe or random",
            marks=pytest.mark.long,
        ),
        pytest.param(
            [*OPTUNA, "hydra.sweeper.n_trials=0"],
            r"n_trials=0: expected at least 1",
            marks=pytest.mark.long,
        ),
        pytest.param(
            [*OPTUNA, "clip=interval(2,1)"],
            r"clip=interval\(2,1\): expected a lower and a higher",
            marks=pytest.mark.long,
        ),
        ([*OPTUNA, "clip=tag(log,interval(0,1))"], r"clip=interval\(0,1\): .*, from above 0"),
        (
            [*OPTUNA, "seed=tag(log,range(1,100,10))"],
            r"seed=tag\(log,range\(…\)\): has no logarithmic steps",
        ),
        (["--config-name", "other", "seed=1,2"], r"--config-name: a sweep takes conf/train.yaml"),
    ],
)
def test_what_no_sweep_can_do_is_one_line(words: list[str], error: str) -> None:
    with pytest.raises(UserError, match=error):
        asked("-m", *words)
