"""A model's random layers: each drops by pair (`dropout.py`), and nothing else draws numbers.

All layers get the words of a pass at once, before it. An earlier pass can be restored, since
gradient caching computes it a second time.

Price: for a pass some 40 operations of the size layers x pairs. Timm's fused attention is switched
off in a layer with attention dropout, since its kernel draws its numbers itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from align_train.errors import UserError
from align_train.training.dropout import DropoutByPair
from align_train.training.hashing import Words, columns, rows, words_of

# Leading dimensions that have a word of their own: whole pairs, whole channels; None: all.
_MASKED: dict[type[nn.Module], int | None] = {
    DropPath: 1,
    nn.Dropout1d: 2,
    nn.Dropout2d: 2,
    nn.Dropout3d: 2,
    nn.Dropout: None,
}


class Pass(NamedTuple):
    """The words and factors of one pass.

    Attributes:
        rows: int32 `[pairs]` for each layer.
        factors: `[pairs]` for each layer that drops whole pairs: 0, or its scale.
    """

    rows: tuple[Tensor, ...]
    factors: tuple[Tensor, ...]


class RandomLayers:
    """All layers of a model that drop something, each replaced by a `DropoutByPair`."""

    def __init__(self, model: nn.Module) -> None:
        """Replaces the layers in place; those with p = 0 stay.

        Args:
            model: Before it is compiled, checkpointed or sharded. Its layers may be replaced
                already.
        """
        self.layers: list[DropoutByPair] = []
        replaced: dict[nn.Module, DropoutByPair] = {}
        for path, parent in list(model.named_modules()):
            for child_name, child in list(parent.named_children()):
                name = f"{path}.{child_name}" if path else child_name
                layer = replaced.get(child) or _by_pair(child, name)
                if layer is None:
                    continue

                # A layer that stands in two places stays one layer.
                if child not in replaced:
                    self.layers.append(layer)
                replaced[child] = layer
                setattr(parent, child_name, layer)
                if child_name == "attn_drop" and hasattr(parent, "fused_attn"):
                    parent.fused_attn = False

        # A layer's word comes from its name: one that is added elsewhere changes nothing.
        words = [words_of(layer.name)[0] for layer in self.layers]
        self._words = torch.tensor(words, dtype=torch.int32)
        self._path_layers = [layer for layer in self.layers if layer.masked == 1]
        self._pass: Pass | None = None

    def __len__(self) -> int:
        """How many layers drop something."""
        return len(self.layers)

    def set_pass(self, words: Words, places: Tensor, dtype: torch.dtype = torch.float64) -> None:
        """Draws the words of the next pass.

        Args:
            words: `words_of(seed, finished_steps)`.
            places: int32 `[pairs]`, each pair's place in the global batch, on the model's device.
            dtype: The usual type of what is dropped, which costs nothing then.
        """
        if not self.layers:
            return
        if self._words.device != places.device or self._pass is None:
            self._move(places.device)

        table = rows(words, self._words, places)
        # Of all layers that drop whole pairs at once: they are many, and each has few numbers.
        products = table[self._whole_pairs] * columns((), places.device)
        factors = (products >= self._thresholds) * self._scales
        self.restore(Pass(table.unbind(), factors.to(dtype).unbind()))

    def current(self) -> Pass | None:
        """The words of the pass under way, for `restore`; None if there are none."""
        return self._pass

    def restore(self, earlier: Pass | None) -> None:
        """Goes back to an earlier pass, as before its second computation in the backward pass.

        Args:
            earlier: From `current`.
        """
        if earlier is None or earlier is self._pass:
            return
        self._pass = earlier
        for layer, row in zip(self.layers, earlier.rows, strict=True):
            layer.row = row
        for layer, factor in zip(self._path_layers, earlier.factors, strict=True):
            layer.factor = factor

    def _move(self, device: torch.device) -> None:
        """Moves the constants of all passes to a device."""
        self._words = self._words.to(device)
        thresholds = [layer.threshold_value for layer in self.layers]
        scales = [layer.scale_value for layer in self.layers]
        of_layers = torch.tensor(thresholds, dtype=torch.int32, device=device)
        factors = torch.tensor(scales, dtype=torch.float64, device=device)
        for layer, threshold, scale in zip(self.layers, of_layers, factors, strict=True):
            layer.threshold = threshold
            layer.scale = scale

        whole_pairs = [index for index, layer in enumerate(self.layers) if layer.masked == 1]
        self._whole_pairs = torch.tensor(whole_pairs, dtype=torch.int64, device=device)
        self._thresholds = of_layers[self._whole_pairs, None]
        self._scales = factors[self._whole_pairs, None]


def _by_pair(layer: nn.Module, name: str) -> DropoutByPair | None:
    """The layer that takes another's place; None if that one drops nothing."""
    if isinstance(layer, DropoutByPair):
        return layer
    # A subclass may draw in a way of its own: `refuse_other_draws` finds it.
    if type(layer) not in _MASKED:
        return None

    p = float(layer.drop_prob if isinstance(layer, DropPath) else layer.p)  # type: ignore[arg-type]
    if p == 0:
        return None
    rescale = bool(getattr(layer, "scale_by_keep", True))
    by_pair = DropoutByPair(p, name=name, masked=_MASKED[type(layer)], rescale=rescale)
    return by_pair.train(layer.training)


@contextmanager
def refuse_other_draws(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Checks that a pass in training mode leaves torch's generators alone.

    Price: two copies of a generator's state on the host; meant for a run's first pass.

    Args:
        model: For the error.
        device: Where the pass runs.

    Raises:
        UserError: A generator has moved.
    """
    before = _generators(device)
    yield
    if all(map(torch.equal, before, _generators(device))):
        return
    raise UserError(
        f"{type(model).__name__} draws random numbers by torch's own generator in its forward "
        "pass; they would depend on chunk_size and rank: use nn.Dropout or timm's DropPath modules"
    )


def _generators(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states
