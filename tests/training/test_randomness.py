"""Dropout by pair: the hash's numbers, and that nothing but the recipe decides what is dropped."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn.functional import dropout
from torch.utils.checkpoint import checkpoint

from align_train.errors import UserError
from align_train.model import BertTower, TimmTower
from align_train.training.dropout import DropoutByPair
from align_train.training.hashing import columns, rows, words_of
from align_train.training.randomness import Pass, RandomLayers, refuse_other_draws

CPU = torch.device("cpu")
SIGMAS = 4.0  # the seeds are fixed, so a test either always holds or never
SHARES = (0.1, 0.5, 0.9)  # that are dropped

GOLDEN_WORDS = (1694104713, -718634979)
GOLDEN_ROWS = [[-771744465, 2136531025, 1082565257], [-869660283, -110024541, 190475493]]
GOLDEN_COLUMNS = [[-1417043237, 52388641, -289217263], [-329855719, 1501039389, 728580579]]
GOLDEN_COLUMN = 625341585
GOLDEN_MASK = ["1011111110110111", "0001010110000011"]


def places_from(first: int, count: int) -> Tensor:
    return torch.arange(first, first + count, dtype=torch.int32)


def names(count: int) -> Tensor:
    return torch.tensor([words_of(layer)[0] for layer in range(count)], dtype=torch.int32)


def mask_of(table: Tensor, elements: tuple[int, ...], p: float) -> Tensor:
    """The mask `[*table, *elements]` of a table of row words: True for what is kept."""
    products = table.view(*table.shape, *(1,) * len(elements)) * columns(elements, CPU)
    return products >= DropoutByPair(p, name="").threshold_value


def table_of(layers: int, pairs: int, *, seed: int = 1, step: int = 7) -> Tensor:
    return rows(words_of(seed, step), names(layers), places_from(0, pairs))


def test_words_are_the_golden_ones() -> None:
    layers = torch.tensor([words_of("a")[0], words_of("b")[0]], dtype=torch.int32)
    words = words_of(2**62, 10**9)
    assert words == GOLDEN_WORDS
    assert rows(words, layers, places_from(65_535, 3)).tolist() == GOLDEN_ROWS
    assert columns((2, 3), CPU).tolist() == GOLDEN_COLUMNS
    assert int(columns((), CPU)) == GOLDEN_COLUMN

    mask = mask_of(table_of(1, 2)[0], (16,), 0.5)
    assert ["".join(str(int(bit)) for bit in row) for row in mask.tolist()] == GOLDEN_MASK


def test_a_column_word_does_not_depend_on_the_sizes() -> None:
    large = columns((5, 7, 11), CPU)
    for shape in ((5, 7, 11), (2, 7, 11), (5, 3, 1), (1, 1, 11)):
        part = large[: shape[0], : shape[1], : shape[2]]
        assert torch.equal(columns(shape, CPU), part)


@pytest.mark.parametrize("which", ["rows", "columns", "products"])
def test_all_bytes_of_the_words_are_equally_frequent(which: str) -> None:
    words = {
        "rows": table_of(64, 1024),
        "columns": columns((12, 64, 64), CPU),
        "products": table_of(4, 16)[..., None, None] * columns((32, 64), CPU),
    }
    values = words[which].flatten()

    assert bool((values & 1 == 1).all())
    for shift in (0, 8, 16, 24):
        observed = torch.bincount(((values >> shift) & 0xFF).long(), minlength=256).double()
        if shift == 0:
            observed = observed[1::2]  # odd words
        expected = values.numel() / observed.numel()
        chi_square = float(((observed - expected) ** 2 / expected).sum())
        freedom = observed.numel() - 1
        assert abs(chi_square - freedom) < SIGMAS * (2 * freedom) ** 0.5, (which, shift)


@pytest.mark.parametrize("p", SHARES)
@pytest.mark.parametrize("elements", [(), (768,), (64, 64), (12, 16, 16)])
def test_as_many_are_dropped_as_are_asked_for(p: float, elements: tuple[int, ...]) -> None:
    mask = mask_of(table_of(16, 64), elements, p)
    sigma = (p * (1 - p) / mask.numel()) ** 0.5
    assert abs(mask.double().mean().item() - (1 - p)) < SIGMAS * sigma


def masks_between(what: str, p: float) -> Tensor:
    """Masks `[16, elements]` that differ in one thing, its neighbours first."""
    if what == "pairs":
        return mask_of(table_of(1, 16), (48, 256), p).flatten(0, 1).flatten(1)
    if what == "layers":
        return mask_of(table_of(16, 1), (48, 256), p).flatten(1)
    if what == "steps":
        tables = [table_of(1, 1, step=step) for step in range(16)]
        return mask_of(torch.cat(tables), (48, 256), p).flatten(1)
    if what == "seeds":
        tables = [table_of(1, 1, seed=seed) for seed in range(16)]
        return mask_of(torch.cat(tables), (48, 256), p).flatten(1)
    return mask_of(table_of(2, 8192), (4, 4), p).flatten(0, 1).flatten(1).T


@pytest.mark.parametrize("p", SHARES)
@pytest.mark.parametrize("what", ["pairs", "layers", "steps", "seeds", "elements"])
def test_masks_are_independent(what: str, p: float) -> None:
    masks = masks_between(what, p)
    count, size = masks.shape
    upper = torch.triu(torch.ones(count, count, dtype=torch.bool), diagonal=1)
    # A correlation of two masks, squared and times their size, is the chi-square of their 2 x 2
    # table.
    chi_squares = size * torch.corrcoef(masks.double())[upper] ** 2

    assert chi_squares.max().item() < SIGMAS**2
    mean_sigma = (2 / chi_squares.numel()) ** 0.5
    assert abs(chi_squares.mean().item() - 1) < SIGMAS * mean_sigma


def test_the_fourth_corner_of_a_rectangle_is_free() -> None:
    """Three products of two rows and two columns fix the fourth, but not its first bit's parity."""
    mask = mask_of(table_of(1, 512)[0], (4096,), 0.5)
    parity = mask[0::2, 0::2] ^ mask[0::2, 1::2] ^ mask[1::2, 0::2] ^ mask[1::2, 1::2]
    sigma = 0.5 / parity.numel() ** 0.5
    assert abs(parity.double().mean().item() - 0.5) < SIGMAS * sigma


class Block(nn.Module):
    """One of each kind of layer."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.elements = nn.Dropout(p)
        self.channels = nn.Dropout2d(p)
        self.path = DropPath(p)
        self.none = nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.elements(self.linear(x))
        x = x + self.path(x)
        return self.none(self.channels(x.view(-1, 4, 2, 1)).view(x.shape))  # type: ignore[no-any-return]


def blocks(*shares: float) -> tuple[nn.Sequential, RandomLayers]:
    torch.manual_seed(0)
    model = nn.Sequential(*[Block(p) for p in shares]).double()
    return model, RandomLayers(model)


def layer_of(p: float, pairs: int, **options: Any) -> DropoutByPair:
    layer = DropoutByPair(p, name="tower.layer", **options)
    RandomLayers(nn.Sequential(layer)).set_pass(words_of(3, 4), places_from(10, pairs))
    return layer


def test_a_replaced_model_keeps_its_names_and_its_evaluation() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Block(), Block())
    names_before = list(model.state_dict())
    x = torch.randn(6, 8)
    before = model.eval()(x)
    layers = RandomLayers(model)

    assert [layer.name for layer in layers.layers][:3] == ["0.elements", "0.channels", "0.path"]
    assert len(layers) == 6
    assert isinstance(model[0].none, nn.Dropout)
    assert list(model.state_dict()) == names_before
    assert torch.equal(model(x), before)


def test_what_is_dropped_is_whole_elements_channels_and_pairs() -> None:
    x = torch.ones(64, 6, 5, 4)
    by_element = layer_of(0.5, 64)(x)
    by_channel = layer_of(0.5, 64, masked=2)(x)
    by_pair = layer_of(0.5, 64, masked=1, rescale=False)(x)

    assert set(by_element.unique().tolist()) == {0.0, 2.0}
    assert set(by_channel.flatten(2).sum(2).unique().tolist()) == {0.0, 40.0}
    assert set(by_pair.flatten(1).sum(1).unique().tolist()) == {0.0, 120.0}
    assert by_element.flatten(2).sum(2).unique().numel() > 10
    assert torch.equal(layer_of(1.0, 64)(x), torch.zeros_like(x))


def test_the_windows_of_a_pair_have_masks_of_their_own() -> None:
    x = torch.ones(8 * 3, 4, 5)
    together = layer_of(0.5, 8)(x)
    second = layer_of(0.5, 2)  # its pass begins with the same pair
    assert torch.equal(second(x[:6]), together[:6])
    assert not torch.equal(together[0], together[1])

    whole_windows = layer_of(0.5, 8, masked=1)(x).flatten(1).sum(1).view(8, 3)
    assert whole_windows.unique().tolist() == [0.0, 40.0]
    assert bool((whole_windows != whole_windows[:, :1]).any())


def test_an_input_that_is_not_by_pair_is_refused() -> None:
    with pytest.raises(UserError, match=r"tower\.layer.*7; expected the pass's 4 pairs"):
        layer_of(0.5, 4)(torch.ones(7, 3))
    with pytest.raises(RuntimeError, match=r"tower\.layer: no pass is set"):
        DropoutByPair(0.5, name="tower.layer")(torch.ones(7, 3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_values_and_gradients_are_scaled_in_their_own_type(dtype: torch.dtype) -> None:
    layer = layer_of(0.25, 4)
    x = torch.ones(4, 100, dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    y.backward(torch.ones_like(y))

    assert y.dtype == dtype
    assert x.grad is not None
    assert torch.equal(x.grad, y)
    assert y.max().item() == pytest.approx(4 / 3, rel=1e-15 if dtype == torch.float64 else 1e-2)


def text_tower() -> tuple[BertTower, RandomLayers]:
    torch.manual_seed(0)
    tower = BertTower(
        dim=8,
        vocabulary_size=100,
        hidden=16,
        layers=2,
        heads=2,
        intermediate=32,
        initializer_range=0.3,
    )
    return tower.double().train(), RandomLayers(tower)


def test_a_text_is_dropped_alike_in_every_chunk_and_at_every_length() -> None:
    tower, layers = text_tower()
    input_ids = torch.randint(1, 100, (12, 16), generator=torch.Generator().manual_seed(0))
    input_ids[:, 9:] = -1
    assert len(layers) == 1 + 3 * 2  # embeddings; attention, its output and the block's

    def embed(first: int, last: int, length: int) -> Tensor:
        layers.set_pass(words_of(5, 6), places_from(first, last - first))
        embeddings: Tensor = tower(input_ids[first:last, :length])
        return embeddings

    together = embed(0, 12, 16)
    for size, length in ((1, 9), (4, 16), (6, 10)):
        chunks = [embed(first, first + size, length) for first in reversed(range(0, 12, size))]
        torch.testing.assert_close(torch.cat(chunks[::-1]), together, atol=1e-12, rtol=0)

    layers.set_pass(words_of(5, 7), places_from(0, 12))
    assert (tower(input_ids) - together).abs().min() > 1e-6


def test_a_second_pass_draws_what_the_first_one_drew() -> None:
    model, layers = blocks(0.3, 0.6)
    x = torch.randn(6, 8, dtype=torch.float64, requires_grad=True)

    def forward(earlier: Pass | None, x: Tensor) -> Tensor:
        layers.restore(earlier)
        y: Tensor = model(x)
        return y

    gradients = []
    for again in (False, True):
        results = []
        for step in range(2):
            layers.set_pass(words_of(1, step), places_from(0, 6))
            one_pass = partial(forward, layers.current())
            y = checkpoint(one_pass, x, use_reentrant=False) if again else one_pass(x)
            results.append(y.square().sum())
        (gradient,) = torch.autograd.grad(torch.stack(results).sum(), x)
        gradients.append(gradient)
    assert torch.equal(*gradients)


def test_a_layer_more_changes_no_other_one() -> None:
    small, of_small = blocks(0.5, 0.5)
    again, _ = blocks(0.5, 0.5)
    large = nn.ModuleDict({"more": nn.Dropout(0.5), "0": again[0], "1": again[1]})
    of_large = RandomLayers(large)
    for layers in (of_small, of_large):
        layers.set_pass(words_of(1, 2), places_from(0, 6))

    x = torch.randn(6, 8, dtype=torch.float64)
    assert len(of_large) == len(of_small) + 1
    assert torch.equal(small(x), large["1"](large["0"](x)))


@pytest.mark.long
def test_compiled_blocks_drop_the_same_and_share_their_code() -> None:
    torch._dynamo.reset()
    counters.clear()
    model, layers = blocks(0.2, 0.4)
    plain = [block.forward for block in model]
    compiled = [torch.compile(block.forward) for block in model]
    x = torch.randn(8, 8, dtype=torch.float64, requires_grad=True)
    for step in range(2):
        layers.set_pass(words_of(1, step), places_from(0, 8))
        for eager, fast in zip(plain, compiled, strict=True):
            expected = eager(x)
            found = fast(x)
            torch.testing.assert_close(found, expected, atol=1e-14, rtol=0)
            torch.testing.assert_close(
                torch.autograd.grad(found.square().sum(), x)[0],
                torch.autograd.grad(expected.square().sum(), x)[0],
                atol=1e-13,
                rtol=0,
            )
    assert counters["stats"]["unique_graphs"] == 1


def test_timm_draws_by_pair_alone() -> None:
    options = {
        "img_size": 32,
        "depth": 2,
        "drop_path_rate": 0.5,
        "attn_drop_rate": 0.2,
        "proj_drop_rate": 0.2,
    }
    tower = TimmTower(name="vit_tiny_patch16_224", options=options).train()
    layers = RandomLayers(tower)
    images = torch.randn(4, 3, 32, 32)
    with refuse_other_draws(tower, CPU):
        layers.set_pass(words_of(1, 2), places_from(0, 4))
        together = tower(images)
        layers.set_pass(words_of(1, 2), places_from(2, 2))
        torch.testing.assert_close(tower(images[2:]), together[2:], atol=1e-5, rtol=0)
    assert {layer.p for layer in layers.layers} == {0.2, 0.5}


class Drawing(nn.Module):
    """A tower that draws by itself."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, 0.5, training=self.training)


def test_other_draws_are_refused() -> None:
    tower = Drawing()
    message = r"Drawing draws random numbers.*use nn\.Dropout"
    with pytest.raises(UserError, match=message), refuse_other_draws(tower, CPU):
        tower(torch.ones(3))
    with refuse_other_draws(tower.eval(), CPU):
        tower(torch.ones(3))


def test_a_model_that_drops_nothing_computes_nothing() -> None:
    layers = RandomLayers(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.0)))
    layers.set_pass(words_of(1, 2), places_from(0, 4))
    assert len(layers) == 0
    assert layers.current() is None
    layers.restore(None)
