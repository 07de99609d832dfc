"""Dropout by pair against torch's and timm's own: seconds forward and backward.

    python -m benchmarks.dropout [--pairs 256] [--rounds 5] [--device cuda]

Three layers, each alone: dropout 0.1 of BERT base's hidden states and of its attention, both for 64
tokens, and drop path 0.2 of an EfficientNet's feature maps. Each in float32 and bf16, eager and
compiled. Each round times both; they take turns to be first. Figures are medians in
milliseconds; a ratio is ours / theirs, the median of the ratios within a round.

The last line is the price that all layers of a model share: the words of one pass.

Price: 4 minutes on two cores, half of it the compiler's; 1 GB for 256 pairs.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from statistics import median

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from align_train.training.hashing import words_of
from align_train.training.randomness import RandomLayers
from benchmarks.shared.command_line import parser_of, refuse_no_rounds

# Of one pair.
SHAPES = {
    "hidden states": (64, 768),
    "attention": (12, 64, 64),
    "drop path": (40, 72, 72),
}
SHARES = {"hidden states": 0.1, "attention": 0.1, "drop path": 0.2}
LAYERS = 100  # for the price of a pass; b7_base has 91

MODES = ("eager", "compiled")
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
HEADER = (
    f"{'layer':<15}{'type':<9}{'mode':<10}"
    f"{'forward ms':>11}{'theirs':>8}{'ratio':>7}{'+ backward ms':>15}{'theirs':>8}{'ratio':>7}"
)

Layer = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """One layer in one setting."""

    layer: str
    dtype: str
    mode: str


def layers_of(case: Case, pairs: int, device: torch.device) -> tuple[Layer, Layer]:
    """Makes our layer and theirs, as functions of the input."""
    p = SHARES[case.layer]
    both = []
    for ours in (True, False):
        layer = DropPath(p) if case.layer == "drop path" else nn.Dropout(p)
        # The layer must have a parent, whose child is replaced.
        model = nn.Sequential(layer).train()
        if ours:
            places = torch.arange(pairs, dtype=torch.int32, device=device)
            RandomLayers(model).set_pass(words_of(0, 0), places, DTYPES[case.dtype])
        function: Layer = model[0]
        if case.mode == "compiled":
            torch._dynamo.reset()  # or the compiler would count both as versions of one
            function = torch.compile(function, dynamic=False)
        both.append(function)
    return both[0], both[1]


def seconds_of(function: Callable[[], object], device: torch.device) -> float:
    """Times one call, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def measured(case: Case, options: Namespace) -> Iterator[list[tuple[float, float]]]:
    """Gives the seconds of ours and of theirs in each round: forward, then with backward."""
    device = torch.device(options.device)
    shape = (options.pairs, *SHAPES[case.layer])
    layers = layers_of(case, options.pairs, device)
    x = torch.randn(shape, device=device, dtype=DTYPES[case.dtype], requires_grad=True)
    gradient = torch.randn_like(x)

    def forward(layer: Layer) -> None:
        layer(x)

    def backward(layer: Layer) -> None:
        torch.autograd.grad(layer(x), x, gradient)

    for passes in (forward, backward):
        rounds = []
        for turn in range(-1, options.rounds):
            seconds = {}
            for which in (0, 1) if turn % 2 else (1, 0):
                layer = layers[which]
                seconds[which] = seconds_of(lambda: passes(layer), device)  # noqa: B023
            # The first round compiles, and fills the allocator.
            if turn >= 0:
                rounds.append((seconds[0], seconds[1]))
        yield rounds


def row_of(case: Case, options: Namespace) -> str:
    """Measures a case and returns its row of the table."""
    row = f"{case.layer:<15}{case.dtype:<9}{case.mode:<10}"
    for width, rounds in zip((11, 15), measured(case, options), strict=True):
        ours = median(seconds for seconds, _ in rounds)
        theirs = median(seconds for _, seconds in rounds)
        ratio = median(one / other for one, other in rounds)
        row += f"{1e3 * ours:>{width}.2f}{1e3 * theirs:>8.2f}{ratio:>7.2f}"
    return row


def words_of_a_pass(options: Namespace) -> float:
    """The seconds in which a pass's words are drawn and handed out."""
    device = torch.device(options.device)
    layers = RandomLayers(nn.Sequential(*[nn.Dropout(0.1) for _ in range(LAYERS)]))
    places = torch.arange(options.pairs, dtype=torch.int32, device=device)
    every = []
    for step in range(options.rounds + 1):
        words = words_of(0, step)
        every.append(seconds_of(lambda: layers.set_pass(words, places), device))  # noqa: B023
    return median(every[1:])


def main() -> None:
    parser = parser_of("dropout", __doc__)
    parser.add_argument("--pairs", type=int, default=256, help="pairs of a chunk")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    refuse_no_rounds(options.rounds)

    print(f"torch {torch.__version__}, {options.device}, {options.pairs} pairs")
    print(HEADER, flush=True)
    for layer, dtype, mode in product(SHAPES, DTYPES, MODES):
        print(row_of(Case(layer, dtype, mode), options), flush=True)
    milliseconds = 1e3 * words_of_a_pass(options)
    print(f"words of a pass, {LAYERS} layers: {milliseconds:.2f} ms")


if __name__ == "__main__":
    main()
