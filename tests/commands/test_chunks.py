"""A run goes on with other chunks on another number of ranks; and runs without norm groups."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.support.commands import UNEVALUATED, finish, made_once, run, start
from tests.support.runs import keys_of, metrics, numbers

STEPS, STOPPED = 12, 6

# BatchNorm, dropout, attention dropout and drop path are on.
RECIPE = (
    *UNEVALUATED,
    "batch_size=64",
    "norm_group=8",
    "chunk_size=32",
    "+model.text_tower.attention_dropout=0.2",
    "log_keys=true",
    "name=run",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, small_run: tuple[str, ...]) -> Path:
    """Not interrupted."""
    arguments = (*small_run, *RECIPE, f"max_steps={STEPS}")
    cwd = made_once(tmp_path_factory, "chunks_whole", lambda folder: run(*arguments, cwd=folder))
    return cwd / "outputs" / "run"


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory, small_run: tuple[str, ...]) -> Path:
    """Stopped in the middle; the learning rate still rises, so it does not know the length."""
    arguments = (*small_run, *RECIPE, f"max_steps={STOPPED}")
    return made_once(tmp_path_factory, "chunks_half", lambda folder: run(*arguments, cwd=folder))


def resumed(
    half: Path, cwd: Path, small_run: tuple[str, ...], changes: tuple[str, ...]
) -> tuple[Path, str]:
    """The run's folder and what it printed."""
    shutil.copytree(half / "outputs", cwd / "outputs", symlinks=True)
    arguments = (*small_run, *RECIPE, f"max_steps={STEPS}", *changes)
    return cwd / "outputs" / "run", run(*arguments, cwd=cwd).stdout


def assert_the_same(folder: Path, whole: Path) -> None:
    assert keys_of(folder) == keys_of(whole)
    rows = metrics(folder)
    assert [row["step"] for row in rows] == [str(step) for step in range(1, STEPS + 1)]
    for row, expected in zip(rows, metrics(whole), strict=True):
        # Another dropout mask or BatchNorm's statistics of other groups would differ by 1e-3.
        for name, rounding in {"loss": 1e-5, "grad_norm": 1e-4, "temperature": 1e-6}.items():
            assert float(row[name]) == pytest.approx(float(expected[name]), rel=rounding), row
        assert row["pairs_seen"] == expected["pairs_seen"]


@pytest.mark.long
def test_with_the_same_chunk_it_goes_on_bitwise(
    half: Path, whole: Path, tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    folder, _ = resumed(half, tmp_path, small_run, ())
    assert_the_same(folder, whole)
    assert numbers(folder) == numbers(whole)


@pytest.mark.long
def test_with_chunks_that_it_finds_it_goes_on_with_the_same_losses(
    half: Path, whole: Path, tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    changes = ("chunk_size=auto", "recompute=auto", "trainer.devices=2", "strategy=fsdp")
    folder, out = resumed(half, tmp_path, small_run, changes)
    assert re.search(r"^ +chunks  32 pairs, 1 chunk a process \(found by trying\)$", out, re.M), out
    assert_the_same(folder, whole)


AUTO = ("chunk_size=auto", "recompute=auto")
OTHERS = [
    ("chunk_size=8",),
    ("chunk_size=64",),
    ("chunk_size=8", "trainer.devices=2"),
    ("chunk_size=16", "trainer.devices=4", "recompute=true"),
    ("recompute=true",),
    AUTO,
    (*AUTO, "trainer.devices=2"),
    (*AUTO, "checkpoint_blocks=true"),
    ("chunk_size=auto", "recompute=true", "trainer.devices=2"),
    ("chunk_size=8", "trainer.devices=2", "strategy=fsdp", "strategy.reshard=true"),
    (*AUTO, "trainer.devices=2", "strategy=deepspeed"),
    ("chunk_size=8", "trainer.devices=2", "strategy=deepspeed", "strategy.stage=3"),
    ("chunk_size=8", "trainer.devices=2", "strategy=fsdp", "recompute=true"),
    ("chunk_size=8", "trainer.devices=2", "strategy=deepspeed", "recompute=true"),
]


@pytest.mark.long
@pytest.mark.parametrize("changes", OTHERS, ids=" ".join)
def test_with_other_chunks_it_goes_on_with_the_same_losses(
    changes: tuple[str, ...],
    half: Path,
    whole: Path,
    tmp_path: Path,
    small_run: tuple[str, ...],
) -> None:
    folder, out = resumed(half, tmp_path, small_run, changes)
    assert ("(found by trying)" in out) == any("auto" in change for change in changes), out
    assert_the_same(folder, whole)
    if changes == ("recompute=true",):
        assert numbers(folder) == numbers(whole)  # the same chunks, each computed twice


# without norm groups


@pytest.mark.long
def test_batch_norm_without_norm_groups_is_refused_in_one_line(
    tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    done = finish(start(*small_run, "norm_group=null", cwd=tmp_path))
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "norm_group=null: the model has BatchNorm layers" in done.stderr
    assert "set norm_group, e.g. norm_group=64" in done.stderr


VIT = (
    "model=timm_base",
    "model.image_tower.name=vit_tiny_patch16_224",
    "model.image_tower.projection=24",
    "+model.image_tower.options.img_size=32",
    "+model.image_tower.options.patch_size=8",
    "+model.image_tower.options.embed_dim=32",
    "+model.image_tower.options.depth=2",
    "+model.image_tower.options.num_heads=2",
    "+model.image_tower.options.drop_path_rate=0.2",
    "+model.image_tower.options.attn_drop_rate=0.2",
    "+model.image_tower.options.proj_drop_rate=0.1",
    "model.text_tower.hidden=32",
    "model.text_tower.layers=1",
    "model.text_tower.heads=2",
    "model.text_tower.intermediate=64",
    "+model.text_tower.attention_dropout=0.2",
    "model.temperature.initial=0.1",
    "model.image_size=32",
    "model.resize_size=36",
    "model.max_tokens=32",
)


@pytest.mark.long
def test_a_model_without_batch_norm_wants_no_norm_group(
    tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    """A ViT of timm with drop path and attention dropout: alike in chunks of any size."""
    recipe = [setting for setting in small_run if not setting.startswith("model.")]
    for name, chunk_size in {"small": 4, "large": 32}.items():
        arguments = (*recipe, *VIT, *UNEVALUATED, "norm_group=null", "max_steps=4")
        done = run(*arguments, f"chunk_size={chunk_size}", f"name={name}", cwd=tmp_path)
        assert "BatchNorm" not in done.stdout

    small, large = (metrics(tmp_path / "outputs" / name) for name in ("small", "large"))
    assert len(small) == 4
    for row, other in zip(small, large, strict=True):
        for column in ("loss", "grad_norm"):
            assert float(row[column]) == pytest.approx(float(other[column]), rel=1e-5)
