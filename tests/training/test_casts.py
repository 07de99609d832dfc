"""Casts: each weight is cast once a step, and float32 gradients are none the worse for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from align_train.loss.contrastive import ContrastiveLoss
from align_train.model import DualEncoder
from align_train.stream.batch import normalise
from align_train.training.casts import SharedCasts
from align_train.training.forward import Towers
from align_train.training.recompute import checkpoint_block
from tests.support.parity import small_batch, small_model

GROUP = 6
PAIRS = 24  # four chunks

WAYS = pytest.mark.parametrize(
    ("recompute", "checkpointed"),
    [(False, False), (True, False), (False, True), (True, True)],
)


class Steps:
    """A model under bf16, whose steps count."""

    def __init__(self, *, share: bool, recompute: bool = False, checkpointed: bool = False) -> None:
        self.model: DualEncoder = small_model()
        self.towers = Towers(self.model, seed=0, norm_group=GROUP)
        self.share = share
        self.recompute = recompute
        if checkpointed:
            for block in self.model.blocks:
                checkpoint_block(block, self.towers.second_pass)
        # Made once, from the model's own parameters.
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

    def gradients(self, step: int) -> dict[str, Tensor]:
        """Forward and backward passes of a step."""
        self.optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            images, texts = self.towers.embed(
                small_batch(PAIRS, step),
                chunk_size=GROUP,
                recompute=self.recompute,
                share_casts=self.share,
            )
        loss = ContrastiveLoss()(images, texts, self.model.temperature())
        torch.autograd.backward(loss)

        found: dict[str, Tensor] = {}
        for name, parameter in self.model.named_parameters():
            assert parameter.grad is not None, name
            found[name] = parameter.grad.clone()
        return found

    def finish(self) -> None:
        """What follows the gradients."""
        self.optimizer.step()
        self.towers.end_step()
        self.towers.statistics.finish_step()


@WAYS
def test_gradients_are_bitwise_those_of_a_cast_for_each_chunk(
    recompute: bool, checkpointed: bool
) -> None:
    """Several steps: the second one must see the weights that the optimizer has changed."""
    shared = Steps(share=True, recompute=recompute, checkpointed=checkpointed)
    by_chunk = Steps(share=False, recompute=recompute, checkpointed=checkpointed)
    for step in range(3):
        expected = by_chunk.gradients(step)
        found = shared.gradients(step)
        assert found.keys() == expected.keys() and len(found) > 40
        for name, value in expected.items():
            assert found[name].dtype == torch.float32
            assert torch.equal(found[name], value), f"step {step}: {name}"
        shared.finish()
        by_chunk.finish()


def test_gradients_are_added_up_in_float32() -> None:
    """In bf16 a sum of ones ends at 256."""
    passes = 300
    layer = nn.Linear(1, 1, bias=False)
    casts = SharedCasts(layer, [])
    one = torch.ones(1, 1)

    def gradient() -> float:
        layer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            total = torch.cat([layer(one) for _ in range(passes)]).float().sum()
        torch.autograd.backward(total)
        assert layer.weight.grad is not None
        return float(layer.weight.grad)

    casts.begin_step(None)
    assert gradient() == 256  # autocast's own cast, which all passes share
    casts.begin_step(torch.bfloat16)
    assert gradient() == passes


class CastsOf(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts how often each parameter of a model is copied to bf16."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: dict[int, str] = {}
        for name, parameter in model.named_parameters():
            self.names[parameter.untyped_storage().data_ptr()] = name
        self.counts: Counter[str] = Counter()

    def _note(self, source: object, target: object) -> None:
        assert isinstance(source, Tensor) and isinstance(target, Tensor)
        name = self.names.get(source.untyped_storage().data_ptr())
        if name is not None and target.dtype == torch.bfloat16:
            self.counts[name] += 1

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name == "_foreach_copy_":
            for target, source in zip(args[0], args[1], strict=True):
                self._note(source, target)
        elif name == "_to_copy":
            self._note(args[0], result)
        elif name == "copy_":
            self._note(args[1], args[0])
        return result


@WAYS
def test_each_weight_is_cast_once_a_step(recompute: bool, checkpointed: bool) -> None:
    steps = Steps(share=True, recompute=recompute, checkpointed=checkpointed)
    cast: set[str] = set()
    for path, layer in steps.model.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            cast |= {f"{path}.{name}" for name, _ in layer.named_parameters()}
    assert len(cast) > 20

    with CastsOf(steps.model) as casts:
        steps.gradients(0)
    assert dict(casts.counts) == dict.fromkeys(cast, 1)


def test_without_sharing_each_chunk_casts() -> None:
    """That the count sees casts at all."""
    steps = Steps(share=False)
    with CastsOf(steps.model) as casts:
        steps.gradients(0)
    assert set(casts.counts.values()) == {PAIRS // GROUP}


@WAYS
def test_the_parameters_are_in_their_places_between_passes(
    recompute: bool, checkpointed: bool
) -> None:
    steps = Steps(share=True, recompute=recompute, checkpointed=checkpointed)
    parameters = dict(steps.model.named_parameters())
    state = steps.model.state_dict()

    def assert_in_place() -> None:
        now = dict(steps.model.named_parameters())
        assert now.keys() == parameters.keys()
        for name, parameter in now.items():
            assert parameter is parameters[name], name
        for name, value in steps.model.state_dict().items():
            assert value.dtype == state[name].dtype
            assert value.data_ptr() == state[name].data_ptr() or "running" in name, name

    with torch.autocast("cpu", dtype=torch.bfloat16):
        embedded = steps.towers.embed(
            small_batch(PAIRS), chunk_size=GROUP, recompute=recompute, share_casts=True
        )
    assert_in_place()
    torch.autograd.backward(embedded, [torch.ones_like(part) for part in embedded])
    assert_in_place()

    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    steps.finish()
    assert_in_place()
    for name, parameter in parameters.items():
        if "temperature" not in name:
            assert not torch.equal(parameter, before[name]), name


class Planted(RuntimeError):
    """An error within a pass."""


@WAYS
@pytest.mark.parametrize("place", ["first pass", "second pass"])
def test_the_parameters_are_back_after_an_error(
    recompute: bool, checkpointed: bool, place: str
) -> None:
    """Deep in a block, where the parts around it have copies in place as well."""
    if place == "second pass" and not (recompute or checkpointed):
        return
    steps = Steps(share=True, recompute=recompute, checkpointed=checkpointed)
    parameters = dict(steps.model.named_parameters())
    layer = [part for part in steps.model.modules() if isinstance(part, nn.Conv2d)][-1]

    def fail(*_: object) -> None:
        backward = torch._C._current_graph_task_id() != -1
        if backward == (place == "second pass"):
            raise Planted

    handle = layer.register_forward_hook(fail)
    with pytest.raises(Planted):
        steps.gradients(0)
    for name, parameter in steps.model.named_parameters():
        assert parameter is parameters[name], name

    # And the next attempt is as good as any.
    handle.remove()
    found = steps.gradients(0)
    undisturbed = Steps(share=True, recompute=recompute, checkpointed=checkpointed).gradients(0)
    for name, value in undisturbed.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("lock", ["image", "text"])
def test_a_locked_tower_has_no_backward_pass(lock: str, bf16: bool) -> None:
    """Its stem and the other tower's projection are cast together."""
    model = small_model(lock=lock)
    towers = Towers(model, seed=0, norm_group=GROUP)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        embedded = towers.embed(small_batch(PAIRS), chunk_size=GROUP, recompute=False)
    trained = dict(zip(("image", "text"), embedded, strict=True))
    assert not trained.pop(lock).requires_grad
    (left,) = trained.values()
    torch.autograd.backward(left.sum())
    for name, parameter in model.named_parameters():
        expected = parameter.requires_grad and "temperature" not in name
        assert (parameter.grad is not None) == expected, name


def test_a_deep_copy_has_weights_of_its_own() -> None:
    steps = Steps(share=True)
    steps.gradients(0)  # its casts are there from now on
    steps.optimizer.zero_grad()
    copied = deepcopy(steps.model)
    batch = small_batch(GROUP)
    with torch.no_grad():
        for parameter in copied.text_tower.parameters():
            parameter.zero_()

    with torch.autocast("cpu", dtype=torch.bfloat16):
        images, texts = copied(normalise(batch.images, copied), batch.input_ids)
    assert not torch.equal(images, torch.zeros_like(images))
    assert torch.equal(texts, torch.zeros_like(texts))  # not those of the original's weights
    torch.autograd.backward(images.sum())
    for parameter in steps.model.parameters():
        assert parameter.grad is None
    assert all(parameter.grad is not None for parameter in copied.image_tower.parameters())
