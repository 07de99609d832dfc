"""A real server of uvicorn in a thread of the test, and the questions that a client asks."""

from __future__ import annotations

import base64
import json
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import torch
import uvicorn
from safetensors.torch import save_file

from align_train.pretrained.load import TrainedModel
from align_train.serving.api import make_app
from align_train.serving.connections import Bounded
from align_train.serving.limits import Limits
from align_train.serving.service import Service
from tests.support.ports import free_port

CLASSES = ("circle", "star", "heart")


@contextmanager
def serving(
    service: Service,
    limits: Limits | None = None,
    *,
    token: str | None = None,
    is_local: bool = False,
) -> Iterator[httpx.Client]:
    """A client of a server that answers with this service."""
    app = make_app(service, limits or Limits(rate=None), token=token, is_local=is_local)
    port = free_port()
    config = uvicorn.Config(app, port=port, http=Bounded, ws="none", log_level="critical")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(30)
        service.close()


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def claiming(width: int, height: int) -> bytes:
    """A PNG of some 40 kB that claims to have so many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(40_000_000), 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def post(client: httpx.Client, path: str, body: bytes, **headers: str) -> httpx.Response:
    """Sends bytes that claim to be JSON."""
    return client.post(path, content=body, headers={"content-type": "application/json"} | headers)


def raw(client: httpx.Client, data: bytes, *, seconds: float = 10) -> bytes:
    """What the server says to these bytes until it closes the connection."""
    url = client.base_url
    with socket.create_connection((url.host, url.port or 0), timeout=seconds) as connection:
        connection.sendall(data)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer


def classifier_of(model: TrainedModel, folder: Path) -> Path:
    """A classifier of three classes with a model's image tower and a random linear layer."""
    node: dict[str, Any] = {
        "_target_": "align_train.model.Classifier",
        "image_tower": model.node["image_tower"],
        "classes": len(CLASSES),
        "image_size": model.node["image_size"],
        "resize_size": model.node["resize_size"],
    }
    folder.mkdir()
    # JSON is YAML.
    (folder / "config.yaml").write_text(json.dumps({"model": node}))
    (folder / "classes.json").write_text(json.dumps({"names": CLASSES}))

    tower = model.model.image_tower
    random = torch.Generator().manual_seed(0)
    weights = {f"image_tower.{name}": value for name, value in tower.state_dict().items()}
    weights["head.weight"] = torch.randn(len(CLASSES), tower.dim, generator=random)
    weights["head.bias"] = torch.randn(len(CLASSES), generator=random)
    save_file(
        {name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors"
    )
    return folder
