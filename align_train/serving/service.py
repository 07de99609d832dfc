"""The models that are served, and the questions that the page and the HTTP interface ask them.

Calls come from any number of threads, and wait. What they ask is embedded together, see
`batching.py`; the numbers are those of `align_train.load`, whoever else asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from align_train.errors import shown
from align_train.serving.answers import Classified, Query, Similarities, read_scores
from align_train.serving.batching import Batching
from align_train.serving.refused import Refused
from align_train.serving.searched import Hit, Searched
from align_train.serving.served import AnyModel, Served
from align_train.serving.templates import checked_templates
from align_train.serving.uploads import AnyUpload, Decoder
from align_train.shards.caption import is_unicode

_MAX_PIXELS = 32_000_000
# `Limits` bounds labels and templates each. Their product could still be a million.
_MOST_PROMPTS = 20_000
_LEAST_LENGTH = 1e-3  # of a query whose parts cancel out

_ONE_LABEL = (
    "one label alone: a softmax would give 1 whatever the image shows; compare the cosine with "
    "those of other labels"
)


class Service:
    """All models by name, and what they answer."""

    def __init__(
        self,
        models: Mapping[str, AnyModel],
        *,
        steps: Mapping[str, int | None] | None = None,
        searched: Searched | None = None,
        batching: Batching | None = None,
        max_pixels: int = _MAX_PIXELS,
    ) -> None:
        """Takes loaded models, and starts their threads.

        Args:
            models: By the name that users choose from.
            steps: Of the weights of those that are runs.
            searched: The collection that is searched; None: there is none.
            batching: How items of several requests are put together; None: as by default.
            max_pixels: Pixels that an image may have.

        Raises:
            UserError: A model's folder does not say how images are prepared.
        """
        self.models = dict(models)
        self.searched = searched
        decoder = Decoder(max_pixels=max_pixels)
        self.served = {
            name: Served(
                name,
                model,
                step=(steps or {}).get(name),
                batching=batching or Batching(),
                decoder=decoder,
            )
            for name, model in models.items()
        }

    @property
    def names(self) -> list[str]:
        """The models' names, the first one being the default."""
        return list(self.models)

    def one(self, name: str | None) -> Served:
        """Finds a model.

        Args:
            name: Its name; None: the first one's.

        Raises:
            Refused: There is none of that name.
        """
        if name is None:
            name = self.names[0]
        if name not in self.served:
            known = shown(", ".join(self.names), 200)
            raise Refused(f"model={shown(name)}: no such model; expected one of {known}", code=404)
        return self.served[name]

    def embed_images(self, name: str | None, images: Sequence[AnyUpload]) -> NDArray[np.float32]:
        """Embeds images: `[images, dim]`, L2-normalised.

        Args:
            name: The model's; None: the first one's.
            images: At least one.

        Raises:
            Refused: The model is a classifier, or an image cannot be embedded; says which.
        """
        return self._dual_encoder(name).embed_images(images)

    def embed_texts(self, name: str | None, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeds texts: `[texts, dim]`, L2-normalised.

        Args:
            name: The model's; None: the first one's.
            texts: At least one.

        Raises:
            Refused: The model takes no texts, or one cannot be embedded; says which.
        """
        return self.one(name).embed_texts(texts)

    def classify(
        self,
        name: str | None,
        images: Sequence[AnyUpload],
        labels: Sequence[str] = (),
        templates: str | Sequence[str] = ("{}",),
    ) -> list[Classified]:
        """Compares images with labels, each the normalised mean of its prompts.

        Args:
            name: The model's; None: the first one's.
            images: At least one.
            labels: At least one; none for a classifier, which has its own.
            templates: Prompts with `{}` in the place of the label; or the name of a known set.

        Returns:
            An answer for each image.

        Raises:
            Refused: The question does not fit the model, or an item cannot be embedded.
        """
        served = self.one(name)
        if served.classes is not None:
            return self._by_classes(served, served.classes, images, labels)
        if not labels:
            raise Refused("labels: none given; expected at least one")

        # The images first: a broken one must not wait for a thousand prompts.
        pixels = torch.from_numpy(served.embed_images(images))
        cosines = pixels @ self._embed_labels(served, labels, templates).T
        return [
            _answer(served, list(labels), row, logits)
            for row, logits in zip(cosines, _logits(served, cosines), strict=True)
        ]

    def _by_classes(
        self,
        served: Served,
        classes: list[str],
        images: Sequence[AnyUpload],
        labels: Sequence[str],
    ) -> list[Classified]:
        if labels:
            raise Refused(f"labels: model={served.name} is a classifier with classes of its own")
        probabilities = torch.from_numpy(served.embed_images(images)).softmax(dim=1)
        return [Classified("softmax", classes, row.tolist(), []) for row in probabilities]

    def _embed_labels(
        self, served: Served, labels: Sequence[str], templates: str | Sequence[str]
    ) -> Tensor:
        """`[labels, dim]`, as `evals/zero_shot.py` does it."""
        checked = checked_templates(templates)
        if len(labels) * len(checked) > _MOST_PROMPTS:
            raise Refused(
                f"labels: {len(labels)} x {len(checked)} templates; "
                f"expected at most {_MOST_PROMPTS:,} prompts"
            )
        prompts = []
        for index, label in enumerate(labels):
            # Checked before the prompts are made, so that the error names the label.
            if not is_unicode(label):
                raise Refused(f"labels[{index}]: {shown(label)}: half a letter in it (a surrogate)")
            prompts += [template.format(label) for template in checked]

        embedded = torch.from_numpy(served.embed_texts(prompts, of="prompts"))
        # Label by label, as the prompts were made.
        by_label = embedded.view(len(labels), len(checked), -1)
        return normalize(by_label.mean(dim=1), dim=-1)

    def similarity(
        self, name: str | None, images: Sequence[AnyUpload], texts: Sequence[str]
    ) -> Similarities:
        """Compares each image with each text.

        Args:
            name: The model's; None: the first one's.
            images: At least one.
            texts: At least one.

        Raises:
            Refused: The model is a classifier, or an item cannot be embedded.
        """
        served = self._dual_encoder(name)
        pixels = torch.from_numpy(served.embed_images(images))
        cosines = pixels @ torch.from_numpy(served.embed_texts(texts)).T
        return Similarities(served.kind, cosines.numpy(), _logits(served, cosines).numpy())

    def search(self, query: Query, *, top: int = 12) -> list[Hit]:
        """Finds the images of the collection nearest to a query, nearest first.

        Args:
            query: What is asked for. It is embedded by the model of the collection.
            top: How many images are wanted.

        Raises:
            Refused: There is no collection, or the query asks for nothing.
        """
        if self.searched is None:
            raise Refused("no collection is served; start the server with index=…", code=404)
        if query.text is None and query.image is None:
            raise Refused("give a text, an image, or both")
        # The page calls this as well, without the checks of the HTTP interface.
        if top < 1:
            raise Refused(f"top={top}: expected at least 1 image")
        return self.searched.search(self._embed_query(query), top)

    def _embed_query(self, query: Query) -> Tensor:
        assert self.searched is not None
        served = self.one(self.searched.model)
        parts = []
        if query.image is not None:
            (row,) = served.embed_images([query.image])
            parts.append(torch.from_numpy(row) * query.image_weight)
        if query.text is not None:
            (row,) = served.embed_texts([query.text], of="text")
            parts.append(torch.from_numpy(row) * query.text_weight)
        if query.away is not None:
            (row,) = served.embed_texts([query.away], of="away")
            # Away from a text is the direction opposite to its embedding.
            parts.append(torch.from_numpy(row) * -query.away_weight)

        total = torch.stack(parts).sum(dim=0)
        # Normalised, a sum near zero would be its rounding errors, and find anything.
        if not float(total.norm()) > _LEAST_LENGTH:
            raise Refused("the parts of the query cancel out; give other weights")
        return normalize(total, dim=0)

    def image(self, image: int) -> bytes:
        """A hit of the collection as a small JPEG.

        Args:
            image: Its index.

        Raises:
            Refused: There is no such image.
        """
        if self.searched is None:
            raise Refused("no collection is served", code=404)
        return self.searched.image(image)

    def close(self) -> None:
        """Ends all threads."""
        for served in self.served.values():
            served.close()

    def _dual_encoder(self, name: str | None) -> Served:
        served = self.one(name)
        if served.is_classifier:
            raise Refused(f"model={served.name}: a classifier, which has no embeddings")
        return served


def _logits(served: Served, cosines: Tensor) -> Tensor:
    """As `TrainedModel.similarity` computes them."""
    assert served.temperature is not None
    logits = cosines / served.temperature
    return logits if served.bias is None else logits + served.bias


def _answer(served: Served, labels: list[str], cosines: Tensor, logits: Tensor) -> Classified:
    kind, scores = read_scores(served.kind, cosines, logits)
    note = _ONE_LABEL if kind == "cosine" else None
    return Classified(kind, labels, scores.tolist(), cosines.tolist(), note)
