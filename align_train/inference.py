"""`align_train.load(path)`: a trained model, ready to be used by people and by other people's benchmarks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor, nn

from align_train.batch import normalise
from align_train.errors import UserError
from align_train.pretrained import Pretrained, open_pretrained
from align_train.stream.decode import Views, centre
from align_train.stream.text import TextEncoder


def load(path: str, *, device: str | torch.device = "cpu") -> TrainedModel:
    """A model by its folder (a run's, an exported one, Hugging Face's ALIGN) or its name on the Hugging Face hub.

    `UserError` in one line where there is none, or its files are not whole. What is missing beside the weights (tokenizer,
    processor) is said when it is used.
    """
    return TrainedModel(open_pretrained(str(path))).to(device)


class TrainedModel(nn.Module):
    """A dual encoder in evaluation mode, with what turns pictures and texts into its inputs.

        model = align_train.load("outputs/demo")
        model.similarity([Image.open("cat.jpg")], ["a cat", "a dog"]).softmax(dim=1)

    It is also what CLIP's evaluation code expects: `model.encode_image`, `model.encode_text`, a transform
    (`model.preprocess`) and a tokenizer (`model.tokenizer`).
    """

    def __init__(self, found: Pretrained) -> None:
        super().__init__()
        self.model = found.build()
        self._path, self._missing = found.path, found.missing
        sizes = found.node
        self._views = None
        if "preprocess" not in found.missing:
            self._views = Views(image_size=sizes["image_size"], resize_size=sizes["resize_size"])
        self._encode = None
        if found.tokenizer is not None:
            self._encode = TextEncoder(found.tokenizer, max_tokens=sizes["max_tokens"], trim=False)
        self.requires_grad_(False)
        self.eval()

    @property
    def temperature(self) -> float:
        """What the cosine is divided by."""
        return self.model.temperature.value.item()

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """float `[pictures, 3, height, width]` in [-1, 1], as `preprocess` gives -> L2-normalised `[pictures, dim]`."""
        return self.model.encode_image(pixel_values.contiguous(memory_format=torch.channels_last))

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """integers `[texts, length]`, as `tokenizer` gives -> L2-normalised `[texts, dim]`. Without a mask, padding is told by
        its token."""
        return self.model.encode_text(input_ids, attention_mask)

    def preprocess(self, picture: Image.Image) -> Tensor:
        """A picture -> float `[3, height, width]` in [-1, 1]: as evaluation and the exported `AlignProcessor` make it."""
        if self._views is None:
            raise UserError(self._missing["preprocess"])
        pixels = centre(picture, self._views)
        return normalise(torch.from_numpy(pixels)[None])[0]

    def tokenizer(self, texts: str | Sequence[str]) -> Tensor:
        """Texts -> int64 `[texts, max_tokens]`, cut and padded to that length."""
        if self._encode is None:
            raise UserError(self._missing["tokenizer"])
        return torch.from_numpy(self._encode([texts] if isinstance(texts, str) else list(texts))).long()

    @torch.inference_mode()
    def similarity(self, images: Tensor | Sequence[Image.Image], texts: Tensor | Sequence[str]) -> Tensor:
        """Pictures and texts, or their embeddings -> logits `[pictures, texts]`: cosine / temperature (+ bias, if any).

        A softmax over dim 1 shares each picture out among the texts.
        """
        device = self.model.temperature.value.device
        if not isinstance(images, Tensor):
            images = self.encode_image(torch.stack([self.preprocess(picture) for picture in images]).to(device))
        if not isinstance(texts, Tensor):
            texts = self.encode_text(self.tokenizer(texts).to(device))
        temperature, *bias = self.model.logit_parameters()
        return images @ texts.T / temperature + (bias[0] if bias else 0)
