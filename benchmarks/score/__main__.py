"""Pairs/s of `align-train score`, beside those of its towers alone on chunks that are ready.

    python -m benchmarks.score [--cases photos demo] [--rounds 3]
        [--device cpu] [--workers N] [--chunk-size 64] [--model b3_mini] [--photos FOLDER]

Cases:

- photos: 51 real photos, 500 x 375 mostly, with captions, 255 pairs; `--model` at 289 px.
- demo: drawn images of 54 px, 2,048 pairs in four shards; the demo's model, `tiny`, at 48 px.

Weights are random: they change no time. A round measures, one after another in one process,

- *loader*: chunks are read, decoded and tokenized, and thrown away;
- *towers*: the same chunks, kept in memory, go through both towers;
- *score*: the command's own loop, from the start of its loader processes to its last file. Imports
  and the model's loading are left out.

*of towers* is score / towers within a round; the table has the median round. Target: 0.9. *by CPU*
is the same ratio by the CPU time of the main process alone, which a busy neighbour hardly disturbs:
what the loop itself adds to the towers, if the loader keeps up.

The loader of a CPU takes its time from the same cores that the towers compute on; so the target can
be met there only by towers that take ten times as long as decoding does, or with a core to spare
(OMP_NUM_THREADS=1 on two cores). Price: two minutes on two cores that do nothing else.
"""

from __future__ import annotations

import shutil
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import save_file
from tqdm import tqdm

from align_train.commands.open_images import open_images
from align_train.commands.score import header_of, score_shards
from align_train.commands.score_chunks import ReadyChunk, ready_chunks
from align_train.commands.score_cosines import cosines_of
from align_train.commands.shard_work import watched
from align_train.config.command_schema import ScoreSettings
from align_train.config.components import build
from align_train.config.compose import compose_command, compose_training
from align_train.config.saved import to_yaml
from align_train.demo import make_demo
from align_train.index.scores import Scores
from align_train.model.weights import WEIGHTS
from align_train.pretrained.load import TrainedModel, load
from align_train.shards.cache import ShardCache
from align_train.stream.pairs import Pairs
from align_train.stream.tokenizer import Tokenizer
from benchmarks.shared.children import REPOSITORY
from benchmarks.shared.command_line import parser_of, refuse_no_rounds
from benchmarks.shared.photos import PHOTOS, make_shards, make_vocabulary

FOLDER = REPOSITORY / "outputs" / "benchmarks" / "score"
TARGET = 0.9

SHARDS = {"photos": 1, "demo": 4}
"""How many shards of each case are scored: enough that starting the loader processes counts little.
"""


def make_photos(folder: Path, source: Path) -> None:
    """Makes shards and a tokenizer of photos, unless they are there."""
    if not (folder / "train").is_dir():
        make_vocabulary(source, folder / "tokenizer")
        make_shards(source, folder / "train", "long-500")


def make_drawn(folder: Path) -> None:
    """Makes shards and a tokenizer of drawn images, unless they are there."""
    make_demo(
        folder=str(folder),
        pairs=2048,
        held_out=64,
        noise=0.25,
        size=54,
        seed=0,
        pairs_per_shard=512,
    )


def make_model(folder: Path, choice: str, tokenizer: Path) -> None:
    """Writes a model with random weights, as `align-train export` writes one.

    Args:
        folder: The folder; its former content is deleted.
        choice: Of `conf/model`.
        tokenizer: The folder of the tokenizer.
    """
    vocabulary = Tokenizer(str(tokenizer), max_tokens=64)
    node = compose_training(
        f"model={choice}", f"model.vocabulary_size={vocabulary.vocabulary_size}"
    ).model
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)

    (folder / "config.yaml").write_text(to_yaml({"model": node}), encoding="utf-8")
    vocabulary.save(folder)
    torch.manual_seed(0)
    model: Any = build(node)
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, folder / WEIGHTS)


class Bench:
    """One case: its model and pairs, opened."""

    def __init__(self, case: str, options: Namespace) -> None:
        folder = FOLDER / case
        if case == "photos":
            make_photos(folder, options.photos)
        else:
            make_drawn(folder)
        make_model(
            folder / "model", options.model if case == "photos" else "tiny", folder / "tokenizer"
        )

        words = [f"model={folder}/model", f"shards={folder}/train", f"to={folder}/scores"]
        words += [f"device={options.device}", f"chunk_size={options.chunk_size}"]
        if options.workers is not None:
            words.append(f"workers={options.workers}")
        self.given = compose_command("score", ScoreSettings, *words)

        self.model: TrainedModel = load(self.given.model, device=self.given.device)
        self.pairs: Pairs = open_images(
            self.given.shards,
            plain=False,
            caption="txt",
            image=None,
            keys=None,
            views=self.model.views,
            cache=ShardCache(),
            progress=False,
        )
        self.shards = list(range(SHARDS[case]))
        self.count = sum(self.pairs.manifest.shards[shard].pairs for shard in self.shards)
        self.ready: list[ReadyChunk] = []
        self.loader()
        # Once, unmeasured: what is made at the first pass of a shape.
        self.towers()

    def loader(self) -> None:
        with watched() as watchdog:
            chunks = ready_chunks(self.model, self.pairs, self.shards, self.given, watchdog)
            self.ready = [chunk for _, chunk in chunks]

    @torch.inference_mode()
    def towers(self) -> None:
        cosines = [cosines_of(self.model, chunk, self.given.chunk_size) for chunk in self.ready]
        torch.cat([of_chunk.texts for of_chunk in cosines]).cpu()

    def score(self) -> None:
        folder = Path(self.given.to)
        shutil.rmtree(folder, ignore_errors=True)
        header = header_of(self.given, self.model, self.pairs)
        scores = Scores.begin(folder, header)
        with watched() as watchdog:
            score_shards(self.model, scores, self.pairs, self.shards, self.given, watchdog)


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds by the wall clock, and of CPU time of this process alone."""
    started = time.perf_counter()
    cpu_started = time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - cpu_started


def median_round(bench: Bench, rounds: int, case: str) -> tuple[list[float], list[float], float]:
    """Pairs/s of loader, towers and score; the rounds' shares of towers; that by CPU time."""
    measured = []
    for _ in tqdm(range(rounds), desc=case, unit="round"):
        measured.append([timed(part) for part in (bench.loader, bench.towers, bench.score)])

    # By what is asked for: towers' seconds / score's.
    measured.sort(key=lambda parts: parts[1][0] / parts[2][0])
    shares = [towers[0] / score[0] for _, towers, score in measured]
    by_cpu = median(towers[1] / score[1] for _, towers, score in measured)
    middle = measured[len(measured) // 2]
    return [bench.count / wall for wall, _ in middle], shares, by_cpu


def main() -> None:
    parser = parser_of("score", __doc__)
    parser.add_argument("--cases", nargs="+", choices=SHARDS, default=list(SHARDS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--chunk-size", type=int, default=64)
    parser.add_argument("--model", default="b3_mini")
    parser.add_argument("--photos", type=Path, default=PHOTOS)
    options = parser.parse_args()
    refuse_no_rounds(options.rounds)

    rows = []
    for case in options.cases:
        bench = Bench(case, options)
        rows.append((case, bench.count, *median_round(bench, options.rounds, case)))

    parts = f"{'loader':>9}{'towers':>9}{'score':>9}"
    print(f"{'pairs/s':<8}{'pairs':>8}{parts}{'of towers':>11}{'by CPU':>8}")
    for case, count, speeds, shares, by_cpu in rows:
        share = median(shares)
        verdict = "ok" if share >= TARGET else "MISSED"
        of_rounds = ", ".join(f"{one:.2f}" for one in shares)
        columns = "".join(f"{speed:>9,.1f}" for speed in speeds)
        print(
            f"{case:<8}{count:>8,}{columns}{share:>11.2f}{by_cpu:>8.2f}  "
            f"{verdict} (target {TARGET:g}; rounds: {of_rounds})"
        )


if __name__ == "__main__":
    main()
