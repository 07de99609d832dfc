"""Retrieval over 200,000 x 200,000 embeddings of 640 numbers: memory, and rows a second against a plain chunked product.

    python -m benchmarks.retrieval [--pairs 200000] [--small 32768] [--rounds 3]

A row is a query, a picture or a text, ranked against all candidates. *this* ranks exactly (`align_train/evals/similarity.py`),
both ways by one product. *plain* is what one writes first: blocks of 1,024 rows against all columns in float32, ties left to
chance, once for each direction. Both rank `--small` pairs whole, in alternating rounds; then *this* ranks all of `--pairs`
and *plain* 4,096 rows of them, a half each way. Each measurement is a process of its own; memory is its peak, libraries and
embeddings (1.02 GB) included. Target: 2 GB. Price: a quarter of an hour on two cores, most of it the whole ranking.
"""

from __future__ import annotations

import argparse
import json
from statistics import median

from tqdm import tqdm

from benchmarks.shared.children import printed

TARGET_GB = 2.0


SAMPLE = 4096  # rows of the large set that plain ranks


def measured(kind: str, pairs: int, rows: int) -> dict[str, float]:
    figures: dict[str, float] = json.loads(
        printed("benchmarks.retrieval.ranks", kind, str(pairs), str(rows)).splitlines()[-1]
    )
    return figures | {"pairs": pairs, "per_second": figures["rows"] / figures["seconds"]}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.retrieval", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--pairs", type=int, default=200_000)
    parser.add_argument("--small", type=int, default=32_768)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    small: dict[str, list[dict[str, float]]] = {"this": [], "plain": []}
    with tqdm(total=2 * asked.rounds + 2, unit="measurement") as bar:
        for _ in range(asked.rounds):
            for kind, figures in small.items():
                figures.append(measured(kind, asked.small, 2 * asked.small))
                bar.update()
        large = {}
        for kind, rows in (("plain", min(SAMPLE, asked.pairs)), ("this", 2 * asked.pairs)):
            large[kind] = measured(kind, asked.pairs, rows)
            bar.update()
    print(f"{'':<8}{'pairs':>9}{'rows':>9}{'seconds':>9}{'rows/s':>8}{'peak GB':>9}")
    for kind in small:
        middle = sorted(small[kind], key=lambda figure: figure["seconds"])[asked.rounds // 2]
        for figure in (middle, large[kind]):
            counts = f"{figure['pairs']:>9,.0f}{figure['rows']:>9,.0f}"
            print(
                f"{kind:<8}{counts}{figure['seconds']:>9.1f}{figure['per_second']:>8,.0f}{figure['peak_gb']:>9.2f}"
            )
    ratios = [
        one["per_second"] / two["per_second"]
        for one, two in zip(small["this"], small["plain"], strict=True)
    ]
    told = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"rows/s, this against plain: {median(ratios):.2f} x with {asked.small:,} pairs (rounds: {told}), "
          f"{large['this']['per_second'] / large['plain']['per_second']:.2f} x with {asked.pairs:,}")  # fmt: skip
    peak = large["this"]["peak_gb"]
    print(
        f"peak of the whole ranking: {peak:.2f} GB, {'ok' if peak <= TARGET_GB else 'MISSED'} (target {TARGET_GB:g})"
    )


if __name__ == "__main__":
    main()
