"""Our metrics against open_clip's, CLIP_benchmark's and torchmetrics', on the same embeddings.

    python -m benchmarks.metrics

The embeddings are random, without ties: 2,000 images with one caption each, the same images with
five, and 50 classes with 7 prompts each. The others run in the environment of the peers of
`benchmarks.loader` (made at the first run: 5 GB), through the functions that their own commands
call. Price: a minute, beside that.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from align_train.evals import EmbeddedPairs, Retrieval, ZeroShot
from align_train.evals.prompts import read_templates
from benchmarks.shared.children import LONGEST_ERROR, REPOSITORY
from benchmarks.shared.command_line import parser_of
from benchmarks.shared.peers import peers_python

IMAGES = 2000
DIM = 64
CLASSES = 50
TEMPLATES = "imagenet_simple"

CAPTIONS = {"one": 1, "five": 5}  # of an image

NOISE = 0.25
PROMPT_NOISE = 0.5

# Cases in which a peer defines image -> text in another way than we do.
WHY = {
    ("five", "torchmetrics recall"): (
        "counts how many of an image's own captions are among the first k"
    ),
    ("five", "open_clip"): "takes text i for image i's only one: cannot say",
}


def embeddings(folder: Path) -> dict[str, Tensor]:
    """Draws the embeddings, and writes them for the peers.

    Args:
        folder: The folder of `embeddings.npz` and `templates.json`.

    Returns:
        Unit vectors by name: `images`, the texts `one` and `five`, and `prompts`, all prompts of a
        class before those of the next; `labels` are the images' classes.
    """
    generator = torch.Generator().manual_seed(0)

    def noisy(rows: Tensor, share: float) -> Tensor:
        noise = torch.randn(rows.shape, generator=generator)
        return normalize(rows + share * noise, dim=-1)

    drawn = torch.randn(CLASSES, DIM, generator=generator)
    classes = normalize(drawn, dim=-1)
    labels = torch.arange(IMAGES) ** 2 % CLASSES  # some classes have more than others, some none
    images = noisy(classes[labels], NOISE)
    rows = {"images": images, "labels": labels}
    for case, count in CAPTIONS.items():
        rows[case] = noisy(images.repeat_interleave(count, dim=0), NOISE)
    templates = read_templates(TEMPLATES)
    rows["prompts"] = noisy(classes.repeat_interleave(len(templates), dim=0), PROMPT_NOISE)

    arrays: dict[str, Any] = {name: row.numpy() for name, row in rows.items()}
    np.savez(folder / "embeddings.npz", **arrays)
    (folder / "templates.json").write_text(json.dumps(templates))
    return rows


def ours(rows: dict[str, Tensor], folder: Path) -> dict[str, float]:
    """Computes our metrics.

    Args:
        rows: The `embeddings`.
        folder: A folder for the file of classes.

    Returns:
        Values by case and metric: `one/image_to_text/recall@1`.
    """
    values: dict[str, float] = {}
    for case, count in CAPTIONS.items():
        image_of_text = torch.arange(IMAGES).repeat_interleave(count)
        pairs = embedded_pairs(rows["images"], rows[case], image_of_text, [{}] * IMAGES)
        for metric, value in Retrieval()(embedder_of(pairs)):
            values[f"{case}/{metric}"] = value

    names = [str(index) for index in range(CLASSES)]
    class_file = folder / "classes.json"
    class_file.write_text(json.dumps({"names": names}))
    records = [{"class": int(label)} for label in rows["labels"]]
    # The images stand in for the texts, which zero-shot classification does not look at.
    labelled = embedded_pairs(rows["images"], rows["images"], torch.arange(IMAGES), records)
    zero_shot = ZeroShot(classes=str(class_file), templates=TEMPLATES)
    for metric, value in zero_shot(embedder_of(labelled, prompts=rows["prompts"])):
        values[f"zero_shot/{metric}"] = value
    return values


def embedded_pairs(
    images: Tensor,
    texts: Tensor,
    image_of_text: Tensor,
    records: list[dict[str, Any]],
) -> EmbeddedPairs:
    """Makes a set whose embeddings are there already."""
    return EmbeddedPairs(
        images=images,
        captions=[""] * len(texts),
        image_of_text=image_of_text,
        records=records,
        embed_texts=lambda _: texts,
    )


def embedder_of(pairs: EmbeddedPairs, prompts: Tensor | None = None) -> Any:
    """Makes the part of an `Embedder` that our evaluators call.

    Args:
        pairs: The only image set.
        prompts: The embeddings of any other texts.
    """
    about = [([""], record) for record in pairs.records]
    return SimpleNamespace(
        pairs=lambda _: pairs,
        images_of=lambda _: SimpleNamespace(about=lambda: about),
        texts=lambda _: prompts,
    )


def theirs(folder: Path) -> dict[str, dict[str, float]]:
    """Computes the peers' metrics in their environment: values by peer and metric.

    Raises:
        SystemExit: Their process failed.
    """
    command = [str(peers_python()), "-m", "benchmarks.metrics.peers", str(folder)]
    child = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if child.returncode:
        raise SystemExit(child.stderr[-LONGEST_ERROR:])
    values: dict[str, dict[str, float]] = json.loads(child.stdout.splitlines()[-1])
    return values


@dataclass
class Count:
    """How many numbers were compared, and how many of them are different."""

    compared: int = 0
    different: int = 0


def row_of(metric: str, value: float, peers: dict[str, dict[str, float]], count: Count) -> str:
    """Returns the row of a metric, and counts its comparisons; `*` marks another value."""
    case = metric.partition("/")[0]
    cells = ""
    for name, values in peers.items():
        other = values.get(metric)
        if other is None:
            cells += f"{'':>22}"
            continue

        same = abs(other - value) < 1e-6 * max(1, abs(value))
        if (case, name) not in WHY or "image_to_text" not in metric:
            count.compared += 1
            count.different += not same
        cell = f"{other:.6g}{'' if same else ' *'}"
        cells += f"{cell:>22}"
    return f"{metric:<36}{value:>10.6g}{cells}"


def main() -> None:
    parser_of("metrics", __doc__).parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        our_values = ours(embeddings(folder), folder)
        peers = theirs(folder)

    heads = "".join(f"{name:>22}" for name in peers)
    print(f"{'':<36}{'this':>10}{heads}")
    count = Count()
    for metric, value in our_values.items():
        print(row_of(metric, value, peers, count))

    print(
        f"{count.compared} numbers compared, "
        f"{count.different} different where the definition is the same"
    )
    for (case, peer), why in WHY.items():
        print(f"{case} captions, {peer}: {why}")


if __name__ == "__main__":
    main()
