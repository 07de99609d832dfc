"""What open_clip, CLIP_benchmark and torchmetrics say of the embeddings in a folder; started by `benchmarks.metrics` in the
environment of these peers, without anything of ours."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
from open_clip import build_zero_shot_classifier
from open_clip_train.train import get_clip_metrics
from open_clip_train.zero_shot import accuracy
from torchmetrics.retrieval import RetrievalHitRate, RetrievalRecall

KS = [1, 5, 10]


class Ready:
    """A "model" whose pictures and tokens are embeddings already."""

    def encode_image(self, images: Any) -> Any:
        return images

    def encode_text(self, tokens: Any, normalize: bool = True) -> Any:
        return tokens


class Images(list[Any]):
    classes: list[str]


def batches(items: list[Any], size: int = 128) -> list[Any]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def retrieval(rows: dict[str, Any]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {
        name: {}
        for name in ("open_clip", "CLIP_benchmark", "torchmetrics hit rate", "torchmetrics recall")
    }
    images = rows["images"]
    for case, count in (("one", 1), ("five", 5)):
        texts = rows[case]
        if count == 1:
            for name, value in get_clip_metrics(images, texts, torch.tensor(1.0)).items():
                direction, metric = name[: len("image_to_text")], name[len("image_to_text_") :]
                found["open_clip"][f"{case}/{direction}/{metric.replace('R@', 'recall@')}"] = float(
                    value
                )
        numbered = [list(range(n * count, (n + 1) * count)) for n in range(len(images))]
        loader = [
            (torch.stack([images[n] for n in part]), [numbered[n] for n in part])
            for part in batches(list(range(len(images))))
        ]
        told = zeroshot_retrieval.evaluate(
            Ready(),
            loader,
            lambda numbers, texts=texts: texts[torch.tensor(numbers)],
            "cpu",
            amp=False,
            recall_k_list=KS,
        )
        for k in KS:
            found["CLIP_benchmark"][f"{case}/image_to_text/recall@{k}"] = told[
                f"text_retrieval_recall@{k}"
            ]
            found["CLIP_benchmark"][f"{case}/text_to_image/recall@{k}"] = told[
                f"image_retrieval_recall@{k}"
            ]
        right = torch.arange(len(texts))[None, :] // count == torch.arange(len(images))[:, None]
        for direction, scores, target in (
            ("image_to_text", images @ texts.T, right),
            ("text_to_image", texts @ images.T, right.T),
        ):
            # Query by query, as the metric does itself: all at once wants an index of 20 million entries.
            for name, kind in (("hit rate", RetrievalHitRate), ("recall", RetrievalRecall)):
                for k in KS:
                    metric = kind(top_k=k)
                    values = [
                        float(metric._metric(one, of))
                        for one, of in zip(scores, target, strict=True)
                    ]
                    found[f"torchmetrics {name}"][f"{case}/{direction}/recall@{k}"] = float(
                        np.mean(values)
                    )
    return found


def zero_shot(rows: dict[str, Any], templates: list[str]) -> dict[str, dict[str, float]]:
    classes = len(rows["prompts"]) // len(templates)
    names = [f"{number:04d}" for number in range(classes)]
    number_of = {
        template.format(name): name_number * len(templates) + template_number
        for name_number, name in enumerate(names)
        for template_number, template in enumerate(templates)
    }

    def tokenizer(texts: list[str]) -> Any:
        return rows["prompts"][torch.tensor([number_of[text] for text in texts])]

    weights = build_zero_shot_classifier(Ready(), tokenizer, names, templates)
    top1, top5 = accuracy(rows["images"] @ weights, rows["labels"], topk=(1, 5))
    total = len(rows["images"])
    dataset = Images(zip(rows["images"], rows["labels"], strict=True))
    dataset.classes = names
    loader: Any = torch.utils.data.DataLoader(dataset, batch_size=128)  # type: ignore[arg-type]
    told = zeroshot_classification.evaluate(
        Ready(),
        loader,
        tokenizer,
        names,
        [one.replace("{}", "{c}") for one in templates],
        "cpu",
        amp=False,
    )
    return {
        "open_clip": {"zero_shot/top1": top1 / total, "zero_shot/top5": top5 / total},
        "CLIP_benchmark": {
            "zero_shot/top1": told["acc1"],
            "zero_shot/top5": told["acc5"],
            "zero_shot/mean_per_class": float(told["mean_per_class_recall"]),
        },
    }


def main(folder: Path) -> None:
    with np.load(folder / "embeddings.npz") as stored:
        rows = {name: torch.from_numpy(stored[name]) for name in stored.files}
    found = retrieval(rows)
    for who, values in zero_shot(rows, json.loads((folder / "templates.json").read_text())).items():
        found[who] |= values
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
