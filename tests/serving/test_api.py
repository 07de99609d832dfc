"""The HTTP interface on a real server: the numbers of `load`, and whatever is wrong is one line."""

from __future__ import annotations

import copy
import gzip
import io
import json
import pickle
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

import align_train
from align_train.index.collection import Collection
from align_train.index.settings import Settings
from align_train.pretrained.identity import identity_of
from align_train.pretrained.load import TrainedModel
from align_train.serving.batching import Batching
from align_train.serving.limits import Limits
from align_train.serving.searched import Searched
from align_train.serving.served import AnyModel
from align_train.serving.service import Service
from tests.support.clip_folders import make_siglip
from tests.support.images import encoded, picture
from tests.support.serving import CLASSES, base64_of, claiming, classifier_of, post, raw, serving

NEAR = 1e-5
JSON = "application/json"
LABELS = ["a red circle", "two green stars", "a heart"]
TOKEN = "a-secret-of-the-test"


def png(label: int) -> str:
    return base64_of(encoded(picture(label), "PNG"))


GOOD = png(0)


@pytest.fixture(scope="module")
def model(trained: Path) -> TrainedModel:
    return align_train.load(str(trained))


@pytest.fixture(scope="module")
def client(model: TrainedModel) -> Iterator[httpx.Client]:
    with serving(Service({"run": model}, steps={"run": 12})) as client:
        yield client


def test_answers_are_the_numbers_of_load(client: httpx.Client, model: TrainedModel) -> None:
    images = [picture(label) for label in range(3)]
    files = [png(0), f"data:image/png;base64,{png(1)}", png(2)]
    logits = model.similarity(images, LABELS)

    answer = client.post("/classify", json={"images": files, "labels": LABELS}).json()
    assert (answer["model"], answer["kind"], answer["note"]) == ("run", "softmax", None)
    for one, row in zip(answer["images"], logits.softmax(dim=1), strict=True):
        scores = dict(zip(one["labels"], one["scores"], strict=True))
        assert [scores[label] for label in LABELS] == pytest.approx(row.tolist(), abs=NEAR)
        assert one["scores"] == sorted(one["scores"], reverse=True)
    best = client.post("/classify", json={"images": files, "labels": LABELS, "top": 1}).json()
    assert [len(one["labels"]) for one in best["images"]] == [1, 1, 1]

    answer = client.post("/embed", json={"images": files, "texts": LABELS}).json()
    with torch.inference_mode():
        texts = model.encode_text(model.tokenizer(LABELS)).numpy()
        np.testing.assert_allclose(answer["images"], model.encode_images(images), atol=NEAR)
    np.testing.assert_allclose(answer["texts"], texts, atol=NEAR)
    assert answer["dim"] == texts.shape[1]

    answer = client.post("/similarity", json={"images": files, "texts": LABELS}).json()
    np.testing.assert_allclose(answer["logits"], logits, atol=1e-4)


def test_models_health_metrics_and_openapi(client: httpx.Client, model: TrainedModel) -> None:
    (about,) = client.get("/models").json()["models"]
    assert about["name"] == "run" and about["kind"] == "dual_encoder" and about["step"] == 12
    assert about["scores"] == "softmax" and about["temperature"] == model.temperature
    # Where the model lies is nobody's business.
    assert "/" not in json.dumps(about)

    well = {"status": "ok", "models": {"run": {"images": "ok", "texts": "ok"}}}
    for path in ("/health", "/ready"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()) == (200, well)

    client.post("/classify", json={"images": [GOOD], "labels": LABELS})
    client.get("/a-stranger's-path")
    figures = client.get("/metrics").text
    assert 'align_requests_total{path="/classify",status="200"}' in figures
    assert 'align_requests_total{path="other",status="404"}' in figures
    assert 'align_batch_items_count{model="run",tower="images"}' in figures
    assert "stranger" not in figures

    paths = client.get("/openapi.json").json()["paths"]
    assert {"/embed", "/classify", "/similarity", "/search", "/models", "/health"} <= set(paths)


HOSTILE = {
    "nothing": (b"", 422, "the body: Field required"),
    "no JSON": (b"{", 400, "the body is no JSON"),
    "a pickle": (pickle.dumps({"images": [GOOD]}), 400, "the body is no JSON"),
    "NaN": (b'{"images": [NaN]}', 400, "NaN is no number"),
    "Infinity": (b'{"images": [-Infinity]}', 400, "-Infinity is no number"),
    "nested": (b"[" * 200_000, 400, "nested too deeply"),
    "values": (b"[" + b"[]," * 600_000 + b"[]]", 413, "too many values"),
    "a list": (b"[1, 2]", 422, "the body: "),
    "keys": (b"{%s}" % b",".join(b'"k%d":1' % n for n in range(99_999)), 422, "99,999 keys"),
    "digits": (b"9" * 10_000, 400, "the body is no JSON"),
    "misspelt": ({"imgs": [GOOD]}, 422, "images: Field required"),
    "unknown key": ({"images": [GOOD], "labels": ["a"], "path": "/etc"}, 422, "path: no such key"),
    "a number": ({"images": [GOOD, 5], "labels": ["a"]}, 422, "images[1]: "),
    "no base64": ({"images": [GOOD, "/etc/passwd"], "labels": ["a"]}, 422, "images[1]: /etc"),
    "a URL": ({"images": ["http://x/y.png"], "labels": ["a"]}, 422, "images[0]: http"),
    "no image": ({"images": [base64_of(b"x" * 99)], "labels": ["a"]}, 422, "images[0]: not an im"),
    "pickle in": (
        {"images": [GOOD] * 3 + [base64_of(pickle.dumps([1]))], "labels": ["a"]},
        422,
        "images[3]: not an image of a known kind",
    ),
    "svg": ({"images": [base64_of(b"<svg/>")], "labels": ["a"]}, 422, "images[0]: not an image"),
    "pdf": ({"images": [base64_of(b"%PDF-1.7")], "labels": ["a"]}, 422, "images[0]: not an image"),
    "eps": ({"images": [base64_of(b"%!PS-Adobe")], "labels": ["a"]}, 422, "images[0]: not an im"),
    "no images": ({"images": [], "labels": ["a"]}, 422, "images: none given"),
    "no labels": ({"images": [GOOD]}, 422, "labels: none given"),
    "labels": ({"images": [GOOD], "labels": ["a"] * 10_000}, 413, "labels: 10000 of them"),
    "images": ({"images": [GOOD] * 65, "labels": ["a"]}, 413, "images: 65 of them"),
    "length": ({"images": [GOOD], "labels": ["a", "b" * 2001]}, 413, "labels[1]: 2001 characters"),
    "surrogate": (b'{"images": ["%s"], "labels": ["\\ud800"]}' % GOOD.encode(), 422, "labels[0]: "),
    "a template": (
        {"images": [GOOD], "labels": ["a"], "templates": ["{0.__class__}"]},
        422,
        "templates[0]: {0.__class__}",
    ),
    "a file": (
        {"images": [GOOD], "labels": ["a"], "templates": "/etc/passwd"},
        422,
        "templates=/etc/passwd: no such set",
    ),
    "templates": ({"images": [GOOD], "labels": ["a"], "templates": 3}, 422, "templates: expected"),
    "model": ({"model": "../x", "images": [GOOD], "labels": ["a"]}, 404, "model=../x: no such"),
    "top": ({"images": [GOOD], "labels": ["a"], "top": 0}, 422, "top: "),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_body_is_one_line(case: str, client: httpx.Client) -> None:
    body, status, words = HOSTILE[case]
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = post(client, "/classify", sent)
    assert answer.status_code == status, answer.text
    (line,) = answer.json().values()
    assert words in line and "\n" not in line and len(line) < 400


def test_bytes_that_are_packed_or_too_many_are_never_read(client: httpx.Client) -> None:
    packed = gzip.compress(json.dumps({"images": [GOOD], "labels": ["a"]}).encode())
    for encoding in ("gzip", "deflate", "br", "gzip, gzip"):
        answer = post(client, "/classify", packed, **{"content-encoding": encoding})
        assert answer.status_code == 415 and "Content-Encoding" in answer.json()["error"]
    for kind in ("text/plain", "multipart/form-data; boundary=x", "application/octet-stream"):
        answer = post(client, "/classify", b"{}", **{"content-type": kind})
        assert answer.status_code == 415 and "Content-Type" in answer.json()["error"]

    # By what it claims, and without a claim by what comes.
    head = b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    said = raw(client, head + b"Content-Length: 99999999999\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 413 ") and b"more than 16,000,000 bytes" in said

    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 1_000_000

    # The answer may come before the pipe breaks, or not.
    with suppress(httpx.HTTPError):
        answered = client.post("/embed", content=endless(), headers={"content-type": JSON})
        assert answered.status_code == 413
    assert client.post("/embed", json={"texts": ["a"]}).status_code == 200


def test_images_that_claim_too_much_are_refused_before_memory_is_taken(
    client: httpx.Client,
) -> None:
    bomb = claiming(20_000, 20_000)
    assert len(bomb) < 41_000
    for data, words in (
        (bomb, "decompression bomb"),
        (claiming(8000, 8000), "at most 32,000,000 pixels"),
        (claiming(60_000, 60_000), "decompression bomb"),
    ):
        question = {"images": [GOOD, base64_of(data)], "labels": LABELS}
        answer = client.post("/classify", json=question)
        assert answer.status_code == 422 and answer.json()["error"].startswith("images[1]: ")
        assert words in answer.json()["error"]


@pytest.mark.parametrize(
    "path",
    [
        "/image/..%2f..%2fetc%2fpasswd",
        "/image/%2e%2e/%2e%2e/etc/passwd",
        "/image//etc/passwd",
        "/image/-1",
        "/image/1.5",
        f"/image/{'9' * 5000}",
        "/image/%D9%A3",
        "/file=/etc/passwd",
        "/static/../../../etc/passwd",
        "/image/0",
    ],
)
def test_no_path_names_a_file(path: str, client: httpx.Client) -> None:
    answer = raw(client, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 404 ") and b"root:" not in answer


def test_a_foreign_name_of_this_machine_is_refused(model: TrainedModel) -> None:
    """A page of evil.example whose address becomes 127.0.0.1 reads nothing (DNS rebinding)."""
    body = b'{"texts": ["a"]}'
    head = f"POST /embed HTTP/1.1\r\nContent-Type: {JSON}\r\nContent-Length: {len(body)}\r\n"
    with serving(Service({"run": model}), is_local=True) as client:
        names = {
            "evil.example": 403,
            "evil.example:80": 403,
            "localhost.evil.example": 403,
            "127.0.0.1.evil.example": 403,
            "localhost": 200,
            "demo.localhost:8000": 200,
            "127.0.0.1:1": 200,
            "[::1]:8000": 200,
        }
        for name, status in names.items():
            sent = f"{head}Connection: close\r\nHost: {name}\r\n\r\n".encode() + body
            assert raw(client, sent).startswith(f"HTTP/1.1 {status} ".encode()), name
        # Load balancers ask under names of their own.
        assert client.get("/health", headers={"host": "evil.example"}).status_code == 200


def test_docs_load_nothing_from_elsewhere(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.status_code == 200 and "//" not in page.text and "<script" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for words in ("POST /classify", "GET /image/{index}", "image_weight", "list of string"):
        assert words in page.text


def test_many_large_images_are_given_up_in_time(model: TrainedModel) -> None:
    batching = Batching(answer_seconds=0.2)
    large = base64_of(encoded(Image.new("L", (2000, 2000)), "PNG"))
    with serving(Service({"run": model}, batching=batching)) as client:
        answer = client.post("/embed", json={"images": [large] * 64})
        assert answer.status_code == 503 and answer.json()["error"].startswith("images[")
        assert client.post("/embed", json={"texts": ["a"]}).status_code == 200


def test_slow_clients_are_given_up(model: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("align_train.serving.connections.HEADER_SECONDS", 0.3)
    head = b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with serving(Service({"run": model}), Limits(receive_seconds=0.3)) as client:
        # Nothing at all, half of the headers, and half of the body.
        assert raw(client, b"") == b""
        assert raw(client, head[:20]) == b""
        answer = raw(client, head + b"Content-Length: 100\r\n\r\n{")
        assert answer.startswith(b"HTTP/1.1 408 ") and b"more than 0.3 s" in answer
        assert client.post("/embed", json={"texts": ["a"]}).status_code == 200


def test_who_goes_away_leaves_nothing(client: httpx.Client) -> None:
    body = json.dumps({"images": [GOOD] * 31, "labels": LABELS}).encode()
    head = b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    whole = head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
    before = threading.active_count()
    for size in (len(head), len(whole) - 10, len(whole)):
        with pytest.raises(TimeoutError):
            raw(client, whole[:size], seconds=0.001)
    assert client.post("/embed", json={"images": [GOOD]}).status_code == 200
    assert client.get("/health").json()["status"] == "ok"
    # Those that were whole are still embedded, for nobody.
    while 'align_waiting_items{model="run",tower="images"} 0.0' not in client.get("/metrics").text:
        pass
    assert threading.active_count() <= before + 8


def test_a_defect_is_counted_as_500(model: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service({"run": model})
    with serving(service) as client:
        monkeypatch.setattr(service, "similarity", None)
        question = {"images": [GOOD], "texts": ["a"]}
        assert client.post("/similarity", json=question).status_code == 500
        # On a connection of its own: the server closes the other one after a defect.
        figures = httpx.get(f"{client.base_url}/metrics").text
    assert 'align_requests_total{path="/similarity",status="500"} 1.0' in figures


def test_a_token_is_asked_for_and_never_shown(
    model: TrainedModel, capfd: pytest.CaptureFixture[str]
) -> None:
    question = {"texts": ["a"]}
    with serving(Service({"run": model}), token=TOKEN) as client:
        for headers in ({}, {"authorization": "Bearer other"}, {"authorization": "Basic !!"}):
            answer = client.post("/embed", json=question, headers=headers)
            assert answer.status_code == 401 and "www-authenticate" in answer.headers
            assert TOKEN not in answer.text
        bearer = {"authorization": f"Bearer {TOKEN}"}
        assert client.post("/embed", json=question, headers=bearer).status_code == 200
        assert client.post("/embed", json=question, auth=("me", TOKEN)).status_code == 200
        assert client.get("/metrics").status_code == client.get("/docs").status_code == 401
        assert client.get("/health").status_code == 200
    out, err = capfd.readouterr()
    assert TOKEN not in out + err


def test_rates_and_crowds_are_told_to_come_again(model: TrainedModel) -> None:
    with serving(Service({"run": model}), Limits(rate=1)) as client:
        codes = [client.post("/embed", json={"texts": ["a"]}) for _ in range(5)]
        assert [answer.status_code for answer in codes][:2] == [200, 200]
        assert codes[-1].status_code == 429 and codes[-1].headers["retry-after"] == "1"
        assert client.get("/health").status_code == 200

    service = Service({"run": model}, batching=Batching(chunk_size=2, most_waiting=2, wait_ms=0))
    go = threading.Event()
    passes = service.served["run"].images._embed

    def waiting(items: list[Any]) -> Any:
        assert go.wait(30)
        return passes(items)

    service.served["run"].images._embed = waiting
    question = {"images": [GOOD]}
    with serving(service, Limits(rate=None, max_requests=4)) as client:
        with ThreadPoolExecutor(8) as clients:
            answers = [clients.submit(client.post, "/embed", json=question) for _ in range(8)]
            done = [answer for answer in answers if _ends(answer)]
            # One in the pass, two in the queue, one too many there; four too many in all.
            assert client.get("/health").status_code == 200
            go.set()
        assert len(done) >= 4
        assert sorted({answer.result().status_code for answer in answers}) == [200, 503]
        refused = [answer.result() for answer in done]
        assert all(answer.headers["retry-after"] == "1" for answer in refused)
        assert client.post("/embed", json=question).status_code == 200


def _ends(answer: Any) -> bool:
    try:
        answer.result(0.5)
    except TimeoutError:
        return False
    return True


def test_health_says_which_thread_is_stuck(model: TrainedModel) -> None:
    service = Service({"run": model}, batching=Batching(answer_seconds=0.3))
    go = threading.Event()

    def hang(items: list[str]) -> Any:
        go.wait(30)
        raise RuntimeError("late")

    texts = service.served["run"].texts
    assert texts is not None
    texts._embed = hang
    with serving(service) as client:
        answer = client.post("/embed", json={"texts": ["a"]})
        assert answer.status_code == 503 and "texts[0]: no answer in time" in answer.text
        # The pass began some milliseconds after the question.
        while (health := client.get("/health")).status_code == 200:
            pass
        assert health.status_code == 503
        assert health.json()["models"] == {"run": {"images": "ok", "texts": "stuck"}}
        # The other tower answers.
        assert client.post("/embed", json={"images": [GOOD]}).status_code == 200
        go.set()


def test_one_odd_image_among_31_good_ones(client: httpx.Client, model: TrainedModel) -> None:
    """Requests share a batch: the odd one's gets its error, the others their numbers."""
    odd = base64_of(encoded(picture(0), "JPEG")[:200])
    expected = model.encode_images([picture(label) for label in range(31)]).numpy()

    def ask(number: int) -> httpx.Response:
        return client.post("/embed", json={"images": [odd if number == 31 else png(number)]})

    with ThreadPoolExecutor(32) as clients:
        answers = list(clients.map(ask, range(32)))
    assert answers[31].status_code == 422 and answers[31].json()["error"].startswith("images[0]: ")
    rows = [answer.json()["images"][0] for answer in answers[:31]]
    np.testing.assert_allclose(rows, expected, atol=NEAR)


def test_a_sigmoid_model_and_a_classifier_score_as_they_were_trained(
    model: TrainedModel, tmp_path: Path
) -> None:
    make_siglip(tmp_path / "siglip")
    sigmoid = align_train.load(str(tmp_path / "siglip"))
    classifier = align_train.load_classifier(str(classifier_of(model, tmp_path / "classes")))
    image = picture(3)
    models: dict[str, AnyModel] = {"siglip": sigmoid, "classes": classifier}
    with serving(Service(models)) as client:
        for labels in (LABELS, LABELS[:1]):
            question: dict[str, Any] = {"images": [png(3)], "labels": labels}
            answer = client.post("/classify", json=question).json()
            found = answer["images"][0]
            scores = dict(zip(found["labels"], found["scores"], strict=True))
            expected = sigmoid.similarity([image], labels)[0].sigmoid().tolist()
            assert answer["kind"] == "sigmoid"
            assert [scores[label] for label in labels] == pytest.approx(expected, abs=NEAR)

        one: dict[str, Any] = {"model": "classes", "images": [png(3)]}
        answer = client.post("/classify", json=one).json()
        expected = classifier.classify([image])[0]
        found = answer["images"][0]
        assert found["labels"] == [name for name, _ in expected]
        assert found["scores"] == pytest.approx([score for _, score in expected], abs=NEAR)
        assert set(found["labels"]) == set(CLASSES) and found["cosines"] == []

        for path, question, words in (
            ("/classify", one | {"labels": ["a"]}, "classes is a classifier with classes of its"),
            ("/embed", {"model": "classes", "texts": ["a"]}, "which takes no texts"),
            ("/embed", one, "which has no embeddings"),
            ("/similarity", one | {"texts": ["a"]}, "which has no embeddings"),
        ):
            answered = client.post(path, json=question)
            assert answered.status_code == 422 and words in answered.json()["error"]
        kinds = [about["kind"] for about in client.get("/models").json()["models"]]
        assert kinds == ["dual_encoder", "classifier"]


def test_one_label_of_a_softmax_model_says_why_it_has_a_cosine(client: httpx.Client) -> None:
    answer = client.post("/classify", json={"images": [GOOD], "labels": ["a heart"]}).json()
    assert answer["kind"] == "cosine" and answer["note"].startswith("one label alone")
    assert answer["images"][0]["scores"] == answer["images"][0]["cosines"]


@pytest.fixture(scope="module")
def searching(
    model: TrainedModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[httpx.Client, Collection]]:
    """A collection of 40 images; the files of the last five are gone."""
    embedded = model.encode_images([picture(label) for label in range(40)]).numpy()
    settings = Settings(
        "m", identity_of(model), "s", "txt", "i", [40], embedded.shape[1], "float32"
    )
    collection = Collection.begin(tmp_path_factory.mktemp("searching") / "index", settings)
    about = [{"key": f"k{row}", "texts": [f"text {row}"], "source": ""} for row in range(40)]
    collection.write(0, embedded, about)

    def read(image: int) -> bytes:
        if image >= 35:
            raise OSError("/secret/place/shard.tar: gone")
        return encoded(picture(image), "PNG")

    searched = Searched(collection, model="run", read_image=read, approximate_from=1000)
    with serving(Service({"run": model}, searched=searched)) as client:
        yield client, collection


def test_a_search_finds_what_the_collection_finds(
    searching: tuple[httpx.Client, Collection], model: TrainedModel
) -> None:
    client, collection = searching
    image = model.encode_images([picture(3)])[0]
    text, away = model.encode_text(model.tokenizer(["red", "a star"])).unbind()
    for question, query in (
        ({"text": "red"}, text),
        ({"image": png(3)}, image),
        ({"text": "red", "image": png(3)}, image + 2 * text),
        ({"image": png(3), "away": "a star", "away_weight": 0.5}, image - 0.5 * away),
    ):
        answer = client.post("/search", json=question | {"top": 7}).json()
        expected = collection.search(normalize(query, dim=0), 7)
        assert [hit["index"] for hit in answer["hits"]] == [match.image for match in expected]
        cosines = [hit["cosine"] for hit in answer["hits"]]
        assert cosines == pytest.approx([match.cosine for match in expected], abs=NEAR)
    (hit,) = client.post("/search", json={"image": png(3), "top": 1}).json()["hits"]
    assert (hit["key"], hit["texts"], hit["image"]) == ("k3", ["text 3"], "/image/3")


def test_hits_are_shown_by_index_alone(
    searching: tuple[httpx.Client, Collection], capfd: pytest.CaptureFixture[str]
) -> None:
    client, _ = searching
    answer = client.get("/image/3")
    assert answer.headers["content-type"] == "image/jpeg"
    shown = Image.open(io.BytesIO(answer.content))
    assert shown.format == "JPEG" and shown.size == picture(3).size
    for path, words in (
        ("/image/40", "the collection has 40 images"),
        ("/image/99999999999999999999", "expected an index"),
        ("/image/35", "image 35: cannot be read any more"),
        ("/image/k3", "image k3: expected an index"),
    ):
        answer = client.get(path)
        assert answer.status_code == 404 and words in answer.json()["error"]
        assert "secret" not in answer.text
    # Whoever runs the server reads why.
    assert "/secret/place" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ({}, "give a text, an image, or both"),
        ({"away": "red"}, "give a text, an image, or both"),
        ({"text": "red", "top": 101}, "top=101: expected at most 100"),
        ({"text": "red", "text_weight": -1}, "text_weight: "),
        ({"text": "red", "text_weight": 0}, "cancel out"),
        ({"text": "red", "away": "red", "away_weight": 2}, "cancel out"),
        ({"text": "red", "text_weight": "2"}, "text_weight: "),
        ({"text": "x" * 2001}, "text: 2001 characters"),
        ({"image": "/etc/passwd"}, "image: /etc/passwd: not base64"),
        ({"text": "red", "index": "/etc"}, "index: no such key"),
    ],
)
def test_a_search_that_cannot_be_is_one_line(
    question: dict[str, Any], words: str, searching: tuple[httpx.Client, Collection]
) -> None:
    answer = searching[0].post("/search", json=question)
    assert 400 <= answer.status_code < 500 and words in answer.json()["error"]


def test_broken_weights_are_an_error_of_the_item_and_not_of_the_server(
    model: TrainedModel,
) -> None:
    broken = copy.deepcopy(model)
    next(broken.model.text_tower.parameters()).fill_(torch.nan)
    with serving(Service({"run": broken})) as client:
        answer = client.post("/embed", json={"texts": ["a", "b"]})
        assert answer.status_code == 422
        assert answer.json()["error"] == "texts[0]: the model gives numbers that are not finite"
        assert client.post("/embed", json={"images": [GOOD]}).status_code == 200


@pytest.mark.long
def test_32_clients_at_once_get_the_numbers_of_load(
    client: httpx.Client, model: TrainedModel
) -> None:
    """50 requests each, of 1 to 5 turned JPEGs and 1 to 5 texts of 1 to 64 words."""
    exif = Image.Exif()
    exif[0x0112] = 6
    files = [encoded(picture(n).resize((40, 30)), "JPEG", exif=exif) for n in range(36)]
    texts = ["red " * length for length in range(1, 65)]
    turned = [Image.open(io.BytesIO(file)) for file in files]
    with torch.inference_mode():
        of_images = np.stack([model.encode_images([image]).numpy()[0] for image in turned])
        of_texts = np.stack([model.encode_text(model.tokenizer([t])).numpy()[0] for t in texts])

    def ask(number: int) -> float:
        random = np.random.default_rng(number)
        chosen = random.integers(0, len(files), random.integers(1, 6))
        words = random.integers(0, len(texts), random.integers(1, 6))
        question = {
            "images": [base64_of(files[index]) for index in chosen],
            "texts": [texts[index] for index in words],
        }
        answer = client.post("/embed", json=question)
        assert answer.status_code == 200, answer.text
        rows = answer.json()
        return max(
            float(np.abs(np.array(rows["images"]) - of_images[chosen]).max()),
            float(np.abs(np.array(rows["texts"]) - of_texts[words]).max()),
        )

    begun = time.monotonic()
    with ThreadPoolExecutor(32) as clients:
        differences = list(clients.map(ask, range(32 * 50)))
    print(f"{len(differences)} requests in {time.monotonic() - begun:.0f} s")
    assert max(differences) < NEAR
