"""Hugging Face's own example for ALIGN, a photo of cats, on the page and through the interface."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from PIL import Image
from transformers import AlignModel, AlignProcessor

from align_train.pretrained.load import load
from align_train.serving.api import make_app
from align_train.serving.page import mount
from align_train.serving.service import Service
from tests.support.browser import needs_chromium, visiting
from tests.support.commands import SHARED_DATA
from tests.support.pages import LIMITS, listening, scores, upload

# A cat and its reflection.
CATS = SHARED_DATA / "photos" / "000000358083.jpg"
LABELS = ["an image of a cat", "an image of a dog"]

pytestmark = pytest.mark.skipif(not CATS.exists(), reason=f"{CATS} is not here")


@pytest.fixture(scope="module")
def expected(small_align: Path) -> list[float]:
    """As Hugging Face's documentation computes it."""
    processor = AlignProcessor.from_pretrained(small_align)
    model = AlignModel.from_pretrained(small_align)
    inputs = processor(images=Image.open(CATS), text=LABELS, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits_per_image
    shares: list[float] = logits.softmax(dim=1)[0].tolist()
    return shares


@pytest.fixture(scope="module")
def url(small_align: Path) -> Iterator[str]:
    service = Service({"align": load(str(small_align))})
    with listening(mount(make_app(service, LIMITS), service, LIMITS)) as url:
        yield url
    service.close()


def test_the_interface_gives_align_models_numbers(url: str, expected: list[float]) -> None:
    image = base64.b64encode(CATS.read_bytes()).decode()
    answer = httpx.post(f"{url}classify", json={"images": [image], "labels": LABELS})
    found = answer.json()["images"][0]
    by_label = dict(zip(found["labels"], found["scores"], strict=True))
    assert [by_label[label] for label in LABELS] == pytest.approx(expected, abs=1e-4)


@needs_chromium
def test_the_page_gives_align_models_numbers(url: str, expected: list[float]) -> None:
    with visiting() as visit:
        visit.page.goto(url)
        visit.page.get_by_label("Labels").fill("\n".join(LABELS))
        upload(visit.page, (CATS.name, CATS.read_bytes()))
        found = scores(visit.page, "align")
        assert [found[label] for label in LABELS] == pytest.approx(expected, abs=1e-4)
        assert visit.errors == []
