"""One measurement of a peer's loader; started by `benchmarks.loader`.

    python -m benchmarks.loader.peers open_clip|plain SHARDS VOCABULARY WORKERS SECONDS

It has a process and an environment of its own, and prints one JSON line. Nothing of align_train is
imported.

- open_clip: `open_clip_train.data.get_wds_dataset` with `open_clip.image_transform` (random crop of
  90 to 100 % of the area, bicubic, no mirroring, normalised float32) and its tokenizer for ViT-B-32
  (77 tokens, int64). Its epoch is made so long that it never ends here. That spares it the start of
  its workers and the filling of its shuffle buffer at each epoch.
- plain: the loader that one writes by hand: webdataset, Pillow, torchvision's resize to 346, crop
  to 289, mirroring, normalised float32, and a Hugging Face WordPiece tokenizer padded to 64 tokens,
  caption by caption.
"""

from __future__ import annotations

import importlib
import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

from benchmarks.shared.clock import Arrays, measure, report
from benchmarks.shared.sizes import BATCH, IMAGE_SIZE, MAX_TOKENS, RESIZE_SIZE

ENDLESS = 64_000_000  # pairs of an epoch


def shard_range(shards: str) -> str:
    """Returns the shards of a folder as the brace range that webdataset takes."""
    paths = sorted(Path(shards).glob("*.tar"))
    return f"{shards}/{{{paths[0].stem}..{paths[-1].stem}}}.tar"


def open_clip_loader(shards: str, workers: int) -> Iterable[Arrays]:
    open_clip = importlib.import_module("open_clip")
    data = importlib.import_module("open_clip_train.data")

    # The command line of open_clip, as much of it as its loader reads.
    options = Namespace(
        train_data=shard_range(shards),
        train_num_samples=ENDLESS,
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        batch_size=BATCH,
        workers=workers,
        world_size=1,
        seed=0,
    )
    transform = open_clip.image_transform(IMAGE_SIZE, is_train=True)
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    dataset = data.get_wds_dataset(options, transform, is_train=True, tokenizer=tokenizer)
    loader: Iterable[Arrays] = dataset.dataloader
    return loader


def plain_loader(shards: str, vocabulary: str, workers: int) -> Iterable[Arrays]:
    import webdataset
    from torchvision import transforms
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(vocabulary)
    steps = [
        transforms.Resize((RESIZE_SIZE, RESIZE_SIZE)),
        transforms.RandomCrop(IMAGE_SIZE),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ]

    def tokenise(text: str) -> Any:
        ids = tokenizer(
            text,
            padding="max_length",
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="pt",
        )
        return ids.input_ids[0]

    dataset = (
        webdataset.WebDataset(shard_range(shards), shardshuffle=100)
        .shuffle(1000)
        .decode("pil")
        .to_tuple("jpg", "txt")
        .map_tuple(transforms.Compose(steps), tokenise)
        .batched(BATCH, partial=False)
    )
    loader: Iterable[Arrays] = webdataset.WebLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        persistent_workers=True,
    )
    return loader


def batches(loader: str, shards: str, vocabulary: str, workers: int) -> Iterator[Arrays]:
    """Yields batches of a peer's loader, epoch after epoch, without end."""
    if loader == "open_clip":
        made = open_clip_loader(shards, workers)
    else:
        made = plain_loader(shards, vocabulary, workers)
    for epoch in repeat(made):
        yield from epoch


def main(loader: str, shards: str, vocabulary: str, workers: int, seconds: float) -> None:
    # Imported here, since their time is not the loader's.
    if loader == "open_clip":
        modules = ("open_clip_train.data", "open_clip")
    else:
        modules = ("torchvision", "transformers")
    for module in modules:
        importlib.import_module(module)

    figures = measure(
        lambda: batches(loader, shards, vocabulary, workers),
        workers=workers,
        seconds=seconds,
        side=IMAGE_SIZE,
    )
    report(figures)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5]))
