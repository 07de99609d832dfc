"""What the embeddings of a model depend on, so that a search never mixes two kinds of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain

# Between two embeddings of the same input, both of length 1. Another device moves them by 0.001
# (TF32), another number of heads by 0.007 even in a model that has hardly begun to learn.
_FURTHEST = 0.005

# What is compared as it is, and how a difference is spelled.
_EXACT = {
    "weights": "other weights",
    "tokenizer": "another tokenizer",
    "image_size": "image_size",
    "resize_size": "resize_size",
    "max_tokens": "max_tokens",
}


@dataclass(frozen=True)
class Identity:
    """What the embeddings of a model depend on.

    Attributes:
        weights: A hash of the weights.
        tokenizer: A hash of all that turns a text into tokens; None: there is none.
        image_size: Pixels, the side of the crop.
        resize_size: Pixels, the side to which images are squashed before the crop.
        max_tokens: Longer texts are cut.
        settings: The settings of the towers by dotted key. They explain a difference.
        probes: Embeddings of fixed images and tokens. They differ if anything else does: pooling,
            normalisation, the number of heads, a library.
    """

    weights: str
    tokenizer: str | None
    image_size: int
    resize_size: int
    max_tokens: int | None
    settings: dict[str, str]
    probes: list[list[float]]

    @classmethod
    def read(cls, content: object) -> Identity:
        """Makes one of its JSON.

        Args:
            content: As `asdict` gives it.

        Raises:
            TypeError: A part is missing, left over or of another type.
        """
        if not isinstance(content, Mapping):
            raise TypeError("no parts of a model")
        identity = cls(**content)

        texts = (identity.weights, identity.tokenizer or "", *identity.settings.values())
        sides = (identity.image_size, identity.resize_size, identity.max_tokens or 0)
        numbers = list(chain.from_iterable(identity.probes))
        if (
            not all(isinstance(text, str) for text in texts)
            or not all(isinstance(side, int) for side in sides)
            or not all(isinstance(number, float) for number in numbers)
        ):
            raise TypeError("other types than it is written with")
        return identity

    def difference(self, now: Identity) -> str:
        """Names the first part that another model has otherwise.

        Args:
            now: That model's.

        Returns:
            For an error, e.g. `resize_size 54, now 60`; empty if embeddings of both compare.
        """
        ours = asdict(self)
        theirs = asdict(now)
        for name, spelled in _EXACT.items():
            # A tokenizer that was missing may have been added since: images had no use for it.
            if ours[name] == theirs[name] or (name == "tokenizer" and ours[name] is None):
                continue
            if name != spelled:
                return spelled
            return f"{name} {ours[name]}, now {theirs[name]}"

        # Settings may differ without any effect, e.g. by a new default: the probes decide.
        if _are_near(self.probes, now.probes):
            return ""
        for name, value in self.settings.items():
            if now.settings.get(name, value) != value:
                return f"{name} {value}, now {now.settings[name]}"
        return "another pooling, normalisation or version of a library"


def _are_near(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> bool:
    if list(map(len, ours)) != list(map(len, theirs)):
        return False
    return all(math.dist(*pair) <= _FURTHEST for pair in zip(ours, theirs, strict=True))
