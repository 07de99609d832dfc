"""Runs with adapters and runs with a teacher, by the command: resumed, loaded afresh, exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import align_train
from align_train.pretrained.pretrained import run_weights
from align_train.run.folder import RunFolder
from tests.support.commands import UNEVALUATED, finish, run, start
from tests.support.runs import metrics, numbers

# The factor of the learning rate depends on the step alone, so a run can be made longer.
STEADY = ("scheduler.warmup_steps=100", "checkpoint_every=3", *UNEVALUATED)


def trained_in_parts(words: tuple[str, ...], folder: Path) -> Path:
    """Trains six steps at once, and again in two parts; the losses are bitwise the same."""
    run(*words, *STEADY, "name=whole", "max_steps=6", cwd=folder)
    for steps in (3, 6):
        run(*words, *STEADY, "name=parts", f"max_steps={steps}", cwd=folder)
    whole, parts = (folder / "outputs" / name for name in ("whole", "parts"))
    losses = [[row["loss"] for row in metrics(path)] for path in (whole, parts)]
    assert losses[0] == losses[1] and len(losses[0]) == 6
    assert len(numbers(whole)) == len(numbers(parts))
    return whole


@pytest.mark.long
def test_adapters_are_resumed_merged_and_exported(
    trained: Path, small_run: tuple[str, ...], tmp_path: Path
) -> None:
    words = [word for word in small_run if not word.startswith("model.")]
    words += ["model=huggingface", f"model.path={trained}", "trainer.devices=2", "ema=0.9"]
    words += ["lora.image=4", "lora.text=4", "lora.dropout=0.1", "lora.projections=false"]
    path = trained_in_parts(tuple(words), tmp_path)

    # Statistics and weights of what is locked are bitwise those of the run before.
    last = RunFolder(path).last_checkpoint()
    assert last is not None
    state = torch.load(last, weights_only=True)["state_dict"]
    before = run_weights(RunFolder(trained))
    same = moved = 0
    for name, value in before.items():
        kept = state.get(f"model.{name}")
        if kept is None:
            owner, _, end = name.rpartition(".")
            kept = state[f"model.{owner}.base_layer.{end}"]
        if name.startswith(("image_tower.", "text_tower.")):
            assert torch.equal(kept, value), name
            same += 1
        moved += not torch.equal(run_weights(RunFolder(path))[name], value)
    assert same > 30 and moved > 5

    # Loaded afresh and exported: the plain model.
    run(f"model={path}", f"to={tmp_path / 'export'}", cwd=tmp_path, module="align_train.export")
    texts = ["a red circle", "two stars"]
    embeddings = []
    for source in (path, tmp_path / "export"):
        model = align_train.load(str(source))
        assert not any("lora" in name for name in model.model.state_dict())
        with torch.inference_mode():
            embeddings.append(model.encode_text(model.tokenizer(texts)))
    torch.testing.assert_close(*embeddings, rtol=0, atol=1e-6)

    other = (*words, *STEADY, "name=whole", "max_steps=8", "lora.alpha=3")
    done = finish(start(*other, cwd=tmp_path))
    assert done.returncode == 2
    assert (
        "lora.alpha=3.0: the run has 16.0, and its checkpoints hold those adapters" in done.stderr
    )


@pytest.mark.long
def test_students_of_another_tokenizer_and_size_are_resumed(
    small_run: tuple[str, ...], small_align: Path, tmp_path: Path
) -> None:
    words = (*small_run, f"distillation.model={small_align}", "model.image_size=24")
    path = trained_in_parts((*words, "model.resize_size=27", "model.max_tokens=12"), tmp_path)
    for row in metrics(path):
        own, theirs = float(row["contrastive_loss"]), float(row["distillation_loss"])
        assert float(row["loss"]) == pytest.approx(0.2 * own + 0.8 * theirs, rel=1e-5)
    last = RunFolder(path).last_checkpoint()
    assert last is not None
    saved = torch.load(last, weights_only=True)
    assert isinstance(saved["teacher"], str)
    # Of the student alone.
    assert all(name.startswith("model.") for name in saved["state_dict"])


@pytest.mark.long
def test_a_run_learns_from_embeddings_beside_its_shards(
    small_run: tuple[str, ...], small_align: Path, demo: Path, tmp_path: Path
) -> None:
    words = [f"model={small_align}", f"shards={demo / 'train'}", "to=scores", "caption=txt"]
    run(*words, "embeddings=true", cwd=tmp_path, module="align_train.score")
    learns = ("distillation.embeddings=scores", "loss=sigmoid", "trainer.devices=2")
    path = trained_in_parts((*small_run, *learns), tmp_path)
    assert {float(row["taught_share"]) for row in metrics(path)} == {1.0}

    # Of other shards: one line before the first step.
    run(
        *words[:1],
        f"shards={demo / 'held_out'}",
        "to=other",
        "caption=txt",
        "embeddings=true",
        cwd=tmp_path,
        module="align_train.score",
    )
    done = finish(start(*small_run, "distillation.embeddings=other", "name=no", cwd=tmp_path))
    assert done.returncode == 2
    assert "distillation.embeddings=other: " in done.stderr and "Traceback" not in done.stderr
