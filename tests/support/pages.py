"""The web page in this process, over a small model and a small collection."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from playwright.sync_api import Page

from align_train.index.collection import Collection
from align_train.index.settings import Settings
from align_train.pretrained.identity import identity_of
from align_train.pretrained.load import TrainedModel
from align_train.serving.limits import Limits
from align_train.serving.page import mount
from align_train.serving.searched import Searched
from align_train.serving.service import Service
from tests.support.images import encoded, picture
from tests.support.ports import free_port

LIMITS = Limits(max_bytes=500_000)  # an image of 300 kB, as text, and 100 kB beside it


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """Serves an app; gives its address."""
    import uvicorn

    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        server.force_exit = True
        thread.join()


@contextmanager
def page_of(service: Service) -> Iterator[str]:
    """Serves the page alone; gives the server's address."""
    with listening(mount(FastAPI(), service, LIMITS)) as url:
        yield url
    service.close()


def collection_of(model: TrainedModel, folder: Path, *, name: str, count: int = 24) -> Searched:
    """Drawn images of as many classes, embedded, under captions that mark them."""
    files = [encoded(picture(label), "PNG") for label in range(count)]
    rows = model.encode_images([picture(label) for label in range(count)]).numpy()
    settings = Settings("m", identity_of(model), "s", "txt", "i", [count], rows.shape[1], "float32")
    collection = Collection.begin(folder, settings)
    about: list[dict[str, Any]] = [
        {"key": f"{label:03d}", "texts": [f"caption {label} <b>"]} for label in range(count)
    ]
    collection.write(0, rows, about)
    return Searched(
        collection, model=name, read_image=lambda index: files[index], approximate_from=10**9
    )


def dual_encoder(service: Service, name: str) -> TrainedModel:
    """A model of a service that is no classifier."""
    model = service.models[name]
    assert isinstance(model, TrainedModel)
    return model


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def upload(page: Page, *files: tuple[str, bytes]) -> None:
    """Chooses files in the field of the open tab."""
    payloads = [{"name": name, "mimeType": "", "buffer": content} for name, content in files]
    shown = page.locator(".picker:visible .picker-input")
    shown.set_input_files(payloads)  # type: ignore[arg-type]


def scores(page: Page, model: str) -> dict[str, float]:
    """The bars of a model: label -> score."""
    column = page.get_by_role("region", name=model, exact=True).first
    bars = column.locator(".bars li")
    bars.first.wait_for()
    return {
        bar.locator(".label").inner_text(): float(bar.get_attribute("data-score") or "nan")
        for bar in bars.all()
    }


def matrix_of(page: Page, model: str) -> list[list[float]]:
    """The numbers of a model's matrix: `[images, texts]`."""
    column = page.locator("#compared").get_by_role("region", name=model, exact=True)
    column.locator("td[data-number]").first.wait_for()
    return [
        [float(cell.get_attribute("data-number") or "nan") for cell in row.locator("td").all()]
        for row in column.locator("tbody tr").all()
    ]
