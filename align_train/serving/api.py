"""The HTTP interface: JSON in, JSON out, described by OpenAPI at /openapi.json and /docs.

Whatever is wrong with a request is one line, `{"error": "images[3]: …"}`, with a status of 4xx.
Questions are answered by threads, which wait for `batching.py`; health and metrics by the event
loop itself, so that they answer while all threads are busy.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio.to_thread
import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from numpy.typing import NDArray
from starlette.exceptions import HTTPException as StarletteHTTPException

import align_train
from align_train.errors import UserError, printable, shown
from align_train.pretrained.load import TrainedModel
from align_train.serving import questions as q
from align_train.serving.answers import Classified, Query
from align_train.serving.docs_page import DOCS_HEADERS, docs_page
from align_train.serving.guard import Guard, extra_headers
from align_train.serving.limits import Limits
from align_train.serving.metrics import TYPE, Metrics
from align_train.serving.refused import Refused
from align_train.serving.served import Served
from align_train.serving.service import Service

_MOST_DIGITS = 18  # of an index; Python converts no more than some thousand
_SPARE_THREADS = 16  # beside those that answer questions: images of hits, the page

_STATUSES: dict[int | str, dict[str, object]] = {
    code: {"model": q.Problem} for code in (400, 401, 404, 408, 413, 415, 422, 429, 503)
}


def make_app(
    service: Service, limits: Limits, *, token: str | None = None, is_local: bool = False
) -> FastAPI:
    """Makes the application.

    Args:
        service: Answers the questions.
        limits: Of requests.
        token: That requests have to show; None: none.
        is_local: Whether only this machine may ask, under its own names.

    Returns:
        The application, to which a page may be added.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # By default anyio has 40 threads. Each question keeps one until its answer is there.
        threads = anyio.to_thread.current_default_thread_limiter()
        threads.total_tokens = limits.max_requests + _SPARE_THREADS
        yield

    app = FastAPI(
        title="align_train",
        version=align_train.__version__,
        description="Zero-shot classification and search by contrastive models.",
        lifespan=lifespan,
        # FastAPI's own pages load their viewers from elsewhere.
        docs_url=None,
        redoc_url=None,
    )
    # Before any route is added: a route is made with the class that the router has then.
    app.router.route_class = q.StrictRoute
    metrics = Metrics(service)
    app.add_middleware(Guard, limits=limits, metrics=metrics, token=token, is_local=is_local)

    # Starlette takes the nearest class's handler: `Refused` never reaches that of `UserError`.
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(UserError, _broken)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(StarletteHTTPException, _by_status)
    # After its handler Starlette raises a defect again, so uvicorn logs the stack trace.
    app.add_exception_handler(Exception, _defect)

    _add_questions(app, service, limits)
    _add_search(app, service, limits)
    _add_state(app, service, metrics)
    return app


def _add_questions(app: FastAPI, service: Service, limits: Limits) -> None:
    @app.post("/embed", response_model=q.Embeddings, responses=_STATUSES)
    def embed(question: q.EmbedQuestion) -> Response:
        """Embeds images and texts."""
        images = limits.images(question.images)
        texts = limits.texts(question.texts)
        if not images and not texts:
            raise Refused("give images, texts, or both")

        served = service.one(question.model)
        found = {
            "images": _rows(service.embed_images(served.name, images)) if images else [],
            "texts": _rows(service.embed_texts(served.name, texts)) if texts else [],
        }
        return JSONResponse({"model": served.name, "dim": _dim(served), **found})

    @app.post("/classify", response_model=q.Classes, responses=_STATUSES)
    def classify(question: q.ClassifyQuestion) -> Response:
        """Compares each image with all labels."""
        templates = question.templates
        if not isinstance(templates, str):
            templates = limits.texts(templates, "templates")
        answers = service.classify(
            question.model,
            limits.images(question.images),
            limits.texts(question.labels, "labels"),
            templates,
        )
        # Kind and note follow from the model and the number of labels: all images have the same.
        first = answers[0]
        return JSONResponse(
            {
                "model": service.one(question.model).name,
                "kind": first.kind,
                "note": first.note,
                "images": [_highest(answer, question.top) for answer in answers],
            }
        )

    @app.post("/similarity", response_model=q.Matrix, responses=_STATUSES)
    def similarity(question: q.SimilarityQuestion) -> Response:
        """Compares each image with each text."""
        found = service.similarity(
            question.model, limits.images(question.images), limits.texts(question.texts)
        )
        return JSONResponse(
            {
                "model": service.one(question.model).name,
                "kind": found.kind,
                "cosines": _rows(found.cosines),
                "logits": _rows(found.logits),
            }
        )


def _add_search(app: FastAPI, service: Service, limits: Limits) -> None:
    @app.post("/search", response_model=q.Hits, responses=_STATUSES)
    def search(question: q.SearchQuestion) -> Response:
        """Finds the images of the collection nearest to a text, an image, or both."""
        # Not in `SearchQuestion`: the limit is a setting of the server.
        if question.top > limits.max_top:
            raise Refused(f"top={question.top}: expected at most {limits.max_top}", code=413)
        texts = {"text": question.text, "away": question.away}
        checked = {
            of: None if text is None else limits.text(text, of) for of, text in texts.items()
        }
        query = Query(
            checked["text"],
            None if question.image is None else limits.image(question.image),
            checked["away"],
            image_weight=question.image_weight,
            text_weight=question.text_weight,
            away_weight=question.away_weight,
        )
        found = service.search(query, top=question.top)
        assert service.searched is not None
        hits = [
            {
                "index": hit.image,
                "cosine": hit.cosine,
                "key": hit.key,
                "texts": hit.texts,
                "source": hit.source,
                "image": f"/image/{hit.image}",
            }
            for hit in found
        ]
        searched = service.searched
        return JSONResponse(
            {"model": searched.model, "approximately": searched.approximately, "hits": hits}
        )

    @app.get("/image/{index}", response_class=Response, responses=_STATUSES)
    def image(index: str) -> Response:
        """An image of the collection as a small JPEG, by its index."""
        # `isdecimal` alone lets digits of other scripts pass, which `int` would read.
        if not (index.isascii() and index.isdecimal() and len(index) <= _MOST_DIGITS):
            raise Refused(f"image {shown(index)}: expected an index", code=404)
        return Response(service.image(int(index)), media_type="image/jpeg")


def _add_state(app: FastAPI, service: Service, metrics: Metrics) -> None:
    @app.get("/models", response_model=q.Models, responses=_STATUSES)
    async def models() -> Response:
        """The models that are served."""
        return JSONResponse({"models": [_about(service, one) for one in service.served.values()]})

    @app.get("/health", response_model=q.Health)
    async def health() -> Response:
        """Whether all threads that embed do so; 503: one is stuck, or has ended."""
        states = {name: served.states for name, served in service.served.items()}
        is_well = all(state == "ok" for of in states.values() for state in of.values())
        status = {"status": "ok" if is_well else "failing", "models": states}
        return JSONResponse(status, 200 if is_well else 503)

    # Models are loaded before the first connection is taken.
    app.get("/ready", response_model=q.Health)(health)

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(docs_page(app.openapi()), headers=DOCS_HEADERS)

    @app.get("/metrics", response_class=Response)
    async def figures() -> Response:
        """Figures for Prometheus."""
        return Response(metrics.text(), media_type=TYPE)


def _about(service: Service, served: Served) -> dict[str, object]:
    searched = service.searched
    node = served.model.node
    return {
        "name": served.name,
        "kind": "classifier" if served.is_classifier else "dual_encoder",
        "scores": served.kind,
        "step": served.step,
        "dim": _dim(served),
        "image_size": served.model.views.image_size,
        "max_tokens": node.get("max_tokens") if isinstance(served.model, TrainedModel) else None,
        "takes_texts": served.texts is not None,
        "temperature": served.temperature,
        "bias": served.bias,
        "classes": served.classes,
        "collection": len(searched) if searched and searched.model == served.name else None,
    }


def _dim(served: Served) -> int:
    return int(served.model.model.dim)


def _rows(array: NDArray[np.generic]) -> list[list[float]]:
    rows: list[list[float]] = array.tolist()
    return rows


def _highest(answer: Classified, top: int | None) -> dict[str, Sequence[object]]:
    """One image's answer, the highest score first; equal ones in the order of the labels."""
    order = sorted(range(len(answer.labels)), key=lambda index: -answer.scores[index])[:top]
    cosines = answer.cosines
    return {
        "labels": [answer.labels[index] for index in order],
        "scores": [answer.scores[index] for index in order],
        "cosines": [cosines[index] for index in order] if cosines else [],
    }


def _problem(code: int, message: str) -> JSONResponse:
    headers = {name.decode(): value.decode() for name, value in extra_headers(code)}
    return JSONResponse({"error": message}, code, headers=headers)


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return _problem(error.code, str(error))


def _broken(request: Request, error: Exception) -> Response:
    # A file of ours: its line is for whoever runs the server.
    print(f"align_train: {printable(str(error))}", flush=True)
    return _problem(500, "a file of the server cannot be read; its log says which")


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _problem(422, q.first_error(error.errors()))


def _by_status(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException | StarletteHTTPException)
    message = str(error.detail)
    # Starlette's own line is `Not Found` alone.
    if error.status_code == 404:
        message = f"{shown(request.url.path)}: no such path; /docs lists all"
    return _problem(error.status_code, message)


def _defect(request: Request, error: Exception) -> Response:
    # Not the error's own text: it may name a folder of the server.
    return _problem(500, "a defect of the server; its log has more")
