"""The metrics of open_clip, CLIP_benchmark and torchmetrics; started by `benchmarks.metrics`.

    python -m benchmarks.metrics.peers FOLDER

It reads the embeddings in FOLDER, and prints one JSON line: values by peer and metric. It runs in
the environment of these peers, and imports nothing of align_train.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
from open_clip import build_zero_shot_classifier
from open_clip_train.train import get_clip_metrics
from open_clip_train.zero_shot import accuracy
from torch import Tensor
from torchmetrics.retrieval import RetrievalHitRate, RetrievalRecall

KS = [1, 5, 10]
BATCH = 128
CAPTIONS = {"one": 1, "five": 5}  # of an image

Values = dict[str, float]  # by metric


class Ready:
    """A "model" whose images and tokens are embeddings already."""

    def encode_image(self, images: Tensor) -> Tensor:
        return images

    def encode_text(self, tokens: Tensor, normalize: bool = True) -> Tensor:
        return tokens


class Images(list[tuple[Tensor, Tensor]]):
    """A data set of images and labels; CLIP_benchmark asks it for its classes."""

    classes: list[str]


def open_clip_retrieval(case: str, images: Tensor, texts: Tensor) -> Values:
    """Asks open_clip, which takes text i for image i's only one."""
    values = {}
    for name, value in get_clip_metrics(images, texts, torch.tensor(1.0)).items():
        # Its names are `image_to_text_R@1`; both directions have the same length.
        direction = name[: len("image_to_text")]
        metric = name[len("image_to_text_") :].replace("R@", "recall@")
        values[f"{case}/{direction}/{metric}"] = float(value)
    return values


def clip_benchmark_retrieval(case: str, images: Tensor, texts: Tensor) -> Values:
    """Asks CLIP_benchmark, whose "captions" are the indices of their embeddings here."""
    count = len(texts) // len(images)

    def batches() -> Iterator[tuple[Tensor, list[list[int]]]]:
        for start in range(0, len(images), BATCH):
            part = images[start : start + BATCH]
            captions = []
            for index in range(start, start + len(part)):
                first = index * count
                captions.append(list(range(first, first + count)))
            yield part, captions

    def texts_of(indices: list[int]) -> Tensor:
        return texts[torch.tensor(indices)]

    results = zeroshot_retrieval.evaluate(
        Ready(),
        list(batches()),
        texts_of,
        "cpu",
        amp=False,
        recall_k_list=KS,
    )
    values = {}
    for k in KS:
        # "text_retrieval" finds texts.
        values[f"{case}/image_to_text/recall@{k}"] = results[f"text_retrieval_recall@{k}"]
        values[f"{case}/text_to_image/recall@{k}"] = results[f"image_retrieval_recall@{k}"]
    return values


def torchmetrics_retrieval(
    case: str,
    images: Tensor,
    texts: Tensor,
    kind: Callable[..., Any],
) -> Values:
    """Asks a metric of torchmetrics.

    Args:
        case: The first part of the metrics' names.
        images: `[images, dim]`.
        texts: `[texts, dim]`.
        kind: The metric's class.
    """
    count = len(texts) // len(images)
    right = torch.arange(len(texts))[None, :] // count == torch.arange(len(images))[:, None]
    directions = {
        "image_to_text": (images @ texts.T, right),
        "text_to_image": (texts @ images.T, right.T),
    }

    values = {}
    for direction, (scores, target) in directions.items():
        for k in KS:
            metric = kind(top_k=k)
            # Query by query, as the metric does itself: all at once wants an index of 20 million
            # entries.
            queries = zip(scores, target, strict=True)
            of_queries = [float(metric._metric(one, of_one)) for one, of_one in queries]
            values[f"{case}/{direction}/recall@{k}"] = float(np.mean(of_queries))
    return values


def retrieval(rows: dict[str, Tensor]) -> dict[str, Values]:
    """Asks all peers for retrieval in both directions."""
    values: dict[str, Values] = {
        "open_clip": {},
        "CLIP_benchmark": {},
        "torchmetrics hit rate": {},
        "torchmetrics recall": {},
    }
    images = rows["images"]
    for case, count in CAPTIONS.items():
        texts = rows[case]
        if count == 1:
            values["open_clip"] |= open_clip_retrieval(case, images, texts)
        values["CLIP_benchmark"] |= clip_benchmark_retrieval(case, images, texts)
        hit_rate = torchmetrics_retrieval(case, images, texts, RetrievalHitRate)
        values["torchmetrics hit rate"] |= hit_rate
        recall = torchmetrics_retrieval(case, images, texts, RetrievalRecall)
        values["torchmetrics recall"] |= recall
    return values


def zero_shot(rows: dict[str, Tensor], templates: list[str]) -> dict[str, Values]:
    """Asks open_clip and CLIP_benchmark for zero-shot classification.

    Args:
        rows: The embeddings.
        templates: The prompts of a class; `{}` stands for its name.
    """
    classes = len(rows["prompts"]) // len(templates)
    names = [f"{index:04d}" for index in range(classes)]
    index_of: dict[str, int] = {}
    for name in names:
        for template in templates:
            index_of[template.format(name)] = len(index_of)

    # The "tokens" of a prompt are its embedding, see `Ready`.
    def tokenizer(texts: list[str]) -> Tensor:
        indices = [index_of[text] for text in texts]
        return rows["prompts"][torch.tensor(indices)]

    weights = build_zero_shot_classifier(Ready(), tokenizer, names, templates)
    top1, top5 = accuracy(rows["images"] @ weights, rows["labels"], topk=(1, 5))
    total = len(rows["images"])

    dataset = Images(zip(rows["images"], rows["labels"], strict=True))
    dataset.classes = names
    loader: Any = torch.utils.data.DataLoader(dataset, batch_size=BATCH)  # type: ignore[arg-type]
    results = zeroshot_classification.evaluate(
        Ready(),
        loader,
        tokenizer,
        names,
        [template.replace("{}", "{c}") for template in templates],
        "cpu",
        amp=False,
    )
    return {
        "open_clip": {
            "zero_shot/top1": top1 / total,
            "zero_shot/top5": top5 / total,
        },
        "CLIP_benchmark": {
            "zero_shot/top1": results["acc1"],
            "zero_shot/top5": results["acc5"],
            "zero_shot/mean_per_class": float(results["mean_per_class_recall"]),
        },
    }


def main(folder: Path) -> None:
    with np.load(folder / "embeddings.npz") as stored:
        rows = {name: torch.from_numpy(stored[name]) for name in stored.files}
    templates = json.loads((folder / "templates.json").read_text())

    values = retrieval(rows)
    for peer, of_peer in zero_shot(rows, templates).items():
        values[peer] |= of_peer
    print(json.dumps(values))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
