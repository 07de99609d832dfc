"""Search by an image and a text together: "this, but red".

The query is the sum of both embeddings, the text at twice the weight (paper, section 5.4).

It is measured on classes that are made up of attributes, like the demo's colour and shape. An image
and the name of another value ask for images that have this value and otherwise are like the
first one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from align_train.cluster.collectives import gather_rows, rank, world_size
from align_train.errors import UserError
from align_train.evals.base import Evaluator
from align_train.evals.embedder import Embedder, ImagesOf
from align_train.evals.labels import class_indices, labels_of, read_classes
from align_train.evals.prompts import read_templates
from align_train.stream.classes import ClassNames
from align_train.stream.sets import ImageSet

_ROWS = 1024  # queries that are compared with all images at a time


def compose(
    images: Tensor,
    texts: Tensor,
    *,
    text_weight: float,
) -> Tensor:
    """Makes queries of images and texts.

    Args:
        images: `[n, dim]`, L2-normalised.
        texts: `[n, dim]`, L2-normalised.
        text_weight: The weight of a text; an image has 1.

    Returns:
        `[n, dim]`, L2-normalised.
    """
    return normalize(images + text_weight * texts, dim=-1)


class ComposedSearch(Evaluator):
    """The share of queries whose first hit is right.

    An image asks for each value that it does not have itself, if another image has it and is else
    like the first one. The image that asks is no hit.
    """

    def __init__(
        self,
        *,
        classes: str,
        attribute: str,
        values: list[str],
        template: str = "{}",
        label: str,
        data: ImageSet | None,
        text_weight: float,
    ) -> None:
        """Reads the classes.

        Args:
            classes: A class file with two attributes or more, see `read_classes`.
            attribute: The attribute that texts change.
            values: The text for each of its values.
            template: A prompt with `{}` in the place of the value.
            label: The field of an image's record that holds its class.
            data: The images; None: the run's held-out pairs.
            text_weight: The weight of a text; an image has 1.

        Raises:
            UserError: The class file, or a setting, is not as expected.
        """
        self.classes = read_classes(classes)
        attributes = self.classes.attributes
        if attribute not in attributes or len(attributes) < 2:
            known = ", ".join(attributes) or "none"
            raise UserError(
                f"eval: attribute={attribute}: {classes} has {known}; "
                f"expected one of two or more attributes"
            )
        # One template is checked like a list of them.
        (template,) = read_templates([template])
        if not 0 <= text_weight < float("inf"):
            raise UserError(f"eval: text_weight={text_weight}: expected a finite number from 0 on")

        self.changed = torch.tensor(attributes[attribute])
        self.kept = _kept(self.classes, attribute)
        count = int(self.changed.max()) + 1
        # More texts than values do no harm: no image has the values left over.
        if len(values) < count:
            raise UserError(f"eval: values: {len(values)} of them; {attribute} has {count} values")

        self.texts = [template.format(value) for value in values]
        self.label = label
        self.data = data
        self.text_weight = text_weight

    @classmethod
    def metrics(cls, settings: Mapping[str, object]) -> Sequence[str] | None:
        """The recalls and the number of queries, whatever the settings."""
        return ("recall@1", "picture_alone/recall@1", "text_alone/recall@1", "queries")

    def sets(self) -> Sequence[ImageSet | None]:
        """Asks for the images."""
        return (self.data,)

    def check(self, images_of: ImagesOf) -> None:
        """Checks the labels.

        Args:
            images_of: Opens a set.

        Raises:
            UserError: An image has no label, or one that is none of the classes.
        """
        self._labels(images_of)

    def _labels(self, images_of: ImagesOf) -> list[int]:
        labels = labels_of(images_of(self.data).about(), self.label)
        return class_indices(self.classes, labels, field=self.label)

    @torch.inference_mode()
    def __call__(self, embedder: Embedder) -> Iterator[tuple[str, float]]:
        """Yields the recall at 1 of the composed query, and of each of its parts alone.

        Args:
            embedder: Makes embeddings, or has them already.

        Raises:
            UserError: No two images differ in the attribute alone.
        """
        images = embedder.pairs(self.data).images
        labels = torch.tensor(self._labels(embedder.images_of), device=images.device)
        changed = self.changed.to(images.device)[labels]
        kept = self.kept.to(images.device)[labels]

        asking, values = self._queries(changed, kept)
        texts = embedder.texts(self.texts)

        # Each rank takes every w-th query, as the embedder does with images.
        own = torch.arange(rank(), len(asking), world_size(), device=images.device)
        # A rank without queries gathers no rows, but of the same width.
        hits = [torch.empty(0, 3, dtype=torch.float64, device=images.device)]
        for rows in torch.split(own, _ROWS):
            image = asking[rows]
            value = values[rows]
            composed = compose(images[image], texts[value], text_weight=self.text_weight)

            right = []
            # Each part alone shows how much the sum of both adds.
            for queries in (composed, images[image], texts[value]):
                first = _first_hit(queries, images, image)
                has_value = changed[first] == value
                is_else_alike = kept[first] == kept[image]
                right.append(has_value & is_else_alike)
            hits.append(torch.stack(right, dim=1).double())

        shares = gather_rows(torch.cat(hits), len(asking)).mean(dim=0)
        yield "recall@1", float(shares[0])
        yield "picture_alone/recall@1", float(shares[1])
        yield "text_alone/recall@1", float(shares[2])
        yield "queries", len(asking)

    def _queries(self, changed: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """The index of the image, and the value, of each query: both `[queries]`."""
        # occurs[k, v]: some image of kind k has the value v.
        kinds = int(kept.max()) + 1
        occurs = torch.zeros(
            kinds,
            len(self.texts),
            dtype=torch.bool,
            device=kept.device,
        )
        occurs[kept, changed] = True

        wanted = occurs[kept]
        wanted[torch.arange(len(kept)), changed] = False  # an image has its own value already
        images, values = wanted.nonzero(as_tuple=True)
        if not len(images):
            raise UserError(
                "eval: composed search: no two images differ in that attribute alone; "
                "nothing can be asked"
            )
        return images, values


def _kept(classes: ClassNames, attribute: str) -> Tensor:
    """int64 `[classes]`: equal for classes that are alike in all but this attribute."""
    others = [values for name, values in classes.attributes.items() if name != attribute]
    indices: dict[tuple[int, ...], int] = {}
    # Every combination of the other values is a kind of its own.
    for combination in zip(*others, strict=True):
        indices.setdefault(combination, len(indices))
    kinds = [indices[combination] for combination in zip(*others, strict=True)]
    return torch.tensor(kinds)


def _first_hit(queries: Tensor, images: Tensor, asking: Tensor) -> Tensor:
    """The index of the nearest image to each query, without the image that asks: `[queries]`."""
    similarity = queries @ images.T
    # It would be the nearest to itself. Masking keeps the indices of the others.
    similarity[torch.arange(len(queries)), asking] = -torch.inf
    return similarity.argmax(dim=1)
