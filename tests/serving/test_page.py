"""The page in a real browser: what it shows is what `align_train.load` says, and nothing leaves."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Locator, expect

from align_train.pretrained.load import load
from align_train.serving.answers import Query
from align_train.serving.service import Service
from align_train.serving.uploads import Upload
from tests.support.browser import Visit, needs_chromium, visiting
from tests.support.images import encoded, picture
from tests.support.pages import (
    collection_of,
    dual_encoder,
    matrix_of,
    open_tab,
    page_of,
    scores,
    upload,
)

LABELS = ["red circle", "blue star", "a box, in green"]
IMAGE = encoded(picture(9), "PNG")
OTHER = encoded(picture(40), "PNG")

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def service(small_align: Path, tmp_path_factory: pytest.TempPathFactory) -> Service:
    small = load(str(small_align))
    warmer = load(str(small_align))
    warmer.model.temperature.value.data.mul_(3)
    folder = tmp_path_factory.mktemp("collection") / "index"
    searched = collection_of(small, folder, name="small")
    return Service({"small": small, "warmer": warmer}, searched=searched)


@pytest.fixture(scope="module")
def url(service: Service) -> Iterator[str]:
    with page_of(service) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Visit]:
    with visiting(camera=True) as visit:
        visit.page.set_default_timeout(60_000)
        yield visit


@pytest.fixture
def visit(browser: Visit, url: str) -> Iterator[Visit]:
    """The page, fresh. Afterwards: no script has failed, and no request has left."""
    browser.requests.clear()
    browser.errors.clear()
    browser.page.goto(url)
    browser.page.get_by_label("Labels").wait_for()
    yield browser

    assert browser.errors == []
    own = (url, "data:", "blob:")
    assert [request for request in browser.requests if not request.startswith(own)] == []


def shares(service: Service, name: str, content: bytes, labels: list[str]) -> dict[str, float]:
    """What `align_train.load` says of an image."""
    logits = dual_encoder(service, name).similarity(opened(content), labels)
    return dict(zip(labels, logits.softmax(dim=1)[0].tolist(), strict=True))


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def test_an_upload_is_classified_by_each_model_as_load_does(visit: Visit, service: Service) -> None:
    visit.page.get_by_label("Labels").fill("\n".join(LABELS))
    upload(visit.page, ("mine.png", IMAGE))

    for name in service.names:
        found = scores(visit.page, name)
        assert found == pytest.approx(shares(service, name, IMAGE, LABELS), abs=1e-5)
    assert scores(visit.page, "small") != pytest.approx(scores(visit.page, "warmer"), abs=1e-3)


def test_bars_follow_the_labels_the_image_and_the_models(visit: Visit, service: Service) -> None:
    page = visit.page
    upload(page, ("mine.png", IMAGE))
    page.get_by_label("Labels").fill("a cat, a dog")
    expect(page.locator("#classified .bars").first).to_contain_text("a dog")
    expected = shares(service, "small", IMAGE, ["a cat", "a dog"])
    assert scores(page, "small") == pytest.approx(expected, abs=1e-5)

    before = scores(page, "small")
    page.get_by_role("button", name="Remove mine.png").click()
    expect(page.locator("#classified")).to_contain_text("Choose an image")
    upload(page, ("other.png", OTHER))
    expected = shares(service, "small", OTHER, ["a cat", "a dog"])
    assert scores(page, "small") == pytest.approx(expected, abs=1e-5)
    assert before != expected

    page.get_by_label("warmer").first.uncheck()
    expect(page.locator("#classified .model-answer")).to_have_count(1)


def test_labels_of_strangers_are_text_and_no_markup(visit: Visit) -> None:
    upload(visit.page, ("<img src=x onerror=alert(1)>.png", IMAGE))
    hostile = "<img src=x onerror=document.title='taken'>"
    visit.page.get_by_label("Labels").fill(f"{hostile}\n${{1+1}} {{{{value}}}}")

    label = visit.page.locator("#classified .bars .label")
    expect(label.filter(has_text=hostile).first).to_be_visible()
    expect(label.filter(has_text="${1+1} {{value}}").first).to_be_visible()
    assert visit.page.title() == "align_train"


def test_a_broken_and_a_too_large_file_are_refused_in_a_line(visit: Visit) -> None:
    page = visit.page
    upload(page, ("broken.png", IMAGE[: len(IMAGE) // 2]))
    alert = page.locator("#classified [role=alert]")
    expect(alert).to_contain_text("broken.png: ")
    upload(page, ("notes.txt", b"no image at all"))
    expect(alert).to_contain_text("notes.txt: ")
    assert "Traceback" not in alert.inner_text()
    assert "\n" not in alert.inner_text()

    upload(page, ("large.png", IMAGE + bytes(400_000)))
    message = page.locator(".picker-message:visible")
    expect(message).to_contain_text("large.png has 0.4 MB; at most 0.3 MB.")

    upload(page, ("whole.png", IMAGE))
    expect(page.locator("#classified .bars").first).to_be_visible()


def test_a_search_finds_images_by_text_image_and_weights(visit: Visit, service: Service) -> None:
    page = visit.page
    open_tab(page, "Search")
    page.get_by_label("Text", exact=True).fill("a red circle")
    page.get_by_role("button", name="Search").click()
    figures = page.locator("#found figure")
    expect(figures).to_have_count(12)
    hits = service.search(Query(text="a red circle"), top=12)
    for figure, hit in zip(figures.all(), hits, strict=True):
        expect(figure).to_contain_text(f"cosine {hit.cosine:.3f}")
        expect(figure).to_contain_text(hit.texts[0])
        assert figure.locator("img").evaluate("image => image.naturalWidth") > 0

    page.get_by_label("Text", exact=True).fill("")
    upload(page, ("mine.png", encoded(picture(17), "PNG")))
    expect(figures.first).to_contain_text("caption 17 <b>")
    expect(figures.first).to_contain_text("cosine 1.000")


def test_a_search_weighs_an_image_a_text_and_what_it_is_not(visit: Visit, service: Service) -> None:
    page = visit.page
    open_tab(page, "Search")
    content = encoded(picture(17), "PNG")
    upload(page, ("mine.png", content))
    page.get_by_label("Text", exact=True).fill("a red circle")
    page.get_by_label("But not").fill("a green star")
    page.get_by_role("button", name="Weights").click()
    # By the keys: ten steps of 0.1 up, and fifteen down from 2.
    _press(page.get_by_role("slider", name="Weight of the image"), "ArrowRight", 10)
    _press(page.get_by_role("slider", name="Weight of the text"), "ArrowLeft", 15)
    _press(page.get_by_role("slider", name="Images to show"), "ArrowLeft", 7)
    page.get_by_role("button", name="Search", exact=True).click()

    query = Query(
        "a red circle", Upload(content), "a green star", image_weight=2.0, text_weight=0.5
    )
    hits = service.search(query, top=5)
    figures = page.locator("#found figure")
    expect(figures).to_have_count(5)
    for figure, hit in zip(figures.all(), hits, strict=True):
        expect(figure).to_contain_text(f"cosine {hit.cosine:.3f}")
        expect(figure).to_contain_text(hit.texts[0])


def _press(slider: Locator, key: str, times: int) -> None:
    for _ in range(times):
        before = slider.input_value()
        slider.press(key)
        try:
            expect(slider).not_to_have_value(before)
        except AssertionError:
            # The page drew itself anew meanwhile, and the key was lost.
            slider.press(key)
            expect(slider).not_to_have_value(before)


def test_several_images_are_compared_with_several_texts(visit: Visit, service: Service) -> None:
    page = visit.page
    open_tab(page, "Compare")
    page.get_by_label("Texts").fill("\n".join(LABELS))
    upload(page, ("mine.png", IMAGE), ("other.png", OTHER))
    expect(page.locator("#compared .matrix").first.locator("tbody tr")).to_have_count(2)

    images = [opened(IMAGE), opened(OTHER)]
    for name in service.names:
        model = dual_encoder(service, name)
        cosines = model.encode_images(images) @ model.encode_text(model.tokenizer(LABELS)).T
        for row, expected in zip(matrix_of(page, name), cosines.tolist(), strict=True):
            assert row == pytest.approx(expected, abs=1e-5)

    page.get_by_label("probabilities").check()
    expect(page.locator("#compared td").filter(has_text="%").first).to_be_visible()
    wanted = dual_encoder(service, "small").similarity(images, LABELS).softmax(dim=1)
    for row, expected in zip(matrix_of(page, "small"), wanted.tolist(), strict=True):
        assert row == pytest.approx(expected, abs=1e-5)


def test_the_keyboard_alone_chooses_an_example(visit: Visit) -> None:
    page = visit.page
    example = page.locator(".picker-examples:visible button").first
    page.locator(".picker-choose:visible").focus()
    # Past the camera's button, to the first example.
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(example).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#classified .bars").first).to_be_visible()


def test_the_camera_gives_an_image(visit: Visit) -> None:
    page = visit.page
    page.get_by_role("button", name="Camera").first.click()
    page.wait_for_function("document.querySelector('.picker-video').videoWidth > 0")
    page.get_by_role("button", name="Take it").first.click()
    expect(page.locator("#classified .bars").first).to_be_visible()
    expect(page.get_by_role("button", name="Remove camera")).to_be_visible()


def test_every_field_has_a_label(visit: Visit) -> None:
    for tab in ("Classify", "Search", "Compare"):
        open_tab(visit.page, tab)
        unnamed = visit.page.evaluate(
            """() => [...document.querySelectorAll("input, textarea, button, select")]
                .filter((field) => field.offsetParent !== null)
                .filter((field) => !(field.labels?.length || field.ariaLabel || field.title
                    || field.textContent.trim()
                    || field.querySelector("img[alt]:not([alt=''])")))
                .map((field) => field.outerHTML.slice(0, 200))"""
        )
        assert unnamed == []


@pytest.mark.parametrize("width", [420, 1280])
def test_the_page_fits_the_window(visit: Visit, width: int) -> None:
    visit.page.set_viewport_size({"width": width, "height": 900})
    upload(visit.page, ("mine.png", IMAGE))
    visit.page.get_by_label("Labels").fill("a label that is as long as a caption may be\na dog")
    expect(visit.page.locator("#classified .bars").first).to_contain_text("a dog")
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    visit.page.set_viewport_size({"width": 1280, "height": 900})
