"""What the page asks and answers, without a browser; and what of Gradio nobody can reach."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import torch
from torch.nn.functional import normalize

from align_train.errors import UserError
from align_train.evals.prompts import read_templates
from align_train.files import cache_folder
from align_train.model import Bias
from align_train.pretrained.load import load, load_classifier
from align_train.serving.page.classify import classified
from align_train.serving.page.compare import compared
from align_train.serving.page.desk import Desk, answering, listed
from align_train.serving.page.drawn import percent
from align_train.serving.page.open_routes import is_open
from align_train.serving.page.picker import sent_images
from align_train.serving.page.search import found
from align_train.serving.service import Service
from tests.support.images import encoded, picture
from tests.support.pages import LIMITS, dual_encoder, page_of
from tests.support.serving import classifier_of

LABELS = "red circle\nblue star\ngreen box"
IMAGE = encoded(picture(9), "PNG")


def sent(*contents: bytes) -> list[dict[str, str]]:
    """A field's value, as the page makes it."""
    urls = [f"data:;base64,{base64.b64encode(content).decode()}" for content in contents]
    return [{"name": f"{index}.png", "data": url} for index, url in enumerate(urls)]


@pytest.fixture(scope="module")
def desk(small_align: Path) -> Iterator[Desk]:
    service = Service({"small": load(str(small_align))})
    yield Desk(service, LIMITS, examples=[], labels=[])
    service.close()


def scores(html: str) -> dict[str, float]:
    """The bars: label -> score."""
    found = re.findall(r'data-score="([^"]+)"><span class="label">([^<]+)<', html)
    return {label: float(score) for score, label in found}


@pytest.mark.parametrize("templates", ["imagenet_simple", ["a photo of a {}", "art of the {}"]])
def test_prompts_are_averaged_for_each_label(desk: Desk, templates: str | list[str]) -> None:
    choice = templates if isinstance(templates, str) else "my own"
    own = "" if isinstance(templates, str) else "\n".join(templates)
    html = classified(desk, sent(IMAGE), LABELS, choice, own, ["small"])

    model = dual_encoder(desk.service, "small")
    rows = []
    for label in LABELS.split("\n"):
        prompts = [template.format(label) for template in read_templates(templates)]
        rows.append(model.encode_text(model.tokenizer(prompts)).mean(dim=0))

    texts = normalize(torch.stack(rows), dim=-1)
    wanted = model.similarity([picture(9)], texts).softmax(dim=1)[0].tolist()
    expected = dict(zip(LABELS.split("\n"), wanted, strict=True))
    assert scores(html) == pytest.approx(expected, abs=1e-5)


def test_a_file_of_the_server_is_no_set_of_prompts(desk: Desk, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("the password is {}")
    with pytest.raises(UserError, match="no such set"):
        classified(desk, sent(IMAGE), LABELS, str(secret), "", ["small"])


def test_one_label_of_a_softmax_model_gives_its_cosine(desk: Desk) -> None:
    html = classified(desk, sent(IMAGE), "red circle", "the label alone", "", ["small"])
    model = dual_encoder(desk.service, "small")
    cosine = model.encode_images([picture(9)]) @ model.encode_text(model.tokenizer("red circle")).T
    assert scores(html) == pytest.approx({"red circle": float(cosine)}, abs=1e-5)
    assert "one label alone" in html
    assert "%</span>" not in html


def test_a_sigmoid_model_gives_each_label_a_probability_of_its_own(small_align: Path) -> None:

    model = load(str(small_align))
    model.model.bias = Bias(initial=-2.0)
    service = Service({"sigmoid": model})
    asking = Desk(service, LIMITS, examples=[], labels=[])
    html = classified(asking, sent(IMAGE), LABELS, "the label alone", "", ["sigmoid"])
    service.close()

    wanted = model.similarity([picture(9)], LABELS.split("\n")).sigmoid()[0].tolist()
    expected = dict(zip(LABELS.split("\n"), wanted, strict=True))
    assert scores(html) == pytest.approx(expected, abs=1e-5)
    assert "a probability of its own" in html


def test_an_error_names_the_file_and_is_one_line(desk: Desk) -> None:
    html = answering(lambda: compared(desk, sent(IMAGE, b"no"), LABELS, "cosines", ["small"]))()
    assert "1.png: " in html
    assert "images[" not in html
    assert 'role="alert"' in html


def test_an_unexpected_error_shows_no_stack_trace() -> None:
    html = answering(lambda: str(1 / 0))()
    assert "The server failed" in html
    assert "ZeroDivision" not in html


def test_limits_are_those_of_the_http_interface(desk: Desk) -> None:
    tight = replace(LIMITS, max_images=1, max_texts=2, max_characters=30)
    asking = replace(desk, limits=tight)
    with pytest.raises(UserError, match="images: 2; at most 1"):
        compared(asking, sent(IMAGE, IMAGE), "a\nb", "cosines", ["small"])
    with pytest.raises(UserError, match="labels: 3 of them; expected at most 2"):
        classified(asking, sent(IMAGE), LABELS, "the label alone", "", ["small"])
    with pytest.raises(UserError, match=r"texts\[1\]: 31 characters"):
        compared(asking, sent(IMAGE), "a\n" + "b" * 31, "cosines", ["small"])
    with pytest.raises(UserError, match="text: 31 characters"):
        found(asking, "", "b" * 31, "", [], 2.0, 1.0, 1.0, 12)


@pytest.mark.parametrize(
    "value",
    [None, "x", [1], [{}], [{"name": 1, "data": "data:"}], [{"name": "a", "data": None}]],
)
def test_a_field_of_another_form_is_refused(value: object) -> None:
    with pytest.raises(UserError, match="as the page sends"):
        sent_images(value)


@pytest.mark.parametrize(
    "data",
    [
        "data:image/png;base64,@@@",
        "data:",
        "/etc/passwd",
        "file:///etc/passwd",
        "http://127.0.0.1/x",
    ],
)
def test_only_a_data_url_is_an_image(desk: Desk, data: str) -> None:
    with pytest.raises(UserError, match=r"a\.png: "):
        desk.images([{"name": "a.png", "data": data}])


def test_a_search_without_a_collection_is_an_error_in_a_line(desk: Desk) -> None:
    html = answering(lambda: found(desk, "", "a cat", "", [], 2.0, 1.0, 1.0, 12))()
    assert "index=" in html


def test_labels_are_lines_or_parts_of_a_single_line() -> None:
    assert listed("a, b ,, c\n") == ["a", "b", "c"]
    assert listed("a, b\n\n c \na, b") == ["a, b", "c"]
    assert listed(" \n") == []


@pytest.mark.parametrize(
    ("share", "spelled"),
    [
        (0.0, "0.0 %"),
        (1e-9, "&lt;0.1 %"),
        (0.123, "12.3 %"),
        (0.9999, "&gt;99.9 %"),
        (1.0, "100.0 %"),
    ],
)
def test_a_small_share_is_not_spelled_as_nothing(share: float, spelled: str) -> None:
    assert percent(share) == spelled


CLOSED = (
    "gradio_api/file=/etc/passwd",
    "gradio_api/file=..%2f..%2f..%2fetc/passwd",
    "gradio_api/file=config.json",
    "gradio_api/file/etc/passwd",
    "file=/etc/passwd",
    "file/etc/passwd",
    "static/..%2f..%2f..%2f..%2fetc/passwd",
    "static/../../../../etc/passwd",
    "assets/..%2findex.html",
    "assets//etc/passwd",
    "svelte/../../x",
    "gradio_api/proxy=http://127.0.0.1/",
    "gradio_api/info",
    "gradio_api/queue/data?session_hash=x",
    "gradio_api/heartbeat/x",
    "gradio_api/upload_progress?upload_id=x",
    "monitoring",
    "gradio_api/token",
    "gradio_api/runs",
)


def test_no_route_of_gradio_gives_a_file_or_takes_one(desk: Desk, tmp_path: Path) -> None:
    with page_of(Service(desk.service.models)) as url, httpx.Client(base_url=url) as client:
        assert client.get("page/").status_code == 200
        for path in CLOSED:
            for address in (url + path, f"{url}page/{path}"):
                answer = client.get(address)
                assert (address, answer.status_code) == (address, 404)

        files = {"files": ("x.png", IMAGE)}
        for path in ("gradio_api/upload", "upload"):
            assert client.post(f"page/{path}", files=files).status_code == 404
        for path in ("gradio_api/queue/join", "gradio_api/component_server", "gradio_api/reset"):
            assert client.post(f"page/{path}", json={}).status_code == 404
        assert client.put("page/gradio_api/run/predict", json={}).status_code == 404


# What Gradio would read, copy or fetch for whoever asks; and what it cannot read at all.
FILE = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
URL = {"path": "http://127.0.0.1:1/x", "url": "http://127.0.0.1:1/x", "meta": FILE["meta"]}
ASKED = {
    "a file": ({"fn_index": 1, "data": [FILE] * 5}, 422, "data[0]: expected texts, numbers or im"),
    "files": ({"fn_index": 1, "data": [[FILE]] * 5}, 422, "data[0]: expected texts, numbers or im"),
    "a URL": ({"fn_index": 1, "data": ["x", URL, 1, 1, 1]}, 422, "data[1]: expected texts"),
    "deep": ({"fn_index": 1, "data": [[[FILE]]] * 5}, 422, "data[0]: expected texts"),
    "beside": (
        {"fn_index": 1, "data": [[{"name": "a", "data": "b"} | FILE]] * 5},
        422,
        "data[0]: expected texts",
    ),
    "function": ({"fn_index": 999, "data": []}, 422, "fn_index=999: no such function"),
    "negative": ({"fn_index": -1, "data": []}, 422, "fn_index=-1: no such function"),
    "true": ({"fn_index": False, "data": []}, 422, "fn_index=False: no such function"),
    "few": ({"fn_index": 1, "data": []}, 422, "data: expected a list of 5 values"),
    "session": (
        {"fn_index": 1, "data": [[], "", "", "", []], "session_hash": "x" * 999},
        422,
        "session_hash: expected at most",
    ),
    "choice": (
        {"fn_index": 1, "data": [[], "a", "no such choice", "", []]},
        422,
        "data: not what the fields",
    ),
    "NaN": (b'{"fn_index": 1, "data": [NaN]}', 400, "NaN is no number"),
    "endless": (b'{"fn_index": 1, "data": [1e400, 1, 1, 1, 1]}', 422, "data[0]: expected a finite"),
    "nested": (b"[" * 200_000, 400, "nested too deeply"),
    "values": (b"[" + b"[]," * 600_000 + b"[]]", 413, "too many values"),
    "no object": (b"[]", 422, "the body: expected an object"),
    "nothing": (b"", 400, "the body is no JSON"),
}


def test_no_question_of_the_page_names_a_file_or_a_url(desk: Desk) -> None:
    before = files_of_gradio()
    service = Service(desk.service.models)
    with page_of(service) as url, httpx.Client(base_url=url, timeout=60) as client:
        for case, (body, status, words) in ASKED.items():
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            headers = {"content-type": "application/json"}
            answer = client.post("page/gradio_api/run/predict", content=content, headers=headers)
            line = answer.json()["error"]
            assert (case, answer.status_code) == (case, status), line
            assert words in line and "/etc/passwd" not in line
    assert files_of_gradio() == before


def files_of_gradio() -> set[Path]:
    return set(cache_folder("gradio").rglob("*"))


def test_only_what_the_page_calls_is_open() -> None:
    assert is_open("GET", "/")
    assert is_open("HEAD", "/config")
    assert is_open("POST", "/gradio_api/run/predict")
    assert not is_open("GET", "/gradio_api/run/predict")
    assert not is_open("POST", "/config")
    assert not is_open("GET", "/assets/../config")


def test_a_classifier_shows_its_own_classes(desk: Desk, tmp_path: Path) -> None:
    folder = classifier_of(dual_encoder(desk.service, "small"), tmp_path / "classes")
    classifier = load_classifier(str(folder))
    asking = replace(desk, service=Service({"classes": classifier}))
    html = classified(asking, sent(IMAGE), LABELS, "the label alone", "", ["classes"])
    asking.service.close()

    assert scores(html) == pytest.approx(dict(classifier.classify([picture(9)])[0]), abs=1e-5)
    assert "its own 3 classes" in html
