"""The length of a run in epochs, and batches in which a pair would meet itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from align_train.commands.changes import spell_changes
from align_train.commands.length import with_length
from align_train.commands.summary import spell_long_warmup
from align_train.commands.twice_in_batch import check_batch, twice_in_batch
from align_train.config.compose import compose_training
from align_train.errors import UserError
from align_train.run.folder import RunFolder
from tests.support.commands import UNEVALUATED, data_module, run
from tests.support.runs import keys_of, numbers


@pytest.mark.long
def test_a_run_of_epochs_is_that_of_their_steps_also_resumed(
    small_run: tuple[str, ...], demo: Path, tmp_path: Path
) -> None:
    """512 pairs in batches of 32: half an epoch has 8 steps, and one epoch 16."""
    options = [*UNEVALUATED, "log_keys=true"]
    options += [option for option in small_run if not option.startswith("max_steps=")]
    for name, first, second in (
        ("steps", "max_steps=8", "max_steps=16"),
        ("epochs", "epochs=0.5", "epochs=1"),
    ):
        run(*options, f"name={name}", first, cwd=tmp_path)
        said = run(*options, f"name={name}", second, cwd=tmp_path).stdout
        assert "16 steps = 512 pairs = 1.0 epochs" in said

    of_epochs = tmp_path / "outputs" / "epochs"
    assert numbers(of_epochs) == numbers(tmp_path / "outputs" / "steps")
    seen = keys_of(of_epochs)
    assert len({key for step in seen.values() for key in step}) == 512
    assert RunFolder(of_epochs).lineage.read()[-1]["changed"] == {"epochs": [0.5, 1.0]}

    # Finished, it says so without its data.
    gone = f"data.make.folder={tmp_path}/gone"
    recorded = RunFolder(of_epochs).config
    recorded.write_text(recorded.read_text().replace(str(demo), f"{tmp_path}/gone"))
    said = run(*options, gone, "name=epochs", "epochs=1", cwd=tmp_path).stdout
    assert "finished at step 16 of 16; go on with epochs=…" in said
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize(
    ("epochs", "steps"), [("1", 16), ("0.5", 8), ("0.1", 2), ("3", 48), ("0.0001", 1)]
)
def test_epochs_are_rounded_up_to_whole_steps(epochs: str, steps: int, demo: Path) -> None:
    settings = compose_training(f"epochs={epochs}", "batch_size=32", "norm_group=8")
    assert not settings.length_is_known
    assert (
        with_length(settings, data_module(str(demo / "train"), demo / "tokenizer")).steps == steps
    )


def test_a_length_that_changed_is_told_once() -> None:
    assert spell_changes({"epochs": (None, 0.05), "max_steps": (8, None)}) == "epochs: null -> 0.05"
    back = "epochs: 0.05 -> null; max_steps: 1 -> 8"
    assert spell_changes({"epochs": (0.05, None), "max_steps": (1, 8)}) == back


def test_a_batch_that_no_epoch_fills_is_refused_with_one_that_fits(demo: Path) -> None:
    def refuse(*overrides: str, lanes: int = 8) -> str:
        settings = compose_training(f"data.lanes={lanes}", *overrides)
        data = data_module(
            str(demo / "train"), demo / "tokenizer", batch_size=settings.batch_size, lanes=lanes
        )
        with pytest.raises(UserError) as caught:
            check_batch(settings, data)
        return str(caught.value)

    assert refuse("batch_size=1024").endswith("take batch_size=512")
    wide = ("batch_size=2048", "norm_group=1024", "chunk_size=1024")
    assert refuse(*wide).endswith("take batch_size=512 norm_group=512 chunk_size=512")


def test_pairs_that_meet_themselves_where_epochs_join_are_counted(demo: Path) -> None:
    """512 pairs in batches of 160: the fourth batch has 32 pairs of one epoch, 128 of the next."""
    options = {"batch_size": 160}
    data = data_module(str(demo / "train"), demo / "tokenizer", **options)
    visits = data.stretch.order.global_batch(480, 160, np.arange(160))
    pairs = list(zip(visits.shard.tolist(), visits.pair.tolist(), strict=True))
    twice = len(pairs) - len(set(pairs))
    assert twice > 1

    assert twice_in_batch(data, 4).startswith(f"{twice} pairs come twice in the batch of step 4,")
    assert twice_in_batch(data, 3) == ""
    knows = data_module(str(demo / "train"), demo / "tokenizer", content_ids=True, **options)
    assert twice_in_batch(knows, 4) == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["max_steps=50"], ""),
        (["max_steps=49"], "the warm-up alone takes 50: "),
        (
            ["max_steps=10", "scheduler.warmup_steps=null", "scheduler.warmup_pairs=1281"],
            "the warm-up alone takes 11: ",
        ),
    ],
)
def test_a_run_that_ends_before_its_warm_up_says_so(words: list[str], said: str) -> None:
    line = spell_long_warmup(compose_training(*words))
    assert said in line and bool(said) == bool(line)
