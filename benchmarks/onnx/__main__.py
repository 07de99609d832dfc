"""ONNX towers beside the model that they come from, on real images and texts.

    python -m benchmarks.onnx outputs/demo
    python -m benchmarks.onnx b7_base            # fresh weights of a model of conf/model

100 images (51 photos and 49 drawings) and 100 texts (captions and names of drawings) go through
`align_train.load` and through the exported files, which onnxruntime runs. The images have the
model's own size and one pixel more, and texts go in batches of 1, 7 and 92, each padded to its
longest. The table has the largest difference of a number of an embedding, of a cosine, and of a
probability. The last lines say what the export took: seconds, and megabytes.

Price: for `outputs/demo` a minute; for `b7_base` three.
"""

from __future__ import annotations

import csv
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from align_train.commands.export_onnx import write_onnx
from align_train.config.components import build
from align_train.config.compose import compose_training
from align_train.config.saved import to_yaml
from align_train.pretrained.load import TrainedModel
from align_train.pretrained.open import open_pretrained
from align_train.stream.batch import normalise
from align_train.stream.decode import centre
from align_train.stream.image_file import open_image
from benchmarks.shared.photos import PHOTOS, photos

EMOJI = PHOTOS.parent / "emoji"

COUNT = 100  # images, and texts
BATCHES = (1, 7, 92)

Array = NDArray[np.float32]


def images() -> list[Path]:
    """The photos, and drawings at equal distances to make up the number."""
    taken = photos(PHOTOS)[:COUNT]
    drawings = sorted((EMOJI / "noto").glob("*.png"))
    missing = COUNT - len(taken)
    return [*taken, *drawings[:: len(drawings) // missing][:missing]]


def texts() -> list[str]:
    """A caption of each photo, and names of drawings in five languages."""
    captions: dict[str, str] = {}
    with (PHOTOS / "captions.tsv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            captions.setdefault(row["file"], row["text"])
    with (EMOJI / "names.tsv").open(newline="", encoding="utf-8") as file:
        names = [row["tts"] for row in csv.DictReader(file, delimiter="\t")]

    taken = list(captions.values())[:COUNT]
    missing = COUNT - len(taken)
    return [*taken, *names[:: len(names) // missing][:missing]]


def image_embeddings(model: TrainedModel, folder: Path, size: int) -> tuple[Array, Array]:
    """Those of the model, and of the file."""
    session = onnxruntime.InferenceSession(folder / "image_tower.onnx")
    views = model.views
    views.image_size, views.resize_size = size, max(views.resize_size, size)
    wanted, found = [], []
    for path in images():
        pixels = normalise(torch.from_numpy(centre(open_image(path), views))[None], model.model)
        with torch.inference_mode():
            wanted.append(model.encode_image(pixels).numpy())
        found.append(session.run(None, {"pixel_values": pixels.contiguous().numpy()})[0])
    return np.concatenate(wanted), np.concatenate(found)


def text_embeddings(model: TrainedModel, folder: Path) -> tuple[Array, Array]:
    """Those of the model, and of the file."""
    session = onnxruntime.InferenceSession(folder / "text_tower.onnx")
    tokenizer = model.trimming_tokenizer()
    all_texts = texts()
    wanted, found = [], []
    first = 0
    for batch in BATCHES:
        ids = torch.from_numpy(tokenizer(all_texts[first : first + batch])).long()
        first += batch
        mask = (ids >= 0).long()
        with torch.inference_mode():
            wanted.append(model.encode_text(ids).numpy())
        feeds = {"input_ids": ids.clamp(min=0).numpy(), "attention_mask": mask.numpy()}
        found.append(session.run(None, feeds)[0])
    return np.concatenate(wanted), np.concatenate(found)


def report(model: TrainedModel, folder: Path) -> None:
    """Prints the table."""
    wanted_texts, found_texts = text_embeddings(model, folder)
    print(f"| {COUNT} images, {COUNT} texts | embeddings | cosines | probabilities |")
    print("|---|---|---|---|")
    print(f"| texts | {largest(wanted_texts, found_texts):.1e} | | |")
    for size in (model.node["image_size"], model.node["image_size"] + 1):
        wanted, found = image_embeddings(model, folder, size)
        cosines = (wanted @ wanted_texts.T, found @ found_texts.T)
        shares = [softmax(cosine / model.temperature) for cosine in cosines]
        print(
            f"| images of {size} pixels | {largest(wanted, found):.1e} | {largest(*cosines):.1e} "
            f"| {largest(*shares):.1e} |"
        )


def largest(one: Array, other: Array) -> float:
    """The largest difference."""
    return float(np.abs(one - other).max())


def softmax(logits: Array) -> Array:
    """Over the texts."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: Array = powers / powers.sum(axis=1, keepdims=True)
    return result


def fresh_model(name: str, folder: Path) -> Path:
    """Exports a model of conf/model with fresh weights, and a vocabulary of the texts at hand."""
    from safetensors.torch import save_file

    from align_train.stream.wordpiece import train_tokenizer

    torch.manual_seed(0)
    settings = compose_training(f"model={name}", "data.shards=x")
    train_tokenizer(lambda: [texts()], size=1000, folder=folder)
    node = settings.model | {"vocabulary_size": 1000}
    model = build(node).eval()
    (folder / "config.yaml").write_text(to_yaml({"model": node}))
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    return folder


def main(arguments: Sequence[str]) -> None:
    """Exports one model and compares."""
    given = arguments[0] if arguments else "outputs/demo"
    with tempfile.TemporaryDirectory() as temporary:
        path = given
        if not Path(given).exists():
            fresh = Path(temporary, "fresh")
            fresh.mkdir()
            path = str(fresh_model(given, fresh))

        folder = Path(temporary, "onnx")
        folder.mkdir()
        pretrained = open_pretrained(path)
        begun = time.monotonic()
        written = write_onnx(folder, pretrained, pretrained.build(), name="onnx")
        seconds = time.monotonic() - begun
        report(TrainedModel(pretrained), folder)
        print(f"{given}: {written}, in {seconds:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
