"""Retrieval over 200,000 x 200,000 embeddings: memory, and speed against a plain product.

    python -m benchmarks.retrieval [--pairs 200000] [--small 32768] [--rounds 3]

Embeddings have 640 numbers. A row is a query, an image or a text, ranked against all candidates.
*this* ranks exactly (`align_train/evals/similarity.py`), both ways by one product. *plain* is the
program that one writes first: blocks of 1,024 rows against all columns in float32, ties left to
chance, once for each direction.

Both rank `--small` pairs whole, in alternating rounds. Then *this* ranks all of `--pairs`, and
*plain* 4,096 rows of them, a half each way. Each measurement is a process of its own; memory is its
peak, libraries and embeddings (1.02 GB) included. Target: 2 GB. Price: a quarter of an hour on two
cores, most of it the whole ranking.
"""

from __future__ import annotations

from statistics import median

from tqdm import tqdm

from benchmarks.shared.children import json_of
from benchmarks.shared.command_line import parser_of, refuse_no_rounds

TARGET_GB = 2.0

SAMPLE = 4096  # rows of the large set that plain ranks

Figures = dict[str, float]


def measured(kind: str, pairs: int, rows: int) -> Figures:
    """Measures one ranking in a process of its own.

    Args:
        kind: `this` or `plain`.
        pairs: The images, and the texts.
        rows: The rows that are ranked, of both directions together.
    """
    figures: Figures = json_of("benchmarks.retrieval.ranks", kind, str(pairs), str(rows))
    return figures | {"pairs": pairs, "per_second": figures["rows"] / figures["seconds"]}


def row_of(kind: str, figures: Figures) -> str:
    counts = f"{figures['pairs']:>9,.0f}{figures['rows']:>9,.0f}"
    speed = f"{figures['seconds']:>9.1f}{figures['per_second']:>8,.0f}"
    return f"{kind:<8}{counts}{speed}{figures['peak_gb']:>9.2f}"


def main() -> None:
    parser = parser_of("retrieval", __doc__)
    parser.add_argument("--pairs", type=int, default=200_000)
    parser.add_argument("--small", type=int, default=32_768)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    refuse_no_rounds(options.rounds)

    small: dict[str, list[Figures]] = {"this": [], "plain": []}
    large: dict[str, Figures] = {}
    with tqdm(total=2 * options.rounds + 2, unit="measurement") as bar:
        for _ in range(options.rounds):
            for kind, rounds in small.items():
                rounds.append(measured(kind, options.small, 2 * options.small))
                bar.update()
        # A row takes plain so long that a sample of them has to do.
        for kind, rows in (("plain", min(SAMPLE, options.pairs)), ("this", 2 * options.pairs)):
            large[kind] = measured(kind, options.pairs, rows)
            bar.update()

    print(f"{'':<8}{'pairs':>9}{'rows':>9}{'seconds':>9}{'rows/s':>8}{'peak GB':>9}")
    for kind, rounds in small.items():
        by_time = sorted(rounds, key=lambda figures: figures["seconds"])
        print(row_of(kind, by_time[len(by_time) // 2]))
        print(row_of(kind, large[kind]))

    pairs = zip(small["this"], small["plain"], strict=True)
    ratios = [this["per_second"] / plain["per_second"] for this, plain in pairs]
    of_rounds = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    large_ratio = large["this"]["per_second"] / large["plain"]["per_second"]
    print(
        f"rows/s, this against plain: {median(ratios):.2f} x with {options.small:,} pairs "
        f"(rounds: {of_rounds}), {large_ratio:.2f} x with {options.pairs:,}"
    )
    peak = large["this"]["peak_gb"]
    verdict = "ok" if peak <= TARGET_GB else "MISSED"
    print(f"peak of the whole ranking: {peak:.2f} GB, {verdict} (target {TARGET_GB:g})")


if __name__ == "__main__":
    main()
