"""Evaluators against a plain computation in NumPy, with ties, several captions and uneven ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from align_train.distributed import gather_rows, rank, world_size
from align_train.errors import UserError
from align_train.evals import EncodedPairs, Encoder, HeldOutLoss, Retrieval, ZeroShot
from align_train.loss import ContrastiveLoss
from tests.processes import on_ranks


def embeddings(rows: int, dim: int, seed: int) -> Tensor:
    """Normalised, from few distinct values, so that equal similarities are common."""
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randint(-1, 2, (rows, dim), generator=generator).float() + 0.001, dim=-1)


def encoded(captions_per_picture: list[int], seed: int = 0) -> EncodedPairs:
    texts = sum(captions_per_picture)
    counts = torch.tensor(captions_per_picture)
    return EncodedPairs(
        images=embeddings(len(counts), 3, seed),
        texts=embeddings(texts, 3, seed + 1),
        picture_of_text=torch.repeat_interleave(torch.arange(len(counts)), counts),
        captions=[f"text {number}" for number in range(texts)],
        records=[{"class": number % 4} for number in range(len(counts))],
    )


class Oracle:
    """One similarity matrix, one sort per row; of equal similarities the wrong ones come first."""

    def __init__(self, pairs: EncodedPairs) -> None:
        self.similarity: NDArray[np.float32] = (pairs.images @ pairs.texts.T).numpy()
        self.belongs = pairs.picture_of_text.numpy()[None, :] == np.arange(len(pairs.images))[:, None]

    def places(self, similarity: NDArray[np.float32], right: NDArray[np.bool_]) -> NDArray[np.int64]:
        found = []
        for row, own in zip(similarity, right, strict=True):
            order = np.lexsort((own, -row))  # most similar first, right after wrong among equals
            found.append(int(np.flatnonzero(own[order])[0]))
        return np.array(found)


@pytest.mark.parametrize("counts", [[1] * 37, [1, 3, 2, 1, 5, 1, 2] * 3])
@pytest.mark.parametrize("seed", [0, 2, 4])
def test_retrieval_equals_a_sort_of_the_whole_matrix(counts: list[int], seed: int) -> None:
    pairs = encoded(counts, seed)
    oracle = Oracle(pairs)
    nobody: Any = None
    found = dict(Retrieval()(pairs, nobody))
    for direction, similarity, right in (
        ("image_to_text", oracle.similarity, oracle.belongs),
        ("text_to_image", oracle.similarity.T, oracle.belongs.T),
    ):
        places = oracle.places(similarity, right)
        for k in (1, 5, 10):
            assert found[f"retrieval/{direction}/recall@{k}"] == np.mean(places < k)
        assert found[f"retrieval/{direction}/median_rank"] == np.sort(places)[(len(places) - 1) // 2] + 1


def test_embeddings_that_are_no_numbers_find_nothing() -> None:
    pairs = encoded([1] * 20)
    broken = torch.full((20, 3), torch.nan)
    nobody: Any = None
    found = dict(Retrieval()(EncodedPairs(broken, broken, pairs.picture_of_text, pairs.captions, pairs.records), nobody))
    assert found["retrieval/image_to_text/recall@10"] == found["retrieval/text_to_image/recall@10"] == 0


def test_a_model_that_embeds_everything_alike_finds_nothing() -> None:
    pairs = encoded([1] * 20)
    alike = EncodedPairs(
        images=torch.ones(20, 3),
        texts=torch.ones(20, 3),
        picture_of_text=pairs.picture_of_text,
        captions=pairs.captions,
        records=pairs.records,
    )
    nobody: Any = None
    assert dict(Retrieval()(alike, nobody))["retrieval/image_to_text/recall@1"] == 0


class TableOfTexts:
    """An encoder whose texts lie ready."""

    def __init__(self, table: dict[str, Tensor]) -> None:
        self.table = table

    def texts(self, texts: list[str]) -> Tensor:
        return torch.stack([self.table[text] for text in texts])


def test_zero_shot_equals_a_plain_computation(tmp_path: Path) -> None:
    names, templates = ["a", "b", "c", "d"], ["{}", "a photo of {}"]
    attributes = {"pair": [0, 0, 1, 1]}
    (tmp_path / "classes.json").write_text(json.dumps({"names": names, "attributes": attributes}))
    pairs = encoded([1] * 30)
    prompts = [template.format(name) for name in names for template in templates]
    table = dict(zip(prompts, normalize(torch.randn(8, 3, generator=torch.Generator().manual_seed(3)), dim=-1), strict=True))
    encoder: Any = TableOfTexts(table)
    found = dict(ZeroShot(classes=str(tmp_path / "classes.json"), templates=templates)(pairs, encoder))
    means = np.stack([np.mean([table[t.format(name)].numpy() for t in templates], axis=0) for name in names])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    guess = (pairs.images.numpy() @ means.T).argmax(axis=1)
    label = np.arange(30) % 4
    assert found["zero_shot/top1"] == np.mean(guess == label)
    assert found["zero_shot/top5"] == 1
    assert found["zero_shot/pair"] == np.mean(guess // 2 == label // 2)


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "No such file"), ("[1]", "expected JSON such as"), ('{"names": ["one"]}', "expected a class number below 1")],
)
def test_zero_shot_names_what_is_wrong(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "classes.json").write_text(content)
    encoder: Any = TableOfTexts({"a photo of a one": torch.ones(3)})
    with pytest.raises(UserError, match=words):
        dict(ZeroShot(classes=str(tmp_path / "classes.json"))(encoded([1] * 4), encoder))


def test_held_out_loss_is_the_cross_entropy_of_groups() -> None:
    pairs = encoded([2, 1, 3] * 5)
    sigma, size = 0.5, 4

    class Model:
        def logit_parameters(self) -> list[Tensor]:
            return [torch.tensor([sigma])]

    class Holder:
        model = Model()

    encoder: Any = Holder()
    found = dict(HeldOutLoss(batch_size=size, loss=ContrastiveLoss(label_smoothing=0.0))(pairs, encoder))["held_out/loss"]
    first = [int(np.flatnonzero(pairs.picture_of_text.numpy() == number)[0]) for number in range(15)]
    losses = []
    for start in range(0, 12, size):
        logits = (pairs.images[start : start + size] @ pairs.texts[first[start : start + size]].T).double().numpy() / sigma
        rows = np.log(np.exp(logits).sum(1)) - np.diag(logits)
        columns = np.log(np.exp(logits).sum(0)) - np.diag(logits)
        losses.append((rows.mean() + columns.mean()) / 2)
    assert found == pytest.approx(np.mean(losses), rel=1e-5)


def gathered(total: int) -> Tensor:
    table = torch.arange(total * 2.0).view(total, 2)
    return gather_rows(table[rank() :: world_size()], total)


def texts_of_ranks(total: int) -> Tensor:
    class Towers:
        def encode_text(self, ids: Tensor) -> Tensor:
            return ids.float()

    def tokenise(texts: Any) -> NDArray[np.int32]:
        return np.array([[int(text), 1] for text in texts], dtype=np.int32)

    model: Any = Towers()
    encoder = Encoder(model=model, tokenise=tokenise, device=torch.device("cpu"), chunk_size=2)
    return encoder.texts([str(number) for number in range(total)])


def pictures_of_ranks(total: int) -> Tensor:
    """Picture i is all i; each has two texts."""

    class Towers:
        def encode_image(self, images: Tensor) -> Tensor:
            return images.mean(dim=(1, 2, 3))[:, None]

        def encode_text(self, ids: Tensor) -> Tensor:
            return ids[:, :1].float()

    class Pictures:
        def __init__(self) -> None:
            self.total = total
            self.numbers = range(rank(), total, world_size())

        def __len__(self) -> int:
            return len(self.numbers)

        def __getitem__(self, number: int) -> NDArray[np.uint8]:
            return np.full((2, 2, 3), self.numbers[number], dtype=np.uint8)

        def about(self) -> list[tuple[list[str], dict[str, Any]]]:
            return [(["1", "2"], {}) for _ in range(total)]

    model: Any = Towers()

    def tokenise(texts: Any) -> NDArray[np.int32]:
        return np.array([[int(text), 1] for text in texts], dtype=np.int32)

    encoder = Encoder(model=model, tokenise=tokenise, device=torch.device("cpu"), chunk_size=2, progress=False)
    return (encoder.pairs(Pictures()).images + 1) * 127.5


@pytest.mark.parametrize(("world", "total"), [(2, 1), (2, 5)])
def test_fewer_pictures_than_ranks_and_uneven_ones(world: int, total: int, tmp_path: Path) -> None:
    for found in on_ranks(world, pictures_of_ranks, total, folder=tmp_path):
        torch.testing.assert_close(found[:, 0], torch.arange(total * 1.0), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("world", "total"), [(2, 7), (3, 7), (3, 2)])
def test_uneven_sets_are_gathered_whole_and_in_order(world: int, total: int, tmp_path: Path) -> None:
    for found in on_ranks(world, gathered, total, folder=tmp_path / "rows"):
        assert torch.equal(found, torch.arange(total * 2.0).view(total, 2))
    for found in on_ranks(world, texts_of_ranks, total, folder=tmp_path / "texts"):
        assert found[:, 0].tolist() == list(range(total))
