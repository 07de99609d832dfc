"""Evaluation sets by name: their numbers against CLIP_benchmark's definitions in plain NumPy."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

from align_train.errors import UserError
from align_train.evals import Embedder, WdsEvaluator, WdsSets
from align_train.shards.cache import ShardCache
from align_train.stream.classes import ClassList
from align_train.stream.decode import Views, decode_centre
from align_train.stream.sets import EvaluationSets
from align_train.stream.wds import WdsSet
from tests.support.wds_sets import TEMPLATES, classification, multilabel, retrieval

VIEWS = Views(image_size=32, resize_size=36)
OF = EvaluationSets(
    held_out=None, caption="txt", vocabulary=ClassList(2), views=VIEWS, cache=ShardCache()
)
LENGTH = 80  # bytes of a text


class Toy:
    """Two fixed towers: colours of 16 parts of the image, and bytes by their places."""

    image_mean: Sequence[float] | None = None
    image_std: Sequence[float] | None = None

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.of_images = torch.randn(48, 12, generator=generator)
        self.of_bytes = torch.randn(LENGTH, 257, 12, generator=generator)

    def encode_image(self, images: Tensor) -> Tensor:
        parts = adaptive_avg_pool2d(images, 4).flatten(1)
        return normalize(parts @ self.of_images, dim=-1)

    def encode_text(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1])
        return normalize(self.of_bytes[places, ids.long()].sum(dim=1), dim=-1)

    def logit_parameters(self) -> list[Tensor]:
        return []


def tokenise(texts: Sequence[str]) -> NDArray[np.int32]:
    ids = np.full((len(texts), LENGTH), 256, dtype=np.int32)
    for row, text in enumerate(texts):
        written = text.encode()[:LENGTH]
        ids[row, : len(written)] = list(written)
    return ids


def embedder() -> Embedder:
    toy: Any = Toy()
    return Embedder(
        model=toy,
        tokenizer=tokenise,
        images_of=OF.images_of,
        device=torch.device("cpu"),
        chunk_size=7,
        progress=False,
    )


def found(folder: Path) -> tuple[dict[str, float], dict[str, str | float]]:
    """Our numbers, and the row of CLIP_benchmark's table."""
    evaluator = WdsEvaluator(data=WdsSet(folder=str(folder)))
    evaluator.check(OF.images_of)
    values = dict(evaluator(embedder()))
    return values, evaluator.columns(values)


# The oracle reads the tars by itself, and has the whole matrix.


def members(folder: Path, extension: str) -> list[bytes]:
    read = []
    for path in sorted((folder / "test").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                if member.name.endswith(f".{extension}"):
                    file = tar.extractfile(member)
                    assert file is not None
                    read.append(file.read())
    return read


def image_rows(folder: Path, extension: str) -> NDArray[np.float64]:
    pixels = [decode_centre(content, VIEWS) for content in members(folder, extension)]
    floats = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return Toy().encode_image(floats).double().numpy()


def text_rows(texts: Sequence[str]) -> NDArray[np.float64]:
    return Toy().encode_text(torch.from_numpy(tokenise(texts))).double().numpy()


def class_rows(folder: Path) -> NDArray[np.float64]:
    rows = []
    for name in (folder / "classnames.txt").read_text().splitlines():
        mean = text_rows([template.format(c=name) for template in TEMPLATES]).mean(axis=0)
        rows.append(mean / np.linalg.norm(mean))
    return np.array(rows)


@pytest.mark.parametrize(("classes", "kind"), [(7, "webp"), (3, "png")])
def test_classification_equals_numpy(classes: int, kind: str, tmp_path: Path) -> None:
    labels = np.array([(i * i + i // 3) % classes for i in range(40)])
    folder = classification(tmp_path / "wds_x", labels.tolist(), kind=kind)
    values, row = found(folder)

    scores = image_rows(folder, kind) @ class_rows(folder).T
    order = np.argsort(-scores, axis=1)
    right = order[:, 0] == labels
    per_class = [right[labels == label].mean() for label in np.unique(labels)]
    assert 0 < right.mean() < 1
    assert row["acc1"] == values["top1"] == pytest.approx(right.mean())
    assert row["mean_per_class_recall"] == pytest.approx(np.mean(per_class))
    if classes < 5:
        assert "acc5" not in row
    else:
        assert row["acc5"] == pytest.approx((order[:, :5] == labels[:, None]).any(axis=1).mean())
    about = {key: row[key] for key in ("dataset", "task", "language")}
    assert about == {
        "dataset": "wds/x",
        "task": "zeroshot_classification",
        "language": "en",
    }


def test_retrieval_with_five_captions_equals_numpy(tmp_path: Path) -> None:
    folder = retrieval(
        tmp_path / "wds_x", 30, lambda index: [f"{index} is {place}" for place in range(5)]
    )
    _, row = found(folder)

    texts = text_rows([line for txt in members(folder, "txt") for line in txt.decode().split("\n")])
    scores = texts @ image_rows(folder, "png").T
    own = np.repeat(np.arange(30), 5)
    for k in (1, 5, 10):
        images_found = np.argsort(-scores, axis=1)[:, :k] == own[:, None]
        texts_found = own[np.argsort(-scores.T, axis=1)[:, :k]] == np.arange(30)[:, None]
        of_texts, of_images = images_found.any(axis=1).mean(), texts_found.any(axis=1).mean()
        assert row[f"image_retrieval_recall@{k}"] == pytest.approx(of_texts)
        assert row[f"text_retrieval_recall@{k}"] == pytest.approx(of_images)
    assert row["task"] == "zeroshot_retrieval"


def test_mean_average_precision_equals_numpy(tmp_path: Path) -> None:
    """Class 5 has no image, and counts as 0."""
    folder = multilabel(tmp_path / "wds_x", [[i % 5, i * i % 5] for i in range(25)], 6)
    _, row = found(folder)

    ones = np.stack([np.load(io.BytesIO(member)) for member in members(folder, "npy")])
    scores = image_rows(folder, "jpg") @ class_rows(folder).T
    precisions = []
    for column, own in zip(scores.T, ones.T, strict=True):
        hits = own[np.argsort(-column)]
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        precisions.append(float((precision * hits).sum() / max(hits.sum(), 1)))
    assert row["mean_average_precision"] == pytest.approx(np.mean(precisions))


def places(sets: Any, root: str = "/sets", **more: Any) -> dict[str, str]:
    made = WdsSets(sets=sets, root=root, **more).evaluators()
    return {name: evaluator.data.folder for name, evaluator in made.items()}


def test_names_lists_files_folders_and_urls_name_sets(tmp_path: Path) -> None:
    hub = "hf://datasets/clip-benchmark/wds_{name}"
    assert places(["cifar10", "wds/vtab/pets"], hub) == {
        "wds_cifar10": "hf://datasets/clip-benchmark/wds_cifar10",
        "wds_vtab-pets": "hf://datasets/clip-benchmark/wds_vtab-pets",
    }
    assert places("wds_mine") == {"wds_mine": "/sets/wds_mine"}
    page = "https://huggingface.co/datasets/me/wds_{dataset_cleaned}/tree/main"
    assert places("vtab/dtd", page) == {"wds_vtab-dtd": "hf://datasets/me/wds_vtab-dtd@main"}

    (tmp_path / "names.txt").write_text("wds/cifar10\n\nmnist\nwds/cifar10\n")
    assert [*places(f"{tmp_path}/names.txt")] == ["wds_cifar10", "wds_mnist"]
    assert places([f"{tmp_path}/wds_a", "s3://b/other/"]) == {
        "wds_a": f"{tmp_path}/wds_a",
        "wds_other": "s3://b/other/",
    }
    assert len(places("webdatasets")) == 40 and len(places("vtab+")) == 36
    assert [*places("mnist", language=["en", "ja"])] == ["wds_mnist_en", "wds_mnist_ja"]


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        ([], r"sets=\[\]: expected names of sets"),
        ("nowhere.txt", "sets=nowhere.txt: No such file"),
        (["/a/wds_x", "x"], "wds_x is there twice"),
        ("..", "expected the name of a set"),
    ],
)
def test_a_list_that_names_no_sets_is_refused(sets: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        places(sets)


def test_a_prompt_without_a_place_for_the_class_names_its_set(tmp_path: Path) -> None:
    folder = classification(tmp_path / "wds_x", [0, 1], templates=["a photo of {d}"])
    evaluator = WdsEvaluator(data=WdsSet(folder=str(folder)))
    with pytest.raises(
        UserError, match=r"prompts of .*wds_x: 'a photo of \{d\}': expected \{\} once"
    ):
        evaluator.check(OF.images_of)
