"""One checkpoint for all engines and worlds, LAMB against timm's, and what a block costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from timm.optim.lamb import Lamb as TimmLamb
from torch import Tensor, nn

from align_train.optim.lamb import LambOptimizer
from align_train.run.folder import RunFolder
from tests.support.commands import run
from tests.support.parity import STEPS, Averaged, Case, fit, small_model
from tests.support.processes import on_ranks
from tests.support.runs import metrics

WHOLE = Case("ddp", 1, optimizer="lamb", ema=0.9)


def stretch(case: Case, start: int, end: int, resume: Path | None, save: Path) -> list[Tensor]:
    """Trains from one checkpoint to the next under one strategy.

    Its result is the checkpoint, so the list that it returns is empty.
    """
    fit(case, Averaged(decay=case.ema), start=start, end=end, resume=resume, save=save)
    return []


def trained_in_stretches(
    stretches: list[tuple[str, int]], plain: Case, folder: Path
) -> dict[str, Tensor]:
    """Trains one step under each strategy and world in turn, and the last of them to the end.

    Returns the weights, averages and moments.
    """
    resume = None
    for number, (engine, world) in enumerate(stretches):
        end = number + 1 if number + 1 < len(stretches) else STEPS
        save = folder / f"{number}.ckpt"
        case = replace(plain, engine=engine, world=world)
        on_ranks(world, stretch, case, number, end, resume, save, folder=folder / str(number))
        resume = save
    assert resume is not None
    checkpoint = torch.load(resume, weights_only=True)
    (optimizer,) = checkpoint["optimizer_states"]
    assert optimizer["step"] == checkpoint["global_step"] == STEPS
    found = {f"weights {name}": value for name, value in checkpoint["state_dict"].items()}
    found |= {f"average {name}": value for name, value in checkpoint["ema"].items()}
    for name, moments in optimizer["moments"].items():
        assert moments.keys() == {"exp_avg", "exp_avg_sq"}
        found |= {f"{key} {name}": value for key, value in moments.items()}
    return found


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # A parameter without a gradient moves by rounding, and so does the mean of the BatchNorm
        # that subtracts it.
        if any(
            words in name
            for words in ("key.bias", "blocks.0.0.bn2.bias", "blocks.1.0.bn1.running_mean")
        ):
            continue
        assert (found[name] - value).double().norm() <= tolerance * value.double().norm(), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return trained_in_stretches([("ddp", 1)], WHOLE, tmp_path_factory.mktemp("whole"))


def test_checkpoints_go_from_world_to_world(whole: dict[str, Tensor], tmp_path: Path) -> None:
    """In float64: weights, their average and LAMB's moments, DDP and FSDP2 on 2, 1 and 4 ranks."""
    found = trained_in_stretches(
        [("ddp", 2), ("fsdp", 4), ("ddp", 1), ("fsdp", 2)], WHOLE, tmp_path
    )
    assert_equal(found, whole, 1e-11)


@pytest.mark.long
def test_checkpoints_go_from_engine_to_engine(tmp_path: Path) -> None:
    """In float32, where ZeRO trains, on other worlds."""
    stretches = [("ZeRO-3", 2), ("ddp", 2), ("ZeRO-1", 4), ("fsdp", 2), ("ZeRO-2", 1)]
    plain = replace(WHOLE, dtype="float32")
    expected = trained_in_stretches([("ddp", 1)], plain, tmp_path / "whole")
    found = trained_in_stretches(stretches, plain, tmp_path / "a")
    assert_equal(found, expected, 2e-4)


@pytest.mark.long
@pytest.mark.parametrize(
    ("first", "second", "third"),
    [
        (["strategy=ddp", "trainer.devices=2"], ["trainer.devices=1"], ["trainer.devices=4"]),
        (["strategy=fsdp", "trainer.devices=2"], ["trainer.devices=1"], ["trainer.devices=2"]),
        (["strategy=deepspeed", "trainer.devices=2"], ["trainer.devices=2"], ["trainer.devices=2"]),
        (
            ["strategy=deepspeed", "strategy.stage=1", "trainer.devices=2"],
            ["trainer.devices=1"],
            ["trainer.devices=4"],
        ),
        (
            ["strategy=deepspeed", "strategy.stage=3", "trainer.devices=2"],
            ["trainer.devices=4"],
            ["trainer.devices=1"],
        ),
    ],
    ids=["ddp 2-1-4", "fsdp 2-1-2", "ZeRO-2 2-2-2", "ZeRO-1 2-1-4", "ZeRO-3 2-4-1"],
)
def test_twenty_steps_and_on_and_on(
    first: list[str],
    second: list[str],
    third: list[str],
    tmp_path: Path,
    small_run: tuple[str, ...],
) -> None:
    """The command trains 20 steps, then 10 on another world, then 10 on a third one.

    The losses are those of an uninterrupted run on one process. If strategy and world stay, they
    are bitwise those of an uninterrupted run under that strategy.
    """
    constant = (
        *small_run,
        "scheduler.warmup_steps=100",
        "optimizer=lamb",
        "ema=0.99",
        "trainer.devices=1",
    )
    stays = first[-1:] == second == third
    run(*constant, *(first if stays else []), "name=whole", "max_steps=40", cwd=tmp_path)
    for steps, change in ((20, []), (30, second), (40, third)):  # strategy as at first
        run(*constant, *first, *change, "name=parts", f"max_steps={steps}", cwd=tmp_path)
    one, parts = (metrics(tmp_path / "outputs" / name) for name in ("whole", "parts"))
    assert [row["step"] for row in parts] == [str(step) for step in range(1, 41)]
    worst = max(
        abs(float(b["loss"]) / float(a["loss"]) - 1) for a, b in zip(one, parts, strict=True)
    )
    print(f"{first} -> {second} -> {third}: losses differ by {worst:.1e} at most")
    assert worst <= (
        0 if stays else 2e-4
    )  # float32 noise, ten times as much every eight steps of this recipe


def test_lamb_is_timms() -> None:
    """Same steps as timm's, with groups that decay or do not, and adapt or do not."""
    torch.manual_seed(0)
    ours, theirs = small_model().double(), small_model().double()
    theirs.load_state_dict(ours.state_dict())

    def groups(model: nn.Module) -> list[dict[str, object]]:
        parameters = list(model.parameters())
        return [
            {"params": parameters[::3], "lr": 0.1, "weight_decay": 0.01, "always_adapt": True},
            {"params": parameters[1::3], "lr": 0.2, "weight_decay": 0.0, "always_adapt": True},
            {"params": parameters[2::3], "lr": 0.3, "weight_decay": 0.0, "always_adapt": False},
        ]

    one = LambOptimizer(groups(ours), betas=(0.9, 0.99), eps=1e-6)
    other = TimmLamb(groups(theirs), betas=(0.9, 0.99), eps=1e-6, max_grad_norm=None)
    for _ in range(4):
        for mine, yours in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.grad = torch.randn_like(mine)
            yours.grad = mine.grad.clone()
        for optimizer in (one, other):
            optimizer.step()
    for (name, mine), yours in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, yours, rtol=1e-12, atol=1e-13, msg=name)


@pytest.mark.long
def test_any_engine_ends_in_one_plain_file(tmp_path: Path, small_run: tuple[str, ...]) -> None:
    """The command trains under FSDP2 on two processes and averages the weights.

    The run is evaluated on its way and at its end, and then exported.
    """
    options = (
        "strategy=fsdp",
        "trainer.devices=2",
        "ema=0.9",
        "evaluate_every=6",
        "eval=pairs",
        "checkpoint_blocks=true",
        "recompute=true",
    )
    run(*small_run, *options, "loss=sigmoid", "loss.mask_duplicates=true", "name=run", cwd=tmp_path)
    folder = RunFolder(tmp_path / "outputs" / "run")
    assert [bool(row["held_out/loss"]) for row in metrics(folder.path)] == [
        step in (6, 12) for step in range(1, 13)
    ]
    results = folder.read_results()
    assert results is not None
    assert float(metrics(folder.path)[-1]["held_out/loss"]) == pytest.approx(
        results["held_out/loss"], rel=1e-5
    )
    run("model=outputs/run", "to=plain", cwd=tmp_path, module="align_train.export")
    weights = load_file(tmp_path / "plain" / "model.safetensors")
    checkpoint = torch.load(folder.checkpoints / "last", weights_only=True)
    assert {f"model.{name}" for name in weights} == checkpoint["state_dict"].keys()
    averaged = weights["image_tower.network.conv_stem.weight"]
    assert torch.equal(averaged, checkpoint["ema"]["image_tower.network.conv_stem.weight"])
    assert not torch.equal(
        averaged, checkpoint["state_dict"]["model.image_tower.network.conv_stem.weight"]
    )
    assert {"temperature.value", "bias.value"} <= weights.keys()
    with pytest.raises(AssertionError, match="exists already; choose a new folder"):
        run("model=outputs/run", "to=plain", cwd=tmp_path, module="align_train.export")
