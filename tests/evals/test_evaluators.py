"""Evaluators against a plain computation in NumPy, with ties, several captions and uneven ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from torchmetrics.functional.regression import spearman_corrcoef
from torchmetrics.retrieval import RetrievalHitRate, RetrievalRecall

import benchmarks.metrics.__main__ as metrics
from align_train.cluster.collectives import gather_rows, rank, world_size
from align_train.errors import UserError
from align_train.evals import (
    ComposedSearch,
    EmbeddedPairs,
    HeldOutLoss,
    LinearProbe,
    NearestNeighbours,
    Retrieval,
    TextSimilarity,
    ZeroShot,
    similarity,
)
from align_train.evals.knn import nearest
from align_train.evals.labels import class_indices
from align_train.evals.prompts import read_templates
from align_train.loss.contrastive import ContrastiveLoss
from tests.support.processes import on_ranks
from tests.support.ready import Lookup, embeddings, encoded, lying_ready

TRAIN: Any = 1  # the second set of `lying_ready`
NAMES, TEMPLATES = ["a", "b", "c", "d", "e", "f", "g"], ["{}", "a photo of {}", "{}!"]


# --- retrieval and zero-shot, against NumPy on the whole matrix ---------------------------------------------------------


def whole_matrix(images: Tensor, texts: Tensor) -> NDArray[np.float32]:
    """Cosines as they are defined here: products in float64, rounded to float32."""
    return (images.numpy().astype(np.float64) @ texts.numpy().astype(np.float64).T).astype(
        np.float32
    )


def places(matrix: NDArray[np.float32], right: NDArray[np.bool_]) -> NDArray[np.int64]:
    """By a sort of each row; of equal similarities the wrong ones come first."""
    found = []
    for row, own in zip(matrix, right, strict=True):
        order = np.lexsort((own, -row))
        found.append(int(np.flatnonzero(own[order])[0]))
    return np.array(found)


def retrieval_by_numpy(images: Tensor, texts: Tensor, owner: NDArray[np.int64]) -> dict[str, float]:
    matrix = whole_matrix(images, texts)
    right = owner[None, :] == np.arange(len(images))[:, None]
    found: dict[str, float] = {}
    for direction, ranks in (
        ("image_to_text", places(matrix, right)),
        ("text_to_image", places(matrix.T, right.T)),
    ):
        found |= {f"{direction}/recall@{k}": float(np.mean(ranks < k)) for k in (1, 5, 10)}
        found[f"{direction}/median_rank"] = float(np.floor(np.median(ranks)) + 1)
        found[f"{direction}/mean_rank"] = float(ranks.mean() + 1)
    return found


def zero_shot_by_numpy(
    images: Tensor, prompts: dict[str, Tensor], labels: NDArray[np.int64]
) -> dict[str, float]:
    """Of equal similarities the first class."""
    means = torch.stack(
        [torch.stack([prompts[t.format(name)] for t in TEMPLATES]).mean(dim=0) for name in NAMES]
    )
    order = np.argsort(-whole_matrix(images, normalize(means, dim=-1)), axis=1, kind="stable")
    right = order[:, 0] == labels
    return {
        "top1": float(right.mean()),
        "top5": float((order[:, :5] == labels[:, None]).any(axis=1).mean()),
        "mean_per_class": float(
            np.mean([right[labels == label].mean() for label in np.unique(labels)])
        ),
    }


def random_set(counts: list[int], dim: int, seed: int) -> tuple[Lookup, dict[str, Tensor]]:
    """Pictures with so many captions each, some of them copies of others', and prompts, some of them alike."""
    images, texts = embeddings(len(counts), dim, seed), embeddings(sum(counts), dim, seed + 1)
    texts[1::7] = texts[0]
    images[3::5] = images[1]
    prompts = {template.format(name): row for name, row in zip(NAMES * 3, embeddings(21, dim, seed + 2), strict=True)
               for template in TEMPLATES}  # fmt: skip
    captions = iter(f"text {number}" for number in range(len(texts)))
    about = [
        ([next(captions) for _ in range(count)], {"class": number * 3 % 7})
        for number, count in enumerate(counts)
    ]
    table = {f"text {number}": row for number, row in enumerate(texts)}
    return Lookup(images, table | prompts, about), prompts


def both_on_ranks(
    counts: list[int], dim: int, seed: int, classes: str
) -> tuple[dict[str, float], Tensor]:
    lookup, _ = random_set(counts, dim, seed)
    encoder = lookup.embedder()
    found = dict(Retrieval()(encoder))
    zero_shot = ZeroShot(classes=classes, templates=TEMPLATES)
    return found | dict(zero_shot(encoder)), zero_shot.guesses


COUNTS = {
    "one caption each": [1] * 37,
    "several": [1, 3, 2, 1, 5, 1, 2] * 3,
    "fewer pictures than processes": [2, 1],
}


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
def test_retrieval_and_zero_shot_equal_numpy_on_any_ranks(
    world: int, counts: list[int], tmp_path: Path
) -> None:
    (tmp_path / "classes.json").write_text(json.dumps({"names": NAMES}))
    for seed, dim in ((0, 3), (10, 64)):
        lookup, prompts = random_set(counts, dim, seed)
        owner = np.repeat(np.arange(len(counts)), counts)
        labels = np.arange(len(counts)) * 3 % 7
        texts = torch.stack([lookup.texts[f"text {number}"] for number in range(len(owner))])
        expected = retrieval_by_numpy(lookup.images, texts, owner) | zero_shot_by_numpy(
            lookup.images, prompts, labels
        )
        arguments = (counts, dim, seed, str(tmp_path / "classes.json"))
        on_each = (
            [both_on_ranks(*arguments)]
            if world == 1
            else on_ranks(world, both_on_ranks, *arguments, folder=tmp_path / str(seed))
        )
        for found, guesses in on_each:
            assert len(guesses) == len(counts)
            assert found == expected  # every number, exactly


@given(
    counts=st.lists(st.integers(1, 4), min_size=1, max_size=40),
    dim=st.integers(1, 9),
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
)
def test_ranks_do_not_hang_on_the_tiles(
    counts: list[int], dim: int, seed: int, rows: int, columns: int
) -> None:
    pairs = encoded(counts, seed, dim)
    owner = pairs.image_of_text.numpy()
    matrix, right = (
        whole_matrix(pairs.images, pairs.texts),
        owner[None, :] == np.arange(len(counts))[:, None],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarity, "_ROWS", rows)
        patch.setattr(similarity, "_COLUMNS", columns)
        patch.setattr(similarity, "_AT_ONCE", 3)
        of_images, of_texts = similarity.retrieval_ranks(
            pairs.images, pairs.texts, pairs.image_of_text
        )
    assert of_images.tolist() == places(matrix, right).tolist()
    assert of_texts.tolist() == places(matrix.T, right.T).tolist()


def test_copies_tie_wherever_they_lie() -> None:
    """What a float32 product gives for copies of an embedding may differ by their place; the rank may not."""
    generator = torch.Generator().manual_seed(0)
    images = normalize(torch.randn(600, 640, generator=generator), dim=1)
    texts = normalize(images + torch.randn(600, 640, generator=generator), dim=1)
    copies = torch.cat(
        [texts, texts[:300], texts[:7]]
    )  # of other pictures than the texts that they are copies of
    owner = torch.cat([torch.arange(600), torch.arange(300, 600), torch.arange(593, 600)])
    of_images, of_texts = similarity.retrieval_ranks(images, copies, owner)
    matrix, right = whole_matrix(images, copies), owner.numpy()[None, :] == np.arange(600)[:, None]
    assert of_images.tolist() == places(matrix, right).tolist()
    assert of_texts.tolist() == places(matrix.T, right.T).tolist()
    assert (of_images[:300] >= 1).all()


@pytest.mark.parametrize("pairs", [20, 300])
def test_a_model_that_embeds_everything_alike_finds_nothing(pairs: int) -> None:
    alike = torch.ones(pairs, 640) / 640**0.5
    set_ = EmbeddedPairs(alike, ["x"] * pairs, torch.arange(pairs), [{}] * pairs, lambda _: alike)
    found = dict(Retrieval()(lying_ready(set_)))
    assert found["image_to_text/recall@10"] == found["text_to_image/recall@10"] == 0
    assert found["image_to_text/median_rank"] == pairs


def test_embeddings_that_are_no_numbers_are_refused() -> None:
    lookup = Lookup(torch.full((3, 2), torch.nan), {"x": torch.ones(2)}, [(["x"], {})] * 3)
    with pytest.raises(UserError, match="embeddings of images are not finite"):
        dict(Retrieval()(lookup.embedder()))


# --- against others' -----------------------------------------------------------------------------------------------------


def without_ties(counts: list[int]) -> EmbeddedPairs:
    """Ties are what metrics disagree about: most take whichever comes first."""
    owner = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    generator = torch.Generator().manual_seed(0)
    images = normalize(torch.randn(len(counts), 16, generator=generator), dim=-1)
    texts = normalize(
        images[owner] + 0.4 * torch.randn(len(owner), 16, generator=generator), dim=-1
    )
    return EmbeddedPairs(
        images, [f"text {n}" for n in range(len(owner))], owner, [{}] * len(counts), lambda _: texts
    )


def test_retrieval_equals_torchmetrics() -> None:
    """With one caption each, its recall is ours; with several, its *hit rate* is ours, and its recall is another thing: the
    share of a picture's own captions that are among the first k."""
    for counts in ([1] * 40, [1, 3, 2, 5] * 8):
        pairs = without_ties(counts)
        matrix = torch.from_numpy(whole_matrix(pairs.images, pairs.texts))
        right = pairs.image_of_text[None, :] == torch.arange(len(counts))[:, None]
        found = dict(Retrieval()(lying_ready(pairs)))
        for k in (1, 5, 10):
            for direction, scores, target in (
                ("image_to_text", matrix, right),
                ("text_to_image", matrix.T.contiguous(), right.T.contiguous()),
            ):
                queries = torch.arange(len(scores))[:, None].expand_as(scores).flatten()
                hit, recall = (
                    float(metric(scores.flatten(), target.flatten(), indexes=queries))
                    for metric in (RetrievalHitRate(top_k=k), RetrievalRecall(top_k=k))
                )
                assert found[f"{direction}/recall@{k}"] == pytest.approx(hit, abs=1e-6)
                if max(counts) == 1 or direction == "text_to_image":
                    assert recall == pytest.approx(hit, abs=1e-6)
                elif k == 1:
                    assert recall < hit  # it can never find three captions in one place


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=30))
def test_spearman_equals_torchmetrics(values: list[tuple[int, int]]) -> None:
    from align_train.evals.text_similarity import spearman

    first, second = (np.array(side, dtype=np.float32) for side in zip(*values, strict=True))
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert spearman(first, second) == 0
        return
    expected = float(spearman_corrcoef(torch.from_numpy(first), torch.from_numpy(second)))
    assert spearman(first, second) == pytest.approx(expected, abs=1e-5)


# --- zero-shot ----------------------------------------------------------------------------------------------------------


def test_attributes_folders_and_candidates(tmp_path: Path) -> None:
    names, attributes = ["a", "b", "c", "d"], {"pair": [0, 0, 1, 1]}
    file = tmp_path / "classes.json"
    file.write_text(
        json.dumps({"names": names, "folders": ["n0", "n1", "n2", "n3"], "attributes": attributes})
    )
    directions = dict(zip(names, torch.eye(4), strict=True))
    images = torch.eye(4)[[0, 1, 3, 3]]
    labels = ["n0", "b", 2, "3"]  # a folder, a name, numbers
    pairs = EmbeddedPairs(
        images, ["x"] * 4, torch.arange(4), [{"class": label} for label in labels], lambda _: images
    )
    texts = {f"a photo of a {name}": row for name, row in directions.items()}
    evaluator = ZeroShot(classes=str(file))
    found = dict(evaluator(lying_ready(pairs, texts=texts)))
    assert evaluator.guesses.tolist() == [0, 1, 3, 3]
    assert found == {"top1": 0.75, "top5": 1.0, "mean_per_class": 0.75, "pair": 1.0}
    subset = EmbeddedPairs(
        images[2:], ["x"] * 2, torch.arange(2), [{"class": 0}, {"class": 1}], lambda _: images
    )
    assert dict(ZeroShot(classes=str(file))(lying_ready(subset, texts=texts)))["top1"] == 0
    among_two = ZeroShot(classes=str(file), candidates="present")
    assert dict(among_two(lying_ready(subset, texts=texts)))["top1"] == 0.5
    assert set(among_two.guesses.tolist()) == {0}


def test_classes_from_labels_alone() -> None:
    images = torch.eye(2)
    pairs = EmbeddedPairs(images, ["tabby_cat", "dog"], torch.arange(2), [{}, {}], lambda _: images)
    texts = {"dog": images[1], "tabby cat": images[0]}
    assert (
        dict(ZeroShot(label=None, templates=["{}"])(lying_ready(pairs, texts=texts)))["top1"] == 1
    )
    many = torch.eye(12)
    numbers = EmbeddedPairs(
        many, ["x"] * 12, torch.arange(12), [{"class": n} for n in range(12)], lambda _: many
    )
    texts = {str(n): many[n] for n in range(12)}
    assert (
        dict(ZeroShot(templates=["{}"])(lying_ready(numbers, texts=texts)))["top1"] == 1
    )  # "10" comes before "2"
    with pytest.raises(UserError, match="label=kind: 12 of 12 images have no such field"):
        dict(ZeroShot(label="kind")(lying_ready(numbers)))


def test_well_known_prompts() -> None:
    assert len(read_templates("imagenet")) == 80
    assert read_templates("imagenet")[:2] == ["a bad photo of a {}.", "a photo of many {}."]
    known = ZeroShot(classes="imagenet", templates="imagenet").classes
    assert known is not None and len(known.names) == len(set(known.folders)) == 1000
    assert class_indices(known, ["n01440764", "999", 1, "tench"], field="class") == [0, 999, 1, 0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        ("[1]", "expected JSON such as"),
        ('{"names": []}', "expected JSON such as"),
        (
            '{"names": ["one"]}',
            "class=1 of an image is none of the 1 classes: expected a class number below 1",
        ),
        (
            '{"names": ["one", "two"], "folders": ["x"]}',
            "folders must have one entry for each of the 2 names",
        ),
        (
            '{"names": ["one", "two"], "folders": ["x", "x"]}',
            "folders are expected to be texts, each once",
        ),
        (
            '{"names": ["one"], "attributes": {"colour": [0.5]}}',
            "attributes are expected to be whole numbers",
        ),
        ("[" * 100_000, "expected JSON such as"),
    ],
)
def test_zero_shot_names_what_is_wrong(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "classes.json").write_text(content)
    encoder = lying_ready(encoded([1] * 4), texts={"a photo of a one": torch.ones(3)})
    with pytest.raises(UserError, match=words):
        dict(ZeroShot(classes=str(tmp_path / "classes.json"))(encoder))


@pytest.mark.parametrize(
    ("templates", "words"),
    [
        ("nowhere.txt", "No such file.*or one of imagenet, "),
        (["a photo"], "'a photo' has no {}"),
        (["{} }"], "has no {}"),
        ([], "no prompts"),
    ],
)
def test_prompts_name_what_is_wrong(templates: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_templates(templates)


def test_prompts_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("ein Bild: {}\n\n{}, gemalt\n")
    assert read_templates(str(tmp_path / "prompts.txt")) == ["ein Bild: {}", "{}, gemalt"]


# --- neighbours, probe, composed search, texts -----------------------------------------------------------------------------


@given(
    rows=st.integers(1, 30),
    candidates=st.integers(1, 60),
    k=st.integers(1, 8),
    seed=st.integers(0, 10**6),
)
def test_neighbours_equal_a_stable_sort(rows: int, candidates: int, k: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Small whole numbers: products are exact, and ties are many.
    queries, known = (
        torch.randint(-2, 3, (n, 4), generator=generator).float() for n in (rows, candidates)
    )
    k = min(k, candidates)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("align_train.evals.knn._ROWS", 7)
        patch.setattr("align_train.evals.knn._COLUMNS", 5)
        scores, found = nearest(queries, known, k)
    matrix = queries.numpy() @ known.numpy().T
    expected = np.argsort(-matrix, axis=1, kind="stable")[:, :k]
    assert found.numpy().tolist() == expected.tolist()
    assert scores.numpy().tolist() == np.take_along_axis(matrix, expected, axis=1).tolist()


def clusters(rows: int, seed: int, spread: float = 0.5) -> EmbeddedPairs:
    """Pictures of 4 classes around 4 directions."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % 4
    images = normalize(
        torch.eye(8)[labels] + spread * torch.randn(rows, 8, generator=generator), dim=-1
    )
    return EmbeddedPairs(
        images,
        ["x"] * rows,
        torch.arange(rows),
        [{"class": int(n)} for n in labels],
        lambda _: images,
    )


def probes_on_ranks() -> dict[str, float]:
    encoder = lying_ready(clusters(101, 1), clusters(203, 2))
    return dict(NearestNeighbours(train=TRAIN)(encoder)) | {
        f"probe/{name}": value for name, value in LinearProbe(train=TRAIN, iterations=50)(encoder)
    }


def test_neighbours_and_probe(tmp_path: Path) -> None:
    held, train = clusters(101, 1), clusters(203, 2)
    found = probes_on_ranks()
    matrix = (held.images @ train.images.T).numpy()
    order = np.argsort(-matrix, axis=1, kind="stable")
    labels = np.arange(203) % 4
    assert found["top1"] == np.mean(labels[order[:, 0]] == np.arange(101) % 4)
    votes = np.zeros((101, 4))
    for row, neighbours in enumerate(order[:, :20]):
        np.add.at(votes[row], labels[neighbours], np.exp((matrix[row, neighbours] - 1) / 0.07))
    assert found["weighted_20"] == np.mean(votes.argmax(axis=1) == np.arange(101) % 4)
    assert found["probe/top1"] > 0.75
    cold = dict(NearestNeighbours(train=TRAIN, temperature=1e-4)(lying_ready(held, train)))
    assert cold["weighted_20"] == cold["top1"]  # a vote in which the nearest alone counts
    for world in (2, 3):
        for on_rank in on_ranks(world, probes_on_ranks, folder=tmp_path / str(world)):
            assert on_rank == pytest.approx(found)


def test_a_probe_stands_where_the_gradient_is_zero() -> None:
    pairs = clusters(80, 3)
    labels = torch.arange(80) % 4
    weights, bias = LinearProbe(train=TRAIN)._fit(pairs.images, labels, 1e-2, 4)
    weights.requires_grad_()
    loss = cross_entropy(pairs.images @ weights + bias, labels) + 0.5e-2 * weights.square().sum()
    (gradient,) = torch.autograd.grad(loss, weights)
    assert float(gradient.abs().max()) < 1e-4


def test_a_probe_takes_the_weight_decay_that_does_best_on_a_fifth() -> None:
    """Many features, few pictures, wrong labels among them: too little and too much decay both lose."""
    train, held = clusters(120, 5, spread=1.5), clusters(200, 6, spread=1.5)
    decays = [1e-8, 1e-2, 1e3]
    probe = LinearProbe(train=TRAIN, weight_decays=decays)
    found = dict(probe(lying_ready(held, train)))
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    chosen, rest = order[::5], torch.stack([one for n, one in enumerate(order) if n % 5])
    labels = torch.arange(120) % 4
    shares = []
    for decay in decays:
        weights, bias = probe._fit(train.images[rest], labels[rest], decay, 4)
        shares.append(
            float(
                ((train.images[chosen] @ weights + bias).argmax(dim=1) == labels[chosen])
                .double()
                .mean()
            )
        )
    assert found["weight_decay"] == decays[int(np.argmax(shares))]
    assert len(set(shares)) > 1


def test_labels_that_are_missing_or_unknown() -> None:
    bare = EmbeddedPairs(torch.eye(2), ["x"] * 2, torch.arange(2), [{}, {}], lambda _: torch.eye(2))
    with pytest.raises(UserError, match="label=class: 2 of 2 images have no such field"):
        dict(NearestNeighbours(train=TRAIN)(lying_ready(bare, bare)))
    few = clusters(2, 0)
    with pytest.raises(UserError, match="2 classes have no image among the labelled ones"):
        dict(NearestNeighbours(train=TRAIN)(lying_ready(clusters(8, 1), few)))


def composed_on_ranks(classes: str) -> dict[str, float]:
    """Embeddings that are the sum of a colour's and a shape's direction: the composed query finds all, each part little."""
    labels = [
        number % 4 for number in range(12)
    ]  # red circle, red square, blue circle, blue square
    colour, shape = torch.eye(6)[:2], torch.eye(6)[2:4]
    jitter = 0.01 * torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
    images = normalize(
        torch.stack([colour[label // 2] + shape[label % 2] for label in labels]) + jitter, dim=-1
    )
    pairs = EmbeddedPairs(
        images,
        ["x"] * 12,
        torch.arange(12),
        [{"class": label} for label in labels],
        lambda _: images,
    )
    evaluator = ComposedSearch(classes=classes, attribute="colour", values=["red", "blue"])
    return dict(evaluator(lying_ready(pairs, texts={"red": colour[0], "blue": colour[1]})))


def test_composed_search(tmp_path: Path) -> None:
    file = tmp_path / "classes.json"
    attributes = {"colour": [0, 0, 1, 1], "shape": [0, 1, 0, 1]}
    file.write_text(
        json.dumps(
            {
                "names": ["red circle", "red square", "blue circle", "blue square"],
                "attributes": attributes,
            }
        )
    )
    found = composed_on_ranks(str(file))
    assert found["queries"] == 12
    assert found["recall@1"] == 1
    assert found["picture_alone/recall@1"] == 0
    assert 0 < found["text_alone/recall@1"] < 1
    for on_rank in on_ranks(3, composed_on_ranks, str(file), folder=tmp_path / "ranks"):
        assert on_rank == found
    with pytest.raises(UserError, match=r"attribute=size: .* has colour, shape"):
        ComposedSearch(classes=str(file), attribute="size", values=[])
    with pytest.raises(UserError, match="1 of them; colour has 2 values"):
        ComposedSearch(classes=str(file), attribute="colour", values=["red"])


def test_text_similarity(tmp_path: Path) -> None:
    rows = [("a", "b", 9.0), ("a", "c", 5.0), ("b", "c", 5.0), ("c", "d", 0.5)]
    texts = {
        name: normalize(torch.randn(5, generator=torch.Generator().manual_seed(n)), dim=0)
        for n, name in enumerate("abcd")
    }
    cosines = torch.tensor([float(texts[one] @ texts[other]) for one, other, _ in rows])
    expected = float(spearman_corrcoef(cosines, torch.tensor([score for _, _, score in rows])))
    (tmp_path / "simlex.txt").write_text(
        "word1\tword2\tPOS\tscore\n" + "".join(f"{a}\t{b}\tN\t{s}\n" for a, b, s in rows)
    )
    (tmp_path / "sts.csv").write_text(
        "".join(f"main\tx\t2012\t1\t{s}\t{a}\t{b}\n" for a, b, s in rows)
    )
    (tmp_path / "commas.csv").write_text(
        "word1,word2,score\n" + "".join(f'"{a}",{b},{s}\n' for a, b, s in rows)
    )
    by_number: dict[str, Any] = {"first": 5, "second": 6, "score": 4}
    for name, columns in (("simlex.txt", {}), ("sts.csv", by_number), ("commas.csv", {})):
        found = dict(TextSimilarity(file=str(tmp_path / name), **columns)(lying_ready(texts=texts)))
        assert found == {"spearman": pytest.approx(expected, abs=1e-6), "couples": 4}
    with pytest.raises(UserError, match="No such file"):
        TextSimilarity(file=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="no column SimLex999; it has word1, word2, POS, score"):
        TextSimilarity(file=str(tmp_path / "simlex.txt"), score="SimLex999")
    for bad in ("a\tb\tmuch", "a\tb\tnan", "\tb\t1", "a\tb"):
        (tmp_path / "simlex.txt").write_text(f"word1\tword2\tscore\n\n{bad}\n")
        with pytest.raises(UserError, match="line 3: expected two texts and a number"):
            TextSimilarity(file=str(tmp_path / "simlex.txt"))


def test_the_cls_layer_is_before_the_projection(tmp_path: Path) -> None:
    """Word similarity as in the paper: of the tower's last [CLS] state."""
    from align_train.model import BertTower

    (tmp_path / "words.txt").write_text(
        "word1\tword2\tscore\n1 2\t1 3\t3\n1 2\t1 4\t2\n1 3\t1 4\t1\n"
    )
    torch.manual_seed(0)
    tower = BertTower(
        dim=6,
        vocabulary_size=9,
        hidden=8,
        layers=1,
        heads=2,
        intermediate=16,
        initializer_range=1.0,
    ).eval()
    lookup = Lookup(torch.eye(2), {"x": torch.ones(2)}, [])
    lookup.tokenise = lambda texts: np.array(  # type: ignore[method-assign]
        [list(map(int, text.split())) for text in texts], dtype=np.int32
    )
    lookup.text_tower = tower  # type: ignore[attr-defined]
    asked: list[Tensor] = []
    plain: Any = EncoderOf(lookup, asked)
    dict(TextSimilarity(file=str(tmp_path / "words.txt"), layer="cls")(plain))
    (states,) = asked
    with torch.inference_mode():
        ids = torch.tensor([[1, 2], [1, 3], [1, 4]])
        expected = tower.network(input_ids=ids, attention_mask=ids != 0).last_hidden_state[:, 0]
    assert states.shape == (3, 8)
    torch.testing.assert_close(states, normalize(expected, dim=-1))


class EncoderOf:
    """Keeps what texts were encoded to."""

    def __init__(self, lookup: Lookup, asked: list[Tensor]) -> None:
        self.model, self._encoder, self._asked = lookup, lookup.embedder(), asked

    def texts(self, texts: list[str], *, embed: Any = None) -> Tensor:
        self._asked.append(self._encoder.texts(texts, embed=embed))
        return self._asked[-1]


def test_frames_say_which_hits_are_right() -> None:
    from align_train.figures.sheets import Hit, contact_sheet, hit_sheet

    grey = np.full((8, 8, 3), 128, dtype=np.uint8)
    sheet = np.asarray(
        hit_sheet([("query", None, [Hit(grey, "", True), Hit(grey, "", False), Hit(grey, "")])])
    )
    frames = [sheet[60, 8 + (2 + place) * 120 - 2].tolist() for place in range(3)]
    assert frames == [[26, 152, 80], [215, 48, 39], [255, 255, 255]]
    below = np.asarray(contact_sheet([grey, grey], ["a", "b"], right=[False, True]))
    assert [below[60, 8 + place * 152 - 2].tolist() for place in range(2)] == [
        [215, 48, 39],
        [26, 152, 80],
    ]


# --- loss, and what encodes ------------------------------------------------------------------------------------------------


def test_held_out_loss_is_the_cross_entropy_of_groups() -> None:
    pairs = encoded([2, 1, 3] * 5)
    sigma, size = 0.5, 4

    class Model:
        def logit_parameters(self) -> list[Tensor]:
            return [torch.tensor([sigma])]

    evaluator = HeldOutLoss(batch_size=size, loss=ContrastiveLoss(label_smoothing=0.0))
    found = dict(evaluator(lying_ready(pairs, model=Model())))["loss"]
    first = [int(np.flatnonzero(pairs.image_of_text.numpy() == number)[0]) for number in range(15)]
    losses = []
    for start in range(0, 12, size):
        logits = (
            pairs.images[start : start + size] @ pairs.texts[first[start : start + size]].T
        ).double().numpy() / sigma
        rows = np.log(np.exp(logits).sum(1)) - np.diag(logits)
        columns = np.log(np.exp(logits).sum(0)) - np.diag(logits)
        losses.append((rows.mean() + columns.mean()) / 2)
    assert found == pytest.approx(np.mean(losses), rel=1e-5)


def gathered(total: int) -> Tensor:
    table = torch.arange(total * 2.0).view(total, 2)
    return gather_rows(table[rank() :: world_size()], total)


def encoded_on_ranks(total: int) -> tuple[Tensor, Tensor]:
    """Picture and text i are embedded as i."""
    numbers = torch.arange(float(total))[:, None]
    texts = {str(number): row for number, row in enumerate(numbers)}
    pairs = (
        Lookup(numbers, texts, [([str(number)], {}) for number in range(total)])
        .embedder()
        .pairs(None)
    )
    return pairs.images, pairs.texts


@pytest.mark.parametrize(("world", "total"), [(2, 1), (2, 5), (2, 7), (3, 7), (3, 2)])
def test_uneven_sets_are_gathered_whole_and_in_order(
    world: int, total: int, tmp_path: Path
) -> None:
    for found in on_ranks(world, gathered, total, folder=tmp_path / "rows"):
        assert torch.equal(found, torch.arange(total * 2.0).view(total, 2))
    for images, texts in on_ranks(world, encoded_on_ranks, total, folder=tmp_path / "encoded"):
        assert images[:, 0].tolist() == texts[:, 0].tolist() == list(range(total))


def test_what_the_benchmark_compares(tmp_path: Path) -> None:
    """`python -m benchmarks.metrics` has the peers in an environment of its own; our side of it must not rot unseen."""
    rows = metrics.embeddings(tmp_path)
    found = metrics.ours(rows, tmp_path)
    nearest = (rows["images"].double() @ rows["one"].double().T).argmax(dim=1)
    assert found["one/image_to_text/recall@1"] == float(
        (nearest == torch.arange(metrics.PICTURES)).double().mean()
    )
    prompts = rows["prompts"].double().view(metrics.CLASSES, -1, metrics.DIM).mean(dim=1)
    guesses = (rows["images"].double() @ torch.nn.functional.normalize(prompts, dim=-1).T).argmax(
        dim=1
    )
    assert found["zero_shot/top1"] == float((guesses == rows["labels"]).double().mean())
