"""`align_train.load(path)`: a trained model, ready to be used by people and by their benchmarks."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from align_train.errors import UserError, shown
from align_train.pretrained.open import open_pretrained
from align_train.pretrained.pretrained import Pretrained
from align_train.stream.bad_image import BadImage
from align_train.stream.batch import normalise
from align_train.stream.classes import ClassList
from align_train.stream.decode import Views, centre
from align_train.stream.image_file import AnyImage, open_image
from align_train.stream.tokenizer import Tokenizer

Images = AnyImage | Sequence[AnyImage]


def load(path: str, *, device: str | torch.device = "cpu") -> TrainedModel:
    """Loads a dual encoder, in evaluation mode.

    Args:
        path: The folder of a run, of `align_train.export` or of Hugging Face's ALIGN or CLIP; a
            checkpoint of a run; or a name on the Hugging Face hub.
        device: The device that the model runs on.

    Raises:
        UserError: There is no model, or its files are incomplete. If only the tokenizer or the
            processor is missing, the error comes when it is first used.
    """
    return TrainedModel(_open(path, classifier=False)).to(device)


def load_classifier(path: str, *, device: str | torch.device = "cpu") -> TrainedClassifier:
    """Loads a classifier, in evaluation mode.

    Args:
        path: The folder of its run, or of `align_train.export`.
        device: The device that the model runs on.

    Raises:
        UserError: There is no classifier, or its files are incomplete.
    """
    return TrainedClassifier(_open(path, classifier=True)).to(device)


def _open(path: str, *, classifier: bool) -> Pretrained:
    pretrained = open_pretrained(str(path))
    if pretrained.is_classifier and not classifier:
        raise UserError(f"{path}: a classifier; load it with align_train.load_classifier")
    if classifier and not pretrained.is_classifier:
        raise UserError(f"{path}: no classifier; load it with align_train.load")
    return pretrained


class _Trained(nn.Module):
    """Any model in evaluation mode, with the transform that turns images into its input."""

    def __init__(self, pretrained: Pretrained) -> None:
        super().__init__()
        self.model: Any = pretrained.build()
        self.node = pretrained.node
        self._missing = pretrained.missing

        # A folder without a processor can still embed texts, so the error waits.
        self._views = None
        if "preprocess" not in pretrained.missing:
            self._views = pretrained.views()

        self.requires_grad_(False)
        self.eval()

    @property
    def views(self) -> Views:
        """How images are resized and cropped.

        Raises:
            UserError: The model's folder does not say.
        """
        if self._views is None:
            raise UserError(self._missing["preprocess"])
        return self._views

    @property
    def device(self) -> torch.device:
        """The device of the model's weights."""
        device: torch.device = next(self.model.parameters()).device
        return device

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """Embeds prepared images; a classifier gives logits instead.

        Args:
            pixel_values: float `[images, 3, height, width]`, as `preprocess` gives them.

        Returns:
            `[images, dim]`, L2-normalised; or `[images, classes]`.
        """
        embeddings: Tensor = self.model.encode_image(
            pixel_values.contiguous(memory_format=torch.channels_last)
        )
        return embeddings

    def preprocess(self, image: AnyImage) -> Tensor:
        """Prepares an image as evaluation and the exported `AlignProcessor` do.

        Args:
            image: A path, an open image, or pixels: uint8 `[height, width, 3]`.

        Returns:
            float `[3, height, width]`, normalised as the model's image tower expects it.

        Raises:
            BadImage: The image cannot be read, or its pixels are no colours.
        """
        pixels = centre(open_image(image), self.views)
        return normalise(torch.from_numpy(pixels)[None], self.model)[0]

    def encode_images(self, images: Images) -> Tensor:
        """`preprocess` and `encode_image` in one: `[images, dim]`.

        Args:
            images: Paths, open images or arrays, at least one; or a single one.

        Raises:
            UserError: An image cannot be read; says which.
        """
        prepared = []
        for index, image in enumerate(_several(images)):
            try:
                prepared.append(self.preprocess(image))
            except BadImage as error:
                raise UserError(f"images[{index}]: {error}") from None
        if not prepared:
            raise UserError("images: none given; expected at least one")
        return self.encode_image(torch.stack(prepared).to(self.device))


def _several(images: Images) -> Sequence[AnyImage]:
    """The images one by one; a single one counts as well."""
    is_one = isinstance(images, str | Path | Image.Image)
    # An array of several images has one axis more.
    if isinstance(images, np.ndarray):
        is_one = images.ndim < 4
    return [images] if is_one else list(images)  # type: ignore[arg-type, list-item]


def _checked_texts(texts: object) -> list[str]:
    """The texts one by one; a single one counts as well. UserError if one is none."""
    if isinstance(texts, str):
        texts = [texts]
    if not isinstance(texts, Iterable):
        raise UserError(f"texts: {shown(texts)}; expected a text, or a list of texts")

    checked = []
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(f"texts[{index}]: {shown(text)}; expected a text")
        # The tokenizer's library works in UTF-8, which cannot hold half of a letter.
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise UserError(f"texts[{index}]: {shown(text)}: half a letter in it (a surrogate)")
        checked.append(text)
    if not checked:
        raise UserError("texts: none given; expected at least one")
    return checked


class TrainedClassifier(_Trained):
    """A classifier in evaluation mode.

        model = align_train.load_classifier("outputs/linear_probe")
        model.classify(["cat.jpg"])  # [[("tabby", 0.81), ("lynx", 0.07), …]]

    `encode_image` gives logits `[images, classes]`.

    Attributes:
        names: The names of the classes.
    """

    def __init__(self, pretrained: Pretrained) -> None:
        super().__init__(pretrained)
        assert pretrained.classes is not None
        self.names = ClassList(pretrained.classes).names

    @torch.inference_mode()
    def classify(self, images: Images, *, top: int = 5) -> list[list[tuple[str, float]]]:
        """The likeliest classes of each image with their probabilities, the likeliest first.

        Args:
            images: As `encode_images` takes them.
            top: Classes an image.
        """
        probabilities = self.encode_images(images).softmax(dim=1)
        best, classes = probabilities.topk(min(top, len(self.names)))

        answers = []
        for indices, values in zip(classes.tolist(), best.tolist(), strict=True):
            names = [self.names[index] for index in indices]
            answers.append(list(zip(names, values, strict=True)))
        return answers


class TrainedModel(_Trained):
    """A dual encoder in evaluation mode, with its image transform and its tokenizer.

        model = align_train.load("outputs/demo")
        model.similarity(["cat.jpg"], ["a cat", "a dog"]).softmax(dim=1)

    It is also what CLIP's evaluation code expects: `model.encode_image`, `model.encode_text`, a
    transform (`model.preprocess`) and a tokenizer (`model.tokenizer`).
    """

    def __init__(self, pretrained: Pretrained) -> None:
        super().__init__(pretrained)
        self._tokenizer = None
        if pretrained.tokenizer is not None:
            # CLIP's evaluation code wants all texts of one length.
            self._tokenizer = Tokenizer(
                pretrained.tokenizer,
                max_tokens=pretrained.node["max_tokens"],
                trim=False,
            )
            self._tokenizer.check_tower(self.model.text_tower)

    @property
    def temperature(self) -> float:
        """The number that the cosine is divided by."""
        return float(self.model.temperature.value)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Embeds tokenized texts.

        Args:
            input_ids: integers `[texts, length]`, as `tokenizer` gives.
            attention_mask: `[texts, length]`, 0 at padding; of ids that Hugging Face's tokenizers
                padded it must be given. None: padding is -1.

        Returns:
            `[texts, dim]`, L2-normalised.
        """
        embeddings: Tensor = self.model.encode_text(input_ids, attention_mask)
        return embeddings

    def tokenizer(self, texts: str | Sequence[str]) -> Tensor:
        """Texts -> int64 `[texts, max_tokens]`, cut and padded with -1 to that length.

        Raises:
            UserError: The model's folder has no tokenizer, or these are no texts; says which.
        """
        if self._tokenizer is None:
            raise UserError(self._missing["tokenizer"])
        return torch.from_numpy(self._tokenizer(_checked_texts(texts))).long()

    def trimming_tokenizer(self) -> Tokenizer:
        """The tokenizer that pads to the longest text of a call: less work for the text tower.

        Raises:
            UserError: The model's folder has no tokenizer.
        """
        if self._tokenizer is None:
            raise UserError(self._missing["tokenizer"])
        # A shallow copy: both share the tables of tokens, and only the flag differs.
        trimming = copy.copy(self._tokenizer)
        trimming.trim = True
        return trimming

    @property
    def tokenizer_digest(self) -> str | None:
        """A hash of all that turns texts into tokens; None: the folder has no tokenizer."""
        return None if self._tokenizer is None else self._tokenizer.digest

    @torch.inference_mode()
    def similarity(self, images: Tensor | Images, texts: Tensor | str | Sequence[str]) -> Tensor:
        """Compares each image with each text. A softmax over dim 1 chooses among the texts.

        Args:
            images: Paths, open images or arrays; or their embeddings `[images, dim]`.
            texts: Texts, or their embeddings `[texts, dim]`.

        Returns:
            Logits `[images, texts]`: cosine / temperature, plus the bias if the model has one.
        """
        if not isinstance(images, Tensor):
            images = self.encode_images(images)
        if not isinstance(texts, Tensor):
            texts = self.encode_text(self.tokenizer(texts).to(images.device))

        temperature, *bias = self.model.logit_parameters()
        logits: Tensor = images @ texts.T / temperature
        return logits + bias[0] if bias else logits
