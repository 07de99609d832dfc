"""What the service answers equals `align_train.load`'s numbers, whoever shares the batch."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

import align_train
from align_train.evals.prompts import template_sets
from align_train.pretrained.load import TrainedModel
from align_train.serving.batching import Batching
from align_train.serving.refused import Refused
from align_train.serving.service import Service
from align_train.serving.templates import checked_templates
from align_train.serving.uploads import Upload
from tests.support.images import encoded, picture, plain_image

NEAR = 1e-5
_ROTATED = 6  # EXIF's orientation of a camera held upright


def turned(label: int) -> bytes:
    """A JPEG whose metadata turn it."""
    exif = Image.Exif()
    exif[0x0112] = _ROTATED
    return encoded(picture(label).resize((40, 28)), "JPEG", exif=exif)


@pytest.fixture(scope="module")
def model(trained: Path) -> TrainedModel:
    return align_train.load(str(trained))


@pytest.fixture
def service(model: TrainedModel) -> Iterator[Service]:
    service = Service({"run": model}, batching=Batching(chunk_size=8, wait_ms=10))
    yield service
    service.close()


def test_everybody_gets_the_numbers_of_load_in_their_own_order(
    service: Service, model: TrainedModel, tmp_path: Path
) -> None:
    def ask(client: int) -> tuple[float, float]:
        random = Random(client)
        files = [turned(random.randrange(36)) for _ in range(random.randint(1, 5))]
        texts = ["red " * random.randint(0, 64) for _ in range(random.randint(1, 5))]
        images = service.embed_images("run", [Upload(file) for file in files])
        embedded = service.embed_texts("run", texts)

        paths = []
        for number, file in enumerate(files):
            path = tmp_path / f"{client}-{number}.jpg"
            path.write_bytes(file)
            paths.append(path)
        with torch.inference_mode():
            alone = model.encode_images(paths).numpy()
            of_texts = model.encode_text(model.tokenizer(texts)).numpy()
        return float(abs(images - alone).max()), float(abs(embedded - of_texts).max())

    with ThreadPoolExecutor(8) as clients:
        differences = np.array(list(clients.map(ask, range(40))))
    assert differences.max() < NEAR


def test_scores_are_those_of_similarity(service: Service, model: TrainedModel) -> None:
    images = [picture(label) for label in range(5)]
    labels = ["a red circle", "two green stars", "a heart"]
    logits = model.similarity(images, labels)
    answers = service.classify("run", images, labels)
    for answer, row in zip(answers, logits, strict=True):
        assert (answer.kind, answer.labels, answer.note) == ("softmax", labels, None)
        assert answer.scores == pytest.approx(row.softmax(0).tolist(), abs=NEAR)
        assert answer.cosines == pytest.approx((row * model.temperature).tolist(), abs=NEAR)

    matrix = service.similarity(None, images, labels)
    assert matrix.kind == "softmax"
    np.testing.assert_allclose(matrix.logits, logits.numpy(), atol=1e-4)
    np.testing.assert_allclose(matrix.cosines * (1 / model.temperature), logits, atol=1e-4)


def test_templates_are_ensembled_as_in_zero_shot(service: Service, model: TrainedModel) -> None:
    images = [picture(label) for label in range(3)]
    labels, templates = ["circle", "star"], ["a {}", "a photo of a {}.", "{} and {{}}"[:2]]
    by_label = []
    for label in labels:
        prompts = [template.format(label) for template in templates]
        by_label.append(model.encode_text(model.tokenizer(prompts)).mean(dim=0))
    texts = normalize(torch.stack(by_label), dim=-1)
    expected = model.similarity(images, texts).softmax(dim=1)
    answers = service.classify(None, images, labels, templates)
    assert [answer.scores for answer in answers] == [
        pytest.approx(row.tolist(), abs=NEAR) for row in expected
    ]
    # A set by its name.
    known = service.classify(None, images[:1], labels, "cifar10")
    assert known == service.classify(None, images[:1], labels, template_sets()["cifar10"])


def test_one_label_of_a_softmax_model_has_a_cosine_and_says_why(service: Service) -> None:
    (answer,) = service.classify("run", [picture(0)], ["a red circle"])
    assert answer.kind == "cosine" and answer.scores == answer.cosines
    assert answer.note is not None and answer.note.startswith("one label alone")


def test_odd_images_are_embedded_and_bad_ones_are_named(
    service: Service, model: TrainedModel
) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (5000, 1), dtype=np.uint8)
    wide = np.random.default_rng(0).integers(0, 65536, (9, 7), dtype=np.uint16)
    odd = [
        plain_image((1, 2, 3), side=1),
        encoded(Image.fromarray(grey), "PNG"),
        encoded(Image.fromarray(grey.T), "PNG"),
        encoded(Image.fromarray(wide), "PNG"),
        encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), "PNG"),
    ]
    good = [picture(label) for label in range(26)]
    embedded = service.embed_images("run", [*good, *map(Upload, odd)])
    alone = model.encode_images(good).numpy()
    np.testing.assert_allclose(embedded[:26], alone, atol=NEAR)
    assert np.isfinite(embedded).all()

    for bad, words in (
        (b"", "not an image of a known kind"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image of a known kind"),
        (encoded(picture(0), "JPEG")[:300], "broken image"),
    ):
        with pytest.raises(Refused, match=rf"images\[26\]: {words}"):
            service.embed_images("run", [*good, Upload(bad)])
    assert len(service.embed_images("run", good[:1])) == 1


def test_an_image_is_refused_by_the_size_that_it_claims(model: TrainedModel) -> None:
    service = Service({"run": model}, max_pixels=1000)
    for image in (Upload(plain_image((0, 0, 0), side=32)), Image.new("RGB", (32, 32))):
        with pytest.raises(Refused, match=r"images\[0\]: image of 32 x 32 .* at most 1,000 pixels"):
            service.embed_images("run", [image])
    assert len(service.embed_images("run", [Upload(plain_image((0, 0, 0), side=31))])) == 1
    service.close()


@pytest.mark.parametrize(
    ("templates", "words"),
    [
        ("/etc/passwd", "templates=/etc/passwd: no such set; expected a list"),
        ([], "templates: none given"),
        (["a {}", "a"], r"templates\[1\]: a: expected \{\} once"),
        (["{0.__class__}"], r"templates\[0\]: "),
        (["{} {x}"], r"templates\[0\]: "),
    ],
)
def test_templates_are_checked_and_never_a_file(templates: str | list[str], words: str) -> None:
    with pytest.raises(Refused, match=words):
        checked_templates(templates)


def test_questions_that_do_not_fit_are_one_line(service: Service) -> None:
    image = picture(0)
    for ask, words in (
        (lambda: service.embed_images("no", [image]), "model=no: no such model; expected one of r"),
        (lambda: service.embed_images("run", []), "images: none given"),
        (lambda: service.embed_texts("run", []), "texts: none given"),
        (lambda: service.classify("run", [image], []), "labels: none given"),
        (lambda: service.classify("run", [image], ["a", "\ud800"]), r"labels\[1\]: .* surrogate"),
        (lambda: service.embed_texts("run", ["a", "\ud800"]), r"texts\[1\]: .* surrogate"),
        (lambda: service.classify("run", [image], ["x"] * 1000, "imagenet"), "labels: 1000 x 80"),
    ):
        with pytest.raises(Refused, match=words):
            ask()
