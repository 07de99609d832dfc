"""Trained models behind an HTTP interface and on a page, until a signal comes.

What was loaded stays: a run that goes on while it is served changes nothing, and `/models` says
which step it is. Requests that have begun when a signal comes are answered.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from align_train.cluster import interruption
from align_train.commands.devices import device_of
from align_train.commands.early_serving import (
    is_loopback,
    listening,
    look_before_serving,
    paths_of,
    token_of,
)
from align_train.commands.hit_images import HitImages, difference
from align_train.config.serve_schema import ServeSettings
from align_train.errors import UserError, printable
from align_train.index.collection import Collection
from align_train.pretrained.load import TrainedClassifier, TrainedModel
from align_train.pretrained.open import open_pretrained
from align_train.serving.api import make_app
from align_train.serving.batching import Batching
from align_train.serving.connections import Bounded
from align_train.serving.limits import Limits
from align_train.serving.page import mount
from align_train.serving.searched import Searched
from align_train.serving.served import AnyModel
from align_train.serving.service import Service
from align_train.serving.uploads import limit_pillow
from align_train.shards.left_out import counted
from align_train.stream.decode import Views
from align_train.stream.shard_cache import shard_cache_of

_LEFT = "requests that had begun were answered"

# Seconds that requests have to end after a signal. The page's connections never end by themselves.
_TO_END = 10

_ANY_VIEWS = Views(image_size=1, resize_size=1)


@dataclass(frozen=True)
class _Loaded:
    model: AnyModel
    step: int | None
    path: str


class _Server(uvicorn.Server):
    """uvicorn's server, which ends by this project's signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the handlers as they are: see `cluster/interruption.py`."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Ends once a signal has come."""
        return await super().on_tick(counter) or interruption.received() != 0


def serve(settings: ServeSettings) -> None:
    """Serves: `python -m align_train.serve`.

    Args:
        settings: The command's settings.

    Raises:
        UserError: A setting, a model or the collection is not as expected.
        Interrupted: A signal came, and what had begun has been answered.
    """
    look_before_serving(settings)
    # First: nobody should wait for large models to hear that the port is taken.
    with contextlib.closing(listening(settings)) as taken:
        loaded = _load(settings)
        limits = _limits(settings)
        service = Service(
            {name: one.model for name, one in loaded.items()},
            steps={name: one.step for name, one in loaded.items()},
            searched=_open_collection(settings, loaded),
            batching=Batching(
                chunk_size=settings.chunk_size,
                wait_ms=settings.wait_ms,
                most_waiting=settings.most_waiting,
                answer_seconds=settings.answer_seconds,
            ),
            max_pixels=settings.max_pixels,
        )
        # Pillow has one limit for the whole process.
        limit_pillow(settings.max_pixels)
        token = token_of(settings)
        # A token cannot be guessed, and a proxy may have any name.
        is_local = is_loopback(settings.host) and token is None and settings.proxy is None
        app = make_app(service, limits, token=token, is_local=is_local)
        mount(app, service, limits)

        _say(settings, service, taken, has_token=token is not None)
        _run(app, settings, taken)
        service.close()
    interruption.raise_if_received()


def _run(app: FastAPI, settings: ServeSettings, taken: socket.socket) -> None:
    config = uvicorn.Config(
        app,
        http=Bounded,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=settings.proxy is not None,
        forwarded_allow_ips=settings.proxy,
        timeout_graceful_shutdown=_TO_END,
    )
    interruption.leave(_LEFT)
    # From here on a signal is only noted: `on_tick` asks for it.
    interruption.defer()
    try:
        _Server(config).run(sockets=[taken])
    finally:
        interruption.defer(False)


def _load(settings: ServeSettings) -> dict[str, _Loaded]:
    """The models by unique names, in the settings' order."""
    device = device_of(settings.device)
    loaded: dict[str, _Loaded] = {}
    for path in paths_of(settings):
        pretrained = open_pretrained(path)
        if pretrained.run is not None and pretrained.checkpoint is None:
            # Of a run that goes on, `last` may move while the weights are read.
            last = pretrained.run.last_checkpoint()
            named = pretrained.name
            pretrained = replace(pretrained, checkpoint=last)
        else:
            named = pretrained.name

        kind = TrainedClassifier if pretrained.is_classifier else TrainedModel
        model = kind(pretrained).to(device)
        loaded[_unique(named, loaded)] = _Loaded(model, pretrained.step, path)
    return loaded


def _unique(name: str, taken: dict[str, _Loaded]) -> str:
    number = 2
    unique = name
    while unique in taken:
        unique = f"{name}-{number}"
        number += 1
    return unique


def _open_collection(settings: ServeSettings, loaded: dict[str, _Loaded]) -> Searched | None:
    """The collection, with the first model that it may have been made with."""
    if settings.index is None:
        return None
    collection = Collection.open(Path(settings.index).expanduser().absolute())
    changes = {}
    for name, one in loaded.items():
        if not isinstance(one.model, TrainedModel):
            changes[one.path] = "a classifier"
            continue
        changes[one.path] = difference(collection, one.model)
        if changes[one.path]:
            continue
        cache = shard_cache_of(None, settings.storage_options)
        images = HitImages(collection, views=_ANY_VIEWS, cache=cache)
        return Searched(
            collection,
            model=name,
            read_image=images.read,
            approximate_from=settings.approximate_from,
        )

    reasons = ", ".join(f"{path} ({why})" for path, why in changes.items())
    raise UserError(
        f"index={settings.index}: made with another model than {reasons}; add "
        f"model={collection.settings.model}, or embed again"
    )


def _limits(settings: ServeSettings) -> Limits:
    return Limits(
        max_bytes=settings.max_bytes,
        max_pixels=settings.max_pixels,
        max_images=settings.max_images,
        max_texts=settings.max_texts,
        max_characters=settings.max_characters,
        max_top=settings.max_top,
        max_requests=settings.max_requests,
        rate=settings.rate,
        receive_seconds=settings.receive_seconds,
    )


def _say(
    settings: ServeSettings, service: Service, taken: socket.socket, *, has_token: bool
) -> None:
    # In a URL an IPv6 address stands in brackets. Only the socket knows what port=0 became.
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"http://{host}:{taken.getsockname()[1]}"
    for name, served in service.served.items():
        step = "" if served.step is None else f", step {served.step:,}"
        kind = "classifier" if served.is_classifier else f"{served.kind} over labels"
        print(f"{printable(name)}: {kind}{step}, {served.model.device}")
    if service.searched is not None:
        images = counted(len(service.searched), "image")
        print(f"{settings.index}: {images}, searched by {printable(service.searched.model)}")
    rate = "any rate" if settings.rate is None else f"{settings.rate:g} requests/s"
    print(
        f"limits: {settings.max_bytes:,} bytes, {settings.max_images} images of "
        f"{settings.max_pixels:,} pixels, {settings.max_texts:,} texts, {rate} an address; "
        f"{'with' if has_token else 'no'} token"
    )
    if not has_token and not is_loopback(settings.host):
        print(f"host={settings.host}: anybody who reaches this machine can ask; give token_from=…")
    print(f"{address}  (API: {address}/docs)", flush=True)
