"""`align_train.load(path)`: a trained model, ready to be used by people and by other people's benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from align_train.errors import UserError
from align_train.pretrained.open import open_pretrained
from align_train.pretrained.pretrained import Pretrained
from align_train.stream.batch import normalise
from align_train.stream.classes import ClassList
from align_train.stream.decode import Views, centre
from align_train.stream.tokenizer import Tokenizer


def load(path: str, *, device: str | torch.device = "cpu") -> TrainedModel:
    """A model by its folder (a run's, an exported one, Hugging Face's ALIGN) or its name on the Hugging Face hub.

    `UserError` in one line where there is none, or its files are not whole. What is missing beside the weights (tokenizer,
    processor) is said when it is used.
    """
    return TrainedModel(_of_kind(path, classifier=False)).to(device)


def load_classifier(path: str, *, device: str | torch.device = "cpu") -> TrainedClassifier:
    """The same for a classifier: the folder of its run, or of `align_train.export`."""
    return TrainedClassifier(_of_kind(path, classifier=True)).to(device)


def _of_kind(path: str, *, classifier: bool) -> Pretrained:
    found = open_pretrained(str(path))
    if found.is_classifier != classifier:
        raise UserError(
            f"{path}: no classifier; load it with align_train.load"
            if classifier
            else f"{path}: a classifier; load it with align_train.load_classifier"
        )
    return found


class _Trained(nn.Module):
    """Any model in evaluation mode, with what turns pictures into its input."""

    def __init__(self, found: Pretrained) -> None:
        super().__init__()
        self.model: Any = found.build()
        self._missing = found.missing
        sizes = found.node
        self._views = None
        if "preprocess" not in found.missing:
            self._views = Views(image_size=sizes["image_size"], resize_size=sizes["resize_size"])
        self.requires_grad_(False)
        self.eval()

    @property
    def views(self) -> Views:
        """How pictures are squashed and cropped; UserError where the model's folder does not say."""
        if self._views is None:
            raise UserError(self._missing["preprocess"])
        return self._views

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """float `[pictures, 3, height, width]` in [-1, 1], as `preprocess` gives -> L2-normalised `[pictures, dim]`."""
        found: Tensor = self.model.encode_image(
            pixel_values.contiguous(memory_format=torch.channels_last)
        )
        return found

    def preprocess(self, picture: Image.Image) -> Tensor:
        """A picture -> float `[3, height, width]` in [-1, 1]: as evaluation and the exported `AlignProcessor` make it."""
        pixels = centre(picture, self.views)
        return normalise(torch.from_numpy(pixels)[None])[0]

    def encode_images(self, pictures: Sequence[Image.Image]) -> Tensor:
        """`preprocess` and `encode_image` in one: `[pictures, dim]`."""
        return self.encode_image(
            torch.stack([self.preprocess(picture) for picture in pictures]).to(self.device)
        )

    @property
    def device(self) -> torch.device:
        found: torch.device = next(self.model.parameters()).device
        return found


class TrainedClassifier(_Trained):
    """A classifier in evaluation mode. names: of its classes; `encode_image` gives logits `[pictures, classes]`.

    model = align_train.load_classifier("outputs/linear_probe")
    model.classify([Image.open("cat.jpg")])  # [[("tabby", 0.81), ("lynx", 0.07), …]]
    """

    def __init__(self, found: Pretrained) -> None:
        super().__init__(found)
        assert found.classes is not None
        self.names = ClassList(found.classes).names

    @torch.inference_mode()
    def classify(
        self, pictures: Sequence[Image.Image], *, top: int = 5
    ) -> list[list[tuple[str, float]]]:
        """The likeliest classes of each picture, with their probabilities, likeliest first."""
        shares, numbers = (
            self.encode_images(pictures).softmax(dim=1).topk(min(top, len(self.names)))
        )
        rows = zip(numbers.tolist(), shares.tolist(), strict=True)
        return [
            [(self.names[number], share) for number, share in zip(*row, strict=True)]
            for row in rows
        ]


class TrainedModel(_Trained):
    """A dual encoder in evaluation mode, with what turns pictures and texts into its inputs.

        model = align_train.load("outputs/demo")
        model.similarity([Image.open("cat.jpg")], ["a cat", "a dog"]).softmax(dim=1)

    It is also what CLIP's evaluation code expects: `model.encode_image`, `model.encode_text`, a transform
    (`model.preprocess`) and a tokenizer (`model.tokenizer`).
    """

    def __init__(self, found: Pretrained) -> None:
        super().__init__(found)
        self._encode = None
        if found.tokenizer is not None:
            self._encode = Tokenizer(
                found.tokenizer, max_tokens=found.node["max_tokens"], trim=False
            )

    @property
    def temperature(self) -> float:
        """What the cosine is divided by."""
        return float(self.model.temperature.value)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """integers `[texts, length]`, as `tokenizer` gives -> L2-normalised `[texts, dim]`. Without a mask, padding is told by
        its token."""
        found: Tensor = self.model.encode_text(input_ids, attention_mask)
        return found

    def tokenizer(self, texts: str | Sequence[str]) -> Tensor:
        """Texts -> int64 `[texts, max_tokens]`, cut and padded to that length."""
        if self._encode is None:
            raise UserError(self._missing["tokenizer"])
        return torch.from_numpy(
            self._encode([texts] if isinstance(texts, str) else list(texts))
        ).long()

    @torch.inference_mode()
    def similarity(
        self, images: Tensor | Sequence[Image.Image], texts: Tensor | Sequence[str]
    ) -> Tensor:
        """Pictures and texts, or their embeddings -> logits `[pictures, texts]`: cosine / temperature (+ bias, if any).

        A softmax over dim 1 shares each picture out among the texts.
        """
        if not isinstance(images, Tensor):
            images = self.encode_images(images)
        if not isinstance(texts, Tensor):
            texts = self.encode_text(self.tokenizer(texts).to(images.device))
        temperature, *bias = self.model.logit_parameters()
        logits: Tensor = images @ texts.T / temperature + (bias[0] if bias else 0)
        return logits
