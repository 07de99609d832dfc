"""One ranking in a process of its own; started by `benchmarks.retrieval`: `this` or `plain`, pairs, rows."""

from __future__ import annotations

import json
import resource
import sys
import time

import torch
from torch import Tensor

from align_train.evals import similarity

DIM, BLOCK = 640, 1024


def embeddings(pairs: int) -> tuple[Tensor, Tensor]:
    """Unit vectors, made in place; a text is a little like its picture."""
    generator = torch.Generator().manual_seed(0)
    images, texts = (torch.randn(pairs, DIM, generator=generator) for _ in range(2))
    for start in range(0, pairs, BLOCK):
        block = slice(start, start + BLOCK)
        images[block] /= images[block].norm(dim=1, keepdim=True)
        texts[block] += 5 * images[block]
        texts[block] /= texts[block].norm(dim=1, keepdim=True)
    return images, texts


def plain(queries: Tensor, candidates: Tensor, rows: int) -> Tensor:
    """Of the first `rows` queries, whose own candidate has their number, how many score higher."""
    ranks = []
    for start in range(0, rows, BLOCK):
        numbers = torch.arange(start, min(start + BLOCK, rows))
        products = queries[numbers] @ candidates.T
        ranks.append((products > products.gather(1, numbers[:, None])).sum(dim=1))
    return torch.cat(ranks)


def main(kind: str, pairs: int, rows: int) -> None:
    images, texts = embeddings(pairs)
    begun = time.perf_counter()
    if kind == "plain":
        plain(images, texts, rows // 2)
        plain(texts, images, rows - rows // 2)
    else:
        assert rows == 2 * pairs
        similarity.retrieval_ranks(images, texts, torch.arange(pairs))
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(json.dumps({"rows": rows, "seconds": seconds, "peak_gb": peak}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
