"""The chunk size that a run finds by trying, and a step that is made again with less memory."""

from __future__ import annotations

import gc
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from align_train.config.check import check
from align_train.errors import UserError
from align_train.training.chunk_size import (
    Chunking,
    find_chunking,
    optimizer_bytes,
    sizes,
)
from align_train.training.forward import Towers
from align_train.training.out_of_memory import is_out_of_memory
from tests.support.commands import REPOSITORY
from tests.support.memory import ERRORS, Fault, Memory, trained, trained_cases
from tests.support.optimizers import PLAIN_ADAMW
from tests.support.parity import TOKENS, Case, small_model
from tests.support.processes import on_ranks
from tests.support.settings import composed

AUTO: Literal["auto"] = "auto"


# sizes


def test_a_chunk_holds_whole_norm_groups_and_divides_the_device_batch() -> None:
    assert sizes(48, 6) == [6, 12, 24, 48]
    assert sizes(48, 6, most=30) == [6, 12, 24]
    assert sizes(90, 6) == [6, 18, 30, 90]
    assert sizes(12, None) == [1, 2, 3, 4, 6, 12]
    assert sizes(4096, 2048, most=1024) == [2048]


def chunking(
    pairs: int, chunk: int | Literal["auto"] = AUTO, recompute: bool | Literal["auto"] = True
) -> Chunking:
    return Chunking(norm_group=6, chunk_size=chunk, recompute=recompute, pairs=pairs)


def test_less_memory_is_gradient_caching_first_and_then_smaller_chunks() -> None:
    found = chunking(90, recompute=AUTO)
    found.chunk_size, found.recompute = 90, False  # as found by trying
    said = [str(found)]
    while found.lower():
        said.append(str(found))
    again = ", computed again in the backward pass"
    assert said == [
        "90 pairs, 1 chunk a process",
        f"90 pairs, 1 chunk a process{again}",
        f"30 pairs, 3 chunks a process{again}",
        f"6 pairs, 15 chunks a process{again}",
    ]
    assert (found.chunk_size, found.recompute) == (6, True)

    given = chunking(90, 30, recompute=False)
    assert given.lower() and (given.chunk_size, given.recompute) == (6, False)
    assert not given.lower()


@pytest.mark.parametrize("error", ERRORS)
def test_the_words_of_memory_that_runs_out(error: RuntimeError) -> None:
    assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError(*error.args))


# trying


class Strategy:
    """Notes how often weights were made whole, and given back."""

    def __init__(self) -> None:
        self.whole: list[bool] = []

    def keep_weights_whole(self) -> bool:
        self.whole.append(True)
        return True

    def give_weights_back(self) -> None:
        self.whole.append(False)


class Tried:
    """A small model on which chunk sizes are tried."""

    def __init__(self, limit: float, **options: Any) -> None:
        self.model = small_model(**options)
        self.towers = Towers(self.model, seed=0, norm_group=6)
        self.memory = Memory(limit).install(self.model)
        self.strategy: Any = Strategy()
        self.optimizer = PLAIN_ADAMW.build(self.model)
        self.places: list[str] = []

    def find(self, chunking: Chunking) -> Chunking:
        find_chunking(
            chunking,
            self.towers,
            max_tokens=TOKENS,
            batch_size=chunking.pairs,
            optimizer=self.optimizer,
            strategy=self.strategy,
            at=self.places.append,
        )
        return chunking


@pytest.mark.parametrize(
    ("pairs", "limit", "expected"),
    [
        (48, 13, 12),
        (66, 65, 6),
        *[
            pytest.param(*case, marks=pytest.mark.long)
            for case in ((48, 48, 48), (48, 47, 24), (48, 6, 6), (90, 89, 30), (90, 29, 18))
        ],
    ],
)
def test_the_largest_chunk_that_fits_is_found(pairs: int, limit: int, expected: int) -> None:
    tried = Tried(limit)
    found = tried.find(chunking(pairs))
    assert (found.chunk_size, found.recompute) == (expected, True)

    # Passes were really made, to and fro, at the size that was taken, with the longest texts.
    fitting = [size for size in tried.memory.passes if size <= limit]
    assert tried.memory.backwards == len(fitting) / 2 >= 1  # each pass is made twice
    assert expected in fitting and set(tried.memory.lengths) == {TOKENS}
    assert tried.strategy.whole == [True, False] * (len(tried.strategy.whole) // 2)


@pytest.mark.parametrize(
    ("chunk", "limit", "expected"),
    [
        (AUTO, 48, (48, False)),
        pytest.param(AUTO, 47, (24, True), marks=pytest.mark.long),
        pytest.param(12, 48, (12, False), marks=pytest.mark.long),
        (12, 47, (12, True)),
    ],
)
def test_gradient_caching_is_off_if_the_whole_device_batch_fits(
    chunk: int | Literal["auto"], limit: int, expected: tuple[int, bool]
) -> None:
    found = Tried(limit).find(chunking(48, chunk, recompute=AUTO))
    assert (found.chunk_size, found.recompute) == expected


def test_all_graphs_count_when_they_are_kept() -> None:
    """Four chunks of 64, the most on a CPU: none of them is too much, all of them are."""
    for limit, expected in ((192, False), (191, True)):
        tried = Tried(limit)
        found = tried.find(Chunking(norm_group=6, chunk_size=AUTO, recompute=AUTO, pairs=192))
        assert (found.chunk_size, found.recompute) == (48, expected)


def test_nothing_stays_of_a_trial() -> None:
    tried = Tried(13)
    before = {name: value.clone() for name, value in tried.model.state_dict().items()}
    generator = torch.get_rng_state()
    before_it = alive()
    known = {id(item) for item in before_it}
    tried.find(chunking(48, recompute=AUTO))
    # All that may stay: constants, and a few numbers for each pair of the last pass.
    stayed = [item for item in alive() if id(item) not in known]
    assert sum(item.numel() for item in stayed) < 2000
    assert not any(item.requires_grad for item in stayed)
    assert tried.memory.held() == 0
    assert torch.equal(torch.get_rng_state(), generator)
    assert before.keys() == tried.model.state_dict().keys()
    for name, value in tried.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in tried.model.parameters())
    assert not tried.optimizer.state


def alive() -> list[Tensor]:
    gc.collect()
    return [item for item in gc.get_objects() if type(item) in (Tensor, torch.nn.Parameter)]


def test_no_chunk_that_fits_ends_in_one_line() -> None:
    with pytest.raises(UserError) as error:
        Tried(5).find(chunking(48))
    assert str(error.value).startswith(
        "out of memory with the smallest chunk, chunk_size=6; lower its needs with "
        "checkpoint_blocks=true, and recompute=true if that is off"
    )


def test_a_trial_leaves_other_errors_alone() -> None:
    tried = Tried(48)

    def fail(*_: object) -> None:
        raise RuntimeError("something else")

    tried.model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="something else"):
        tried.find(chunking(48))


@pytest.mark.long
def test_a_locked_tower_is_tried_too() -> None:
    assert Tried(13, lock="image").find(chunking(48)).chunk_size == 12


def test_moments_that_are_not_there_yet_are_counted() -> None:
    tried = Tried(48)
    count = sum(parameter.numel() for parameter in tried.model.parameters())
    assert optimizer_bytes(tried.optimizer) == 8 * count
    for parameter in tried.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    tried.optimizer.step()
    assert optimizer_bytes(tried.optimizer) == 0


@pytest.mark.long
def test_a_limit_of_the_real_allocator() -> None:
    """A process of its own may have 100 MB more, where 48 pairs would take some 250."""

    def taken(megabytes: int) -> list[str]:
        command = [sys.executable, "-m", "tests.support.limited", str(megabytes)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=REPOSITORY)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    plenty, little = taken(8000), taken(100)
    assert plenty[:2] == ["48", "False"]
    assert int(little[0]) < 48 and little[1] == "True"
    assert little[2] == plenty[2]  # the gradients


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        (["strategy=fsdp", "strategy.reshard=true"], "fsdp"),
        (["strategy=deepspeed", "strategy.stage=3"], "deepspeed stage 3"),
    ],
)
def test_a_strategy_that_gathers_weights_in_each_pass_wants_numbers(
    strategy: list[str], words: str
) -> None:
    auto = ["norm_group=64", "chunk_size=auto", "recompute=auto"]
    match = (
        f"^chunk_size=auto: {words} gathers weights in every pass, so that no process can try alone"
        f" what fits; set both, e.g. chunk_size=64 recompute=true$"
    )
    with pytest.raises(UserError, match=match):
        check(composed(*strategy, *auto))
    with pytest.raises(UserError, match=r"^recompute=auto: "):
        check(composed(*strategy, *auto, "chunk_size=64"))
    check(composed(*strategy, *auto, "chunk_size=64", "recompute=true"))


# a step that is made again

# Four chunks of 12 pairs, in one process. In float64, or a mean whose true value is zero would be
# rounding, which AdamW makes as large as any.
CASE = Case("ddp", 1, pairs=48, chunk=12, optimizer="adamw")


def same(found: dict[str, Any], undisturbed: dict[str, Any], steps: int = 5) -> None:
    """The numbers of a run are those of another, up to the last digits of their type."""
    assert found["losses"].shape == undisturbed["losses"].shape == (steps,)
    assert undisturbed["losses"].isfinite().all()
    exact = undisturbed["dtype"] == "float64"
    rtol, atol = (1e-9, 1e-9) if exact else (1e-4, 5e-2)
    torch.testing.assert_close(found["losses"], undisturbed["losses"], rtol=rtol, atol=0)
    for name, value in undisturbed["numbers"].items():
        torch.testing.assert_close(found["numbers"][name], value, rtol=rtol, atol=atol, msg=name)
        if "num_batches" in name:
            assert value == steps  # they move once a step
    # When a step was made again, nothing of its first attempt was there.
    assert found["alive"] == 0


def line(step: int, before: str, after: str, ranks: str = "") -> str:
    return (
        f"step {step}: out of memory{ranks} with chunks of {before}; the step is made again, and "
        f"the run goes on, with chunks of {after}\n"
    )


def spelled(chunk: int, pairs: int, recompute: bool) -> str:
    count = pairs // chunk
    again = ", computed again in the backward pass" if recompute else ""
    return f"{chunk} pairs, {count} chunk{'s' if count > 1 else ''} a process{again}"


@pytest.mark.parametrize("recompute", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_step_that_runs_out_of_memory_is_made_again(recompute: bool) -> None:
    case = replace(CASE, recompute=recompute)
    undisturbed = trained(case)
    assert (undisturbed["printed"], undisturbed["attempts"]) == ("", [1, 2, 3, 4, 5])
    twelve, six = spelled(12, 48, recompute), spelled(6, 48, recompute)

    # The first and the last chunk that go backward; with gradient caching in a second pass too.
    places = [("forward", 3), ("backward", 1), ("backward", 4)]
    places += [("forward", 5), ("forward", 8)] if recompute else []
    for place, call in places:
        found = trained(case, [Fault(step=3, place=place, call=call)])
        assert found["printed"] == line(3, twelve, six)
        assert found["attempts"] == [1, 2, 3, 3, 4, 5]
        assert found["chunks"] == [twelve] * 2 + [six] * 3
        same(found, undisturbed)


def test_memory_may_run_out_twice_in_a_step_and_in_the_next() -> None:
    case = replace(CASE, chunk=24, recompute=False)
    faults = [Fault(2, "forward", 2), Fault(2, "backward", 4)]
    found = trained(case, faults)
    whole, half, six = (spelled(chunk, 48, False) for chunk in (24, 12, 6))
    assert found["printed"] == line(2, whole, half) + line(2, half, six)
    assert found["attempts"] == [1, 2, 2, 2, 3, 4, 5]
    same(found, trained(case))


def test_a_repeated_step_is_bitwise_that_of_the_smaller_chunk(tmp_path: Path) -> None:
    """Stopped before the step, and gone on with the smaller chunk."""
    found = trained(CASE, [Fault(3, "backward", 2)])
    saved = tmp_path / "saved.ckpt"
    trained(CASE, end=2, save=saved)
    rest = trained(replace(CASE, chunk=6), start=2, resume=saved)
    assert torch.equal(found["losses"][2:], rest["losses"])
    for name, value in rest["numbers"].items():
        assert torch.equal(found["numbers"][name], value), name


def test_the_smallest_chunk_ends_in_one_line() -> None:
    case = replace(CASE, chunk=6)
    with pytest.raises(UserError, match=r"^step 2: out of memory with the smallest chunk, chunk_s"):
        trained(case, [Fault(2, "forward", 2)])


def test_auto_turns_gradient_caching_on_first() -> None:
    case = replace(CASE, chunk=AUTO, recompute=AUTO)
    found = trained(case, [Fault(1, "backward", 1), Fault(4, "forward", 1)])
    kept, again, half = (spelled(48, 48, False), spelled(48, 48, True), spelled(24, 48, True))
    chosen = f"{'chunks':>13}  {kept} (found by trying)\n"
    assert found["printed"] == chosen + line(1, kept, again) + line(4, again, half)
    same(found, trained(CASE))


@pytest.mark.parametrize(
    ("start", "end"),
    [*(pytest.param(0, end, marks=pytest.mark.long) for end in (1, 5)), (2, 5)],
)
def test_auto_at_every_start(start: int, end: int, tmp_path: Path) -> None:
    """A run of one step, a whole one, and one that is resumed."""
    saved = tmp_path / "saved.ckpt"
    resumed: dict[str, Any] = {"start": start, "end": end}
    if start:
        trained(CASE, end=start, save=saved)
        resumed["resume"] = saved
    found = trained(replace(CASE, chunk=AUTO), limits=[13], **resumed)
    assert found["printed"] == f"{'chunks':>13}  {spelled(12, 48, True)} (found by trying)\n"
    # The longest texts were tried, whatever those of the first batch are.
    assert found["lengths"][0] == TOKENS and found["passes"][0] == 48
    plain = trained(CASE, **resumed)
    assert torch.equal(found["losses"], plain["losses"])
    assert all(torch.equal(found["numbers"][name], one) for name, one in plain["numbers"].items())
    tried = "finding the chunk size that fits"
    assert found["places"].count(tried) == 3  # 48, 12, 24


# two ranks, of which one runs out of memory

long = pytest.mark.long


def two(engine: str, **options: Any) -> Case:
    dtype = "float32" if engine.startswith("ZeRO") else "float64"
    plain = Case(engine, 2, pairs=48, chunk=12, optimizer="adamw", dtype=dtype)
    return replace(plain, **options)


@pytest.mark.parametrize(
    "engine", [pytest.param(engine, marks=long) for engine in ("ddp", "fsdp", "ZeRO-2")]
)
def test_both_ranks_repeat_a_step_for_which_one_has_no_memory(engine: str, tmp_path: Path) -> None:
    """Two chunks of 12 pairs a rank; backward fails when none or most gradients are there."""
    places = [("forward", 1), ("forward", 2)]
    if engine == "ddp":
        places += [("backward", 1), ("backward", 2)]
    kept, again = two(engine, recompute=False), two(engine, recompute=True)
    faulty = [(kept, [Fault(3, *place, rank=1)]) for place in places]
    faulty.append((again, [Fault(3, *places[-1], rank=1)]))
    # In the first step DDP learns in which order gradients come. And a rank fails twice.
    faulty.append((again, [Fault(1, *places[-1], rank=0)]))
    short = two(engine, recompute=False, chunk=24)
    faulty.append((short, [Fault(2, *places[0], rank=1), Fault(2, *places[-2], rank=1)]))

    runs = [(kept, (), ()), *((case, faults, ()) for case, faults in faulty)]
    for undisturbed, *others in on_ranks(2, trained_cases, runs, folder=tmp_path):
        for (_, faults), found in zip(faulty, others, strict=True):
            steps = [fault.step for fault in faults]
            assert found["attempts"] == sorted([1, 2, 3, 4, 5, *steps])
            assert found["chunks"][-1].startswith("6 pairs")
            assert found["printed"].count("the step is made again") in (len(faults), 0)
            if found["rank"] == 0:
                assert f"step {steps[0]}: out of memory on 1 of 2 ranks with" in found["printed"]
            same(found, undisturbed)


@long
@pytest.mark.parametrize("engine", ["ddp", "fsdp", "ZeRO-2"])
def test_all_ranks_take_the_chunk_that_fits_on_each(engine: str, tmp_path: Path) -> None:
    auto = two(engine, chunk=AUTO, recompute=AUTO)
    tried = [
        (auto, (), (24, 24)),
        (auto, (), (24, 13)),
        (auto, (), (6, 24)),
        (replace(auto, recompute=False, bf16=True, dtype="float32"), (), (24, 24)),
    ]
    given = [
        (two(engine, chunk=24, recompute=False), (), ()),
        (two(engine, chunk=12), (), ()),
        (two(engine, chunk=6), (), ()),
        (replace(tried[-1][0], chunk=24), (), ()),
    ]
    for found in on_ranks(2, trained_cases, [*tried, *given], folder=tmp_path):
        for one, other in zip(found[:4], found[4:], strict=True):
            assert "finding the chunk size that fits" in one["places"]
            assert one["chunks"] == other["chunks"]
            assert one["printed"].count("(found by trying)") == (one["rank"] == 0)
            assert torch.equal(one["losses"], other["losses"])
            for name, value in other["numbers"].items():
                assert torch.equal(one["numbers"][name], value), name
