"""One ranking in a process of its own; started by `benchmarks.retrieval`.

    python -m benchmarks.retrieval.ranks this|plain PAIRS ROWS

It ranks ROWS rows of PAIRS pairs, and prints one JSON line: rows, seconds and the process's peak of
memory. `this` ranks all rows of both directions, `plain` a half of ROWS in each.
"""

from __future__ import annotations

import json
import resource
import sys
import time

import torch
from torch import Tensor

from align_train.evals import similarity

DIM = 640
BLOCK = 1024  # rows
LIKENESS = 5  # of a text to its image; its own noise has the norm sqrt(DIM)


def embeddings(pairs: int) -> tuple[Tensor, Tensor]:
    """Draws unit vectors in place; a text is a little like its image."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(pairs, DIM, generator=generator)
    texts = torch.randn(pairs, DIM, generator=generator)

    # By blocks, or temporary copies would show in the peak.
    for start in range(0, pairs, BLOCK):
        block = slice(start, start + BLOCK)
        images[block] /= images[block].norm(dim=1, keepdim=True)
        texts[block] += LIKENESS * images[block]
        texts[block] /= texts[block].norm(dim=1, keepdim=True)
    return images, texts


def plain(queries: Tensor, candidates: Tensor, rows: int) -> Tensor:
    """Counts, for each query, the candidates that score higher than its own.

    A query's own candidate has the same index.

    Args:
        queries: `[queries, dim]`.
        candidates: `[candidates, dim]`.
        rows: Only so many queries, the first ones, are ranked.
    """
    ranks = []
    for start in range(0, rows, BLOCK):
        end = min(start + BLOCK, rows)
        indices = torch.arange(start, end)
        products = queries[indices] @ candidates.T
        own = products.gather(1, indices[:, None])
        ranks.append((products > own).sum(dim=1))
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
