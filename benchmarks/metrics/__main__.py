"""Our metrics against open_clip's, CLIP_benchmark's and torchmetrics', on the same embeddings.

    python -m benchmarks.metrics

2,000 pictures with one caption each, the same with five, and 50 classes with 7 prompts each; random, without ties. The others
run in the environment of the peers of `benchmarks.loader` (made at the first run: 5 GB), through the functions that their own
commands call. Price: a minute, beside that.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from align_train.evals import EmbeddedPairs, Retrieval, ZeroShot
from align_train.evals.prompts import read_templates
from benchmarks.shared.children import TOP
from benchmarks.shared.peers import peers_python

PICTURES, DIM, CLASSES = 2000, 64, 50


CAPTIONS = {"one": 1, "five": 5}


WHY = {
    (
        "five",
        "torchmetrics recall",
    ): "counts how many of a picture's own captions are among the first k",
    ("five", "open_clip"): "takes text i for picture i's only one: cannot say",
}


def embeddings(folder: Path) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def noisy(rows: Tensor, share: float) -> Tensor:
        return normalize(rows + share * torch.randn(rows.shape, generator=generator), dim=-1)

    classes = normalize(torch.randn(CLASSES, DIM, generator=generator), dim=-1)
    labels = torch.arange(PICTURES) ** 2 % CLASSES  # some classes have more than others, some none
    images = noisy(classes[labels], 0.25)
    found = {"images": images, "labels": labels}
    found |= {
        name: noisy(images.repeat_interleave(count, dim=0), 0.25)
        for name, count in CAPTIONS.items()
    }
    prompts = len(read_templates("imagenet_simple"))
    found["prompts"] = noisy(
        classes.repeat_interleave(prompts, dim=0), 0.5
    )  # all prompts of a class, then of the next
    arrays: dict[str, Any] = {name: rows.numpy() for name, rows in found.items()}
    np.savez(folder / "embeddings.npz", **arrays)
    (folder / "templates.json").write_text(json.dumps(read_templates("imagenet_simple")))
    return found


def ours(rows: dict[str, Tensor], folder: Path) -> dict[str, float]:
    """By case and metric."""
    found: dict[str, float] = {}
    for name, count in CAPTIONS.items():
        owner = torch.arange(PICTURES).repeat_interleave(count)
        texts = rows[name]
        pairs = EmbeddedPairs(
            rows["images"],
            [""] * len(owner),
            owner,
            [{}] * PICTURES,
            lambda _, texts=texts: texts,  # type: ignore[misc]
        )
        encoder: Any = SimpleNamespace(pairs=lambda _, pairs=pairs: pairs)
        found |= {f"{name}/{metric}": value for metric, value in Retrieval()(encoder)}
    names = [str(number) for number in range(CLASSES)]
    (folder / "classes.json").write_text(json.dumps({"names": names}))
    records = [{"class": int(label)} for label in rows["labels"]]
    labelled = EmbeddedPairs(
        rows["images"], [""] * PICTURES, torch.arange(PICTURES), records, lambda _: rows["images"]
    )
    pictures = SimpleNamespace(about=lambda: [([""], record) for record in records])
    encoder = SimpleNamespace(
        pairs=lambda _: labelled,
        images_of=lambda _: pictures,
        texts=lambda prompts: rows["prompts"],
    )
    zero_shot = ZeroShot(classes=str(folder / "classes.json"), templates="imagenet_simple")
    return found | {f"zero_shot/{metric}": value for metric, value in zero_shot(encoder)}


def main() -> None:
    python = peers_python()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = ours(embeddings(folder), folder)
        command = [str(python), str(TOP / "benchmarks" / "metrics_peers.py"), name]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        theirs: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    heads = list(theirs)
    print(f"{'':<36}{'this':>10}" + "".join(f"{head:>22}" for head in heads))
    compared = different = 0
    for metric, value in found.items():
        cells = []
        for head in heads:
            other = theirs[head].get(metric)
            same = other is not None and abs(other - value) < 1e-6 * max(1, abs(value))
            expected = (metric.partition("/")[0], head) in WHY and "image_to_text" in metric
            compared += other is not None and not expected
            different += other is not None and not same and not expected
            cells.append("" if other is None else f"{other:.6g}{'' if same else ' *'}")
        print(f"{metric:<36}{value:>10.6g}" + "".join(f"{cell:>22}" for cell in cells))
    print(f"{compared} numbers compared, {different} different where the definition is the same")
    for (case, who), why in WHY.items():
        print(f"{case} captions, {who}: {why}")


if __name__ == "__main__":
    main()
