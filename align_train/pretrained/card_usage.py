"""The code of a model card: how the model is loaded and used, by each library that reads it."""

from __future__ import annotations

from typing import Literal

from align_train.pretrained.pretrained import Pretrained

Reader = Literal["transformers", "align_train", "onnxruntime"]
"""The library that loads an exported folder."""

# As `stream/upright.py` does it: upright, and transparent parts on white. `convert("RGB")` alone
# would show whatever colour is hidden beneath them.
_IMAGE = """image = ImageOps.exif_transpose(Image.open("image.jpg")).convert("RGBA")
rgb = Image.new("RGB", image.size, "white")  # transparent parts become white
rgb.paste(image, mask=image.getchannel("A"))"""

_WITH_TRANSFORMERS = """from PIL import Image, ImageOps
from transformers import AlignModel, AlignProcessor

model, processor = AlignModel.from_pretrained("{name}"), AlignProcessor.from_pretrained("{name}")
labels = ["a photo of a cat", "a photo of a dog"]
{image}
inputs = processor(images=rgb, text=labels, truncation=True, return_tensors="pt")
print(model(**inputs).logits_per_image.softmax(dim=1))"""

_WITH_US = """import align_train

model = align_train.load("{name}")
labels = ["a photo of a cat", "a photo of a dog"]
print(model.similarity(["image.jpg"], labels).softmax(dim=1))"""

_OF_CLASSES = """import align_train

model = align_train.load_classifier("{name}")
print(model.classify(["image.jpg"]))"""

_ONNX_IMAGES = """import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
from PIL import Image, ImageOps
{imports}
folder = Path({folder})
about = json.loads((folder / "onnx_model.json").read_text(encoding="utf-8"))

{image}
{resize}
left, top = ((side - {size}) // 2 for side in rgb.size)
pixels = np.asarray(rgb.crop((left, top, left + {size}, top + {size})), np.float32) / 255
pixels = (pixels - np.float32(about["images"]["mean"])) / np.float32(about["images"]["std"])
pixel_values = pixels.transpose(2, 0, 1)[None]
images = ort.InferenceSession(folder / "image_tower.onnx")
"""

_ONNX_CLASSES = """classes = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
(logits,) = images.run(None, {"pixel_values": pixel_values})[0]
shares = np.exp(logits - logits.max())
print(classes["names"][logits.argmax()], shares.max() / shares.sum())"""

_ONNX_TEXTS = """(image_embeds,) = images.run(None, {"pixel_values": pixel_values})

tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
tokenizer.enable_truncation(about["texts"]["max_tokens"])
tokenizer.enable_padding()
encoded = tokenizer.encode_batch(["a photo of a cat", "a photo of a dog"])
tokens = {"input_ids": np.array([text.ids for text in encoded])}
tokens["attention_mask"] = np.array([text.attention_mask for text in encoded])
(text_embeds,) = ort.InferenceSession(folder / "text_tower.onnx").run(None, tokens)

logits = image_embeds @ text_embeds.T / about["temperature"] + (about["bias"] or 0)
"""

_SHARES = """shares = np.exp(logits - logits.max(axis=1, keepdims=True))
print(shares / shares.sum(axis=1, keepdims=True))"""

_OF_PAIRS = "print(1 / (1 + np.exp(-logits)))  # of each pair"


def usage(pretrained: Pretrained, name: str, reader: Reader) -> str:
    """Gives the code of a model card.

    Args:
        pretrained: The model.
        name: Its new name: a folder, or a name on the hub.
        reader: The library that loads it.
    """
    if reader == "onnxruntime":
        return _onnx(pretrained, name)
    if pretrained.is_classifier:
        return _OF_CLASSES.format(name=name)
    template = _WITH_TRANSFORMERS if reader == "transformers" else _WITH_US
    return template.format(name=name, image=_IMAGE)


def _onnx(pretrained: Pretrained, name: str) -> str:
    views = pretrained.views()
    how = f"Image.Resampling.{views.interpolation.upper()}"
    side = views.resize_size
    resize = f"rgb = rgb.resize(({side}, {side}), {how})"
    # Both other ways of resizing bring the shorter side to that length.
    if views.resize != "squash":
        sides = f"[side * {side} // min(rgb.size) for side in rgb.size]"
        resize = f"rgb = rgb.resize({sides}, {how})"

    # A name on the hub is fetched first: onnxruntime knows files only.
    imports = [] if "/" not in name else ["from huggingface_hub import snapshot_download"]
    folder = f'snapshot_download("{name}")' if imports else f'"{name}"'
    if not pretrained.is_classifier:
        imports.append("from tokenizers import Tokenizer")

    begin = _ONNX_IMAGES.format(
        imports="".join(f"{line}\n" for line in imports),
        folder=folder,
        image=_IMAGE,
        resize=resize,
        size=views.image_size,
    )
    if pretrained.is_classifier:
        return begin + _ONNX_CLASSES
    # A model with a bias was trained by the sigmoid loss: each pair has its own probability.
    has_bias = pretrained.node.get("bias") is not None
    return begin + _ONNX_TEXTS + (_OF_PAIRS if has_bias else _SHARES)
