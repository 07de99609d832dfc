"""One model that is served: a thread for its images, one for its texts, and how it scores."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from align_train.errors import UserError, shown
from align_train.pretrained.load import TrainedClassifier, TrainedModel
from align_train.serving.batching import Batcher, Batching, Row, State
from align_train.serving.kept import Kept
from align_train.serving.refused import Refused
from align_train.serving.uploads import AnyUpload, Decoder
from align_train.shards.caption import is_unicode
from align_train.stream.batch import normalise
from align_train.stream.decode import Pixels

Kind = Literal["softmax", "sigmoid", "cosine"]
"""How scores are read: they share 1 among the labels; each is a probability of its own; or there is
one label of a softmax model, of which only the cosine says something."""

AnyModel = TrainedModel | TrainedClassifier

# Labels are asked again and again with other images. A row of 640 numbers takes 2.5 kB.
_KEPT_TEXTS = 10_000


class Served:
    """A model with its threads.

    Attributes:
        name: By which users choose it.
        model: As it was loaded: it never changes.
        step: Of the run's weights; None: the model is no run of ours.
        kind: How its scores are read.
        temperature: The number that cosines are divided by; None: it is a classifier.
        bias: Added to every logit; None: there is none.
        images: The thread of its images.
        texts: The thread of its texts; None: it takes none.
    """

    def __init__(
        self,
        name: str,
        model: AnyModel,
        *,
        step: int | None,
        batching: Batching,
        decoder: Decoder,
    ) -> None:
        """Starts the threads.

        Args:
            name: By which users choose it.
            model: The loaded model.
            step: Of the run's weights, if it is a run's.
            batching: How items are put together.
            decoder: Makes pixels of uploads.

        Raises:
            UserError: The model's folder does not say how images are prepared.
        """
        self.name = name
        self.model = model
        self.step = step
        # Now: a folder that does not say its sizes ends the start, not the first question.
        self._views = model.views
        self._decoder = decoder
        self._kept: Kept[str, Row] = Kept(_KEPT_TEXTS)

        self.temperature: float | None = None
        self.bias: float | None = None
        if isinstance(model, TrainedModel):
            with torch.no_grad():
                temperature, *bias = model.model.logit_parameters()
            self.temperature = float(temperature)
            self.bias = float(bias[0]) if bias else None
        self.kind: Kind = "softmax" if self.bias is None else "sigmoid"

        self.images = Batcher(self._pass_of_images, name=f"{name} images", batching=batching)
        self.texts: Batcher[str] | None = None
        if isinstance(model, TrainedModel):
            # A folder without a tokenizer embeds images all the same.
            with suppress(UserError):
                # Embeddings do not depend on padding, and short texts are the rule.
                self._tokenizer = model.trimming_tokenizer()
                self.texts = Batcher(self._pass_of_texts, name=f"{name} texts", batching=batching)

    @property
    def is_classifier(self) -> bool:
        """Whether it has classes of its own, and takes no texts."""
        return isinstance(self.model, TrainedClassifier)

    @property
    def classes(self) -> list[str] | None:
        """A classifier's classes."""
        return self.model.names if isinstance(self.model, TrainedClassifier) else None

    @property
    def states(self) -> dict[str, State]:
        """Whether its threads work, by `images` and `texts`."""
        states = {"images": self.images.state}
        if self.texts is not None:
            states["texts"] = self.texts.state
        return states

    def embed_images(self, images: Sequence[AnyUpload]) -> NDArray[np.float32]:
        """Embeds images: `[images, dim]`, L2-normalised; a classifier's logits.

        Args:
            images: At least one.

        Raises:
            Refused: One of them cannot be decoded or embedded; says which.
            Busy: The answer takes too long.
        """
        if not images:
            raise Refused("images: none given; expected at least one")
        # Decoded by the request's own thread: that of the tower has time for the model alone.
        until = time.monotonic() + self.images.batching.answer_seconds
        prepared = [
            self._decoder.prepared(image, self._views, item=f"images[{index}]", until=until)
            for index, image in enumerate(images)
        ]
        return self.images.rows(prepared, of="images")

    def embed_texts(self, texts: Sequence[str], *, of: str = "texts") -> NDArray[np.float32]:
        """Embeds texts: `[texts, dim]`, L2-normalised. Those of before are remembered.

        Args:
            texts: At least one.
            of: What they are, for errors.

        Raises:
            Refused: The model takes none, or one of them cannot be embedded; says which.
        """
        if self.is_classifier:
            raise Refused(f"model={self.name}: a classifier, which takes no texts")
        if self.texts is None:
            raise Refused(f"model={self.name}: has no tokenizer, so that it takes no texts")
        if not texts:
            raise Refused(f"{of}: none given; expected at least one")
        for index, text in enumerate(texts):
            # JSON can spell half a surrogate pair; tokenizers want UTF-8, which has none.
            if not is_unicode(text):
                raise Refused(f"{of}[{index}]: {shown(text)}: half a letter in it (a surrogate)")

        # A dict beside the cache, which may forget a row before the answer is put together.
        known: dict[str, Row] = {}
        new: dict[str, int] = {}
        for index, text in enumerate(texts):
            if (row := self._kept.find(text)) is not None:
                known[text] = row
            else:
                # The first place of a text that comes twice: it is embedded once.
                new.setdefault(text, index)
        if new:
            # An error has the place among all texts: whoever asked knows no other.
            rows = self.texts.rows(list(new), of=of, places=list(new.values()))
            for text, row in zip(new, rows, strict=True):
                # A copy: a view would keep the rows of the whole pass.
                known[text] = row.copy()
                self._kept.add(text, known[text])
        return np.stack([known[text] for text in texts])

    def close(self) -> None:
        """Ends the threads."""
        for batcher in (self.images, self.texts):
            if batcher is not None:
                batcher.close()

    @torch.inference_mode()
    def _pass_of_images(self, items: list[Pixels]) -> Row:
        pixels = torch.from_numpy(np.stack(items)).to(self.model.device)
        rows = self.model.encode_image(normalise(pixels, self.model.model))
        return _on_cpu(rows)

    @torch.inference_mode()
    def _pass_of_texts(self, items: list[str]) -> Row:
        assert isinstance(self.model, TrainedModel)
        ids = torch.from_numpy(self._tokenizer(items)).long().to(self.model.device)
        return _on_cpu(self.model.encode_text(ids))


def _on_cpu(rows: torch.Tensor) -> Row:
    array: Row = rows.float().cpu().numpy()
    return array
