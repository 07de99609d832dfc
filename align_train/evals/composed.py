"""Search by a picture and a text together: "this, but red" (paper, section 5.4: both normalised, the text at twice the weight).

Measured where classes are made up of attributes, as the demo's are of colour and shape: a picture and the name of another value
ask for the pictures that have this value and are like the first one in all else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from align_train.cluster.collectives import gather_rows, rank, world_size
from align_train.errors import UserError
from align_train.evals.embedder import Embedder, Images
from align_train.evals.prompts import Classes, labels_of, read_templates

TEXT_WEIGHT = 2.0
_ROWS = 1024


def compose(images: Tensor, texts: Tensor, *, text_weight: float = TEXT_WEIGHT) -> Tensor:
    """Normalised `[n, dim]` of pictures and of texts -> queries, normalised `[n, dim]`."""
    return normalize(images + text_weight * texts, dim=-1)


class ComposedSearch:
    """The share of queries whose first hit is right, as composed, and with the picture or the text alone.

    classes: a file with attributes, see `Classes`. attribute: the one that texts change. values: what the text says for each of
    its values, put into `template`. Each picture asks for each other value that any picture like it has; it is no hit itself.
    """

    def __init__(
        self,
        *,
        classes: str,
        attribute: str,
        values: list[str],
        template: str = "{}",
        label: str = "class",
        data: Any = None,
        text_weight: float = TEXT_WEIGHT,
    ) -> None:
        self.classes = Classes.read(classes)
        if attribute not in self.classes.attributes or len(self.classes.attributes) < 2:
            known = ", ".join(self.classes.attributes) or "none"
            raise UserError(
                f"eval: attribute={attribute}: {classes} has {known}; expected one of two or more attributes"
            )
        (template,) = read_templates([template])
        if not 0 <= text_weight < float("inf"):
            raise UserError(f"eval: text_weight={text_weight}: expected a finite number from 0 on")
        self.changed = torch.tensor(self.classes.attributes[attribute])
        if len(values) <= int(self.changed.max()):
            raise UserError(
                f"eval: values: {len(values)} of them; {attribute} has {int(self.changed.max()) + 1} values"
            )
        others = zip(
            *(of for name, of in self.classes.attributes.items() if name != attribute), strict=True
        )
        numbers: dict[tuple[int, ...], int] = {}
        self.kept = torch.tensor([numbers.setdefault(other, len(numbers)) for other in others])
        self.texts = [template.format(value) for value in values]
        self.label, self.data, self.text_weight = label, data, text_weight

    def check(self, pictures: Callable[[Any], Images]) -> None:
        """UserError where a picture's label is none."""
        self._labels(pictures)

    def _labels(self, pictures: Callable[[Any], Images]) -> list[int]:
        return self.classes.numbers(
            labels_of(pictures(self.data).about(), self.label), where=self.label
        )

    @torch.inference_mode()
    def __call__(self, encoder: Embedder) -> Iterator[tuple[str, float]]:
        encoded = encoder.pairs(self.data)
        device = encoded.images.device
        labels = torch.tensor(self._labels(encoder.images_of), device=device)
        changed, kept = self.changed.to(device)[labels], self.kept.to(device)[labels]
        there = torch.zeros(
            int(self.kept.max()) + 1, len(self.texts), dtype=torch.bool, device=device
        )
        there[kept, changed] = True
        wanted = there[kept]
        wanted[torch.arange(len(labels)), changed] = False
        pictures, values = wanted.nonzero(as_tuple=True)
        if not len(pictures):
            raise UserError(
                "eval: composed search: no two pictures differ in that attribute alone; nothing can be asked"
            )
        texts = encoder.texts(self.texts)
        own = torch.arange(rank(), len(pictures), world_size(), device=device)
        hits = []
        for start in range(0, len(own), _ROWS):
            query = own[start : start + _ROWS]
            asking, value = pictures[query], values[query]
            composed = compose(encoded.images[asking], texts[value], text_weight=self.text_weight)
            found = []
            for queries in (composed, encoded.images[asking], texts[value]):
                similarity = queries @ encoded.images.T
                similarity[torch.arange(len(query)), asking] = -torch.inf
                first = similarity.argmax(dim=1)
                found.append((changed[first] == value) & (kept[first] == kept[asking]))
            hits.append(torch.stack(found, dim=1).double())
        empty = torch.empty(0, 3, dtype=torch.float64, device=device)
        shares = gather_rows(torch.cat([empty, *hits]), len(pictures)).mean(dim=0)
        yield "recall@1", float(shares[0])
        yield "picture_alone/recall@1", float(shares[1])
        yield "text_alone/recall@1", float(shares[2])
        yield "queries", len(pictures)
