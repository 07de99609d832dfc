"""The models that are served, and the questions that the page and the HTTP interface ask them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from align_train.pretrained.load import TrainedModel

Kind = Literal["softmax", "sigmoid", "cosine"]
"""How scores are read: they share 1 among the labels; each is a probability of its own; or there is
one label of a softmax model, of which only the cosine says something."""


@dataclass(frozen=True)
class Classified:
    """An image's answer.

    Attributes:
        kind: How to read the scores.
        labels: As they were asked.
        scores: One for each label, by `kind`.
        cosines: One for each label, between -1 and 1.
    """

    kind: Kind
    labels: list[str]
    scores: list[float]
    cosines: list[float]


class Service:
    """All models by name, and what they answer."""

    def __init__(self, models: Mapping[str, TrainedModel]) -> None:
        """Takes loaded models.

        Args:
            models: By the name that users choose from.
        """
        self.models = dict(models)

    @property
    def names(self) -> list[str]:
        """The models' names, the first one being the default."""
        return list(self.models)

    def embed_images(self, name: str, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Embeds images: `[images, dim]`, L2-normalised."""
        with torch.inference_mode():
            embeddings: NDArray[np.float32] = (
                self.models[name].encode_images(list(images)).float().cpu().numpy()
            )
        return embeddings

    def embed_texts(self, name: str, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeds texts: `[texts, dim]`, L2-normalised."""
        model = self.models[name]
        with torch.inference_mode():
            ids = model.tokenizer(list(texts)).to(model.device)
            embeddings: NDArray[np.float32] = model.encode_text(ids).float().cpu().numpy()
        return embeddings

    def classify(
        self,
        name: str,
        images: Sequence[Image.Image],
        labels: Sequence[str],
        templates: Sequence[str] = ("{}",),
    ) -> list[Classified]:
        """Compares images with labels, each the normalised mean of its prompts.

        Args:
            name: The model's.
            images: At least one.
            labels: At least one.
            templates: Prompts with `{}` in the place of the label.

        Returns:
            An answer for each image.
        """
        prompts = [template.format(label) for label in labels for template in templates]
        embedded = torch.from_numpy(self.embed_texts(name, prompts))
        by_label = embedded.view(len(labels), len(templates), -1).mean(dim=1)
        texts = normalize(by_label, dim=-1)

        pixels = torch.from_numpy(self.embed_images(name, images))
        logits = self.models[name].similarity(pixels, texts)
        return [
            _answer(list(labels), row, cosines)
            for row, cosines in zip(logits, pixels @ texts.T, strict=True)
        ]


def _answer(labels: list[str], logits: Tensor, cosines: Tensor) -> Classified:
    return Classified("softmax", labels, logits.softmax(dim=0).tolist(), cosines.tolist())
