"""Metrics by plain NumPy, from the whole matrix."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from tests.support.ready import Lookup, embeddings

NAMES, TEMPLATES = ["a", "b", "c", "d", "e", "f", "g"], ["{}", "a photo of {}", "{}!"]


# retrieval and zero-shot, against NumPy on the whole matrix


def whole_matrix(images: Tensor, texts: Tensor) -> NDArray[np.float32]:
    """Cosines as they are defined here: products in float64, rounded to float32."""
    return (images.numpy().astype(np.float64) @ texts.numpy().astype(np.float64).T).astype(
        np.float32
    )


def places(matrix: NDArray[np.float32], right: NDArray[np.bool_]) -> NDArray[np.int64]:
    """By a sort of each row; of equal similarities the wrong ones come first."""
    found = []
    for row, own in zip(matrix, right, strict=True):
        order = np.lexsort((own, -row))
        found.append(int(np.flatnonzero(own[order])[0]))
    return np.array(found)


def retrieval_by_numpy(images: Tensor, texts: Tensor, owner: NDArray[np.int64]) -> dict[str, float]:
    matrix = whole_matrix(images, texts)
    right = owner[None, :] == np.arange(len(images))[:, None]
    found: dict[str, float] = {}
    for direction, ranks in (
        ("image_to_text", places(matrix, right)),
        ("text_to_image", places(matrix.T, right.T)),
    ):
        found |= {f"{direction}/recall@{k}": float(np.mean(ranks < k)) for k in (1, 5, 10)}
        found[f"{direction}/median_rank"] = float(np.floor(np.median(ranks)) + 1)
        found[f"{direction}/mean_rank"] = float(ranks.mean() + 1)
    return found


def zero_shot_by_numpy(
    images: Tensor, prompts: dict[str, Tensor], labels: NDArray[np.int64]
) -> dict[str, float]:
    """Of equal similarities the first class."""
    means = torch.stack(
        [torch.stack([prompts[t.format(name)] for t in TEMPLATES]).mean(dim=0) for name in NAMES]
    )
    order = np.argsort(-whole_matrix(images, normalize(means, dim=-1)), axis=1, kind="stable")
    right = order[:, 0] == labels
    return {
        "top1": float(right.mean()),
        "top5": float((order[:, :5] == labels[:, None]).any(axis=1).mean()),
        "images": len(labels),
        "mean_per_class": float(
            np.mean([right[labels == label].mean() for label in np.unique(labels)])
        ),
    }


def random_set(counts: list[int], dim: int, seed: int) -> tuple[Lookup, dict[str, Tensor]]:
    """Images with these counts of captions, and prompts; some captions and prompts are equal."""
    images, texts = embeddings(len(counts), dim, seed), embeddings(sum(counts), dim, seed + 1)
    texts[1::7] = texts[0]
    images[3::5] = images[1]
    of_names = zip(NAMES * 3, embeddings(21, dim, seed + 2), strict=True)
    prompts = {template.format(name): row for name, row in of_names for template in TEMPLATES}
    captions = iter(f"text {number}" for number in range(len(texts)))
    about = [
        ([next(captions) for _ in range(count)], {"class": number * 3 % 7})
        for number, count in enumerate(counts)
    ]
    table = {f"text {number}": row for number, row in enumerate(texts)}
    return Lookup(images, table | prompts, about), prompts
