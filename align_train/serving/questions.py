"""The bodies of requests and answers, as OpenAPI shows them, and how a body is read.

A body is JSON of bounded nesting and size, without NaN, of exactly these types. What is wrong with
it becomes one line that begins with the place, `images[3]: …`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, FailFast, Field, PlainValidator, StrictStr

from align_train.errors import shown
from align_train.serving.refused import Refused
from align_train.serving.strict_json import strict_json

_IMAGE = "An image file (JPEG, PNG, WebP, …) in base64, or a `data:` URL."

# FailFast: a thousand errors of a thousand items would be one line all the same.
Images = Annotated[list[StrictStr], FailFast(), Field(description=f"Each: {_IMAGE}")]
Texts = Annotated[list[StrictStr], FailFast()]
Weight = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False, strict=True)]
Name = Annotated[StrictStr | None, Field(description="A name of /models; null: the first.")]


def _templates(value: object) -> object:
    # Not a union: pydantic would collect an error for each item of a wrong list.
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    raise ValueError("expected a list of prompts, or the name of a set")


class _Question(BaseModel):
    # A misspelt field is refused. Ignored, its default would answer another question.
    model_config = ConfigDict(extra="forbid")


class EmbedQuestion(_Question):
    """Images, texts, or both."""

    model: Name = None
    images: Images = []
    texts: Texts = []


class ClassifyQuestion(_Question):
    """Images and the labels to choose from."""

    model: Name = None
    images: Images
    labels: Annotated[Texts, Field(description="None for a classifier.")] = []
    templates: Annotated[
        Any,
        PlainValidator(_templates, json_schema_input_type=str | list[str]),
        Field(description="Prompts with {} for the label, or the name of a set: `imagenet`."),
    ] = ["{}"]
    top: Annotated[int | None, Field(ge=1, strict=True, description="null: all labels.")] = None


class SimilarityQuestion(_Question):
    """Images and texts, each to be compared with each."""

    model: Name = None
    images: Images
    texts: Texts


class SearchQuestion(_Question):
    """A text, an image, or both, and perhaps a text to move away from."""

    text: StrictStr | None = None
    image: Annotated[StrictStr | None, Field(description=_IMAGE)] = None
    away: StrictStr | None = None
    image_weight: Weight = 1.0
    text_weight: Weight = 2.0
    away_weight: Weight = 1.0
    top: Annotated[int, Field(ge=1, strict=True)] = 12


class Embeddings(BaseModel):
    """L2-normalised rows, in the order of the question."""

    model: str
    dim: int
    images: list[list[float]]
    texts: list[list[float]]


class Answer(BaseModel):
    """Scores of one image, the highest first."""

    labels: list[str]
    scores: list[float]
    cosines: Annotated[list[float], Field(description="Empty for a classifier.")]


class Classes(BaseModel):
    """An answer for each image."""

    model: str
    kind: Annotated[str, Field(description="softmax, sigmoid or cosine: what the scores are.")]
    note: str | None
    images: list[Answer]


class Matrix(BaseModel):
    """A row for each image, a column for each text."""

    model: str
    kind: str
    cosines: list[list[float]]
    logits: list[list[float]]


class HitAnswer(BaseModel):
    """An image that a search found."""

    index: int
    cosine: float
    key: str
    texts: list[str]
    source: str
    image: Annotated[str, Field(description="The path of a small JPEG of it.")]


class Hits(BaseModel):
    """The nearest images, nearest first."""

    model: str
    approximately: bool
    hits: list[HitAnswer]


class ModelAnswer(BaseModel):
    """A model that is served."""

    name: str
    kind: Annotated[str, Field(description="dual_encoder or classifier.")]
    scores: Annotated[str, Field(description="softmax or sigmoid.")]
    step: Annotated[int | None, Field(description="Of a run: the step that was loaded.")]
    dim: int
    image_size: int
    max_tokens: int | None
    takes_texts: bool
    temperature: float | None
    bias: float | None
    classes: list[str] | None
    collection: Annotated[int | None, Field(description="Images that /search finds, if any.")]


class Models(BaseModel):
    """All models; the first is asked if a question names none."""

    models: list[ModelAnswer]


class Health(BaseModel):
    """`ok`, or which thread is stuck or has ended."""

    status: str
    models: dict[str, dict[str, str]]


class Problem(BaseModel):
    """Why a request is not answered, in one line."""

    error: str


class StrictRoute(APIRoute):
    """A route that reads its body as this module promises."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[object, None, Response]]:
        """FastAPI's handler, with another reader of JSON."""
        # FastAPI reads a body by `Request.json`, so another class of request brings another reader.
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handler(_StrictRequest(request.scope, request.receive))

        return strict


class _StrictRequest(Request):
    async def json(self) -> object:
        try:
            return strict_json(await self.body())
        except Refused as error:
            # FastAPI lets pass only its own errors here.
            raise HTTPException(error.code, str(error)) from None


def first_error(errors: Sequence[Any]) -> str:
    """The first of pydantic's errors in one line.

    Args:
        errors: As `RequestValidationError.errors()` gives them, at least one.
    """
    error = errors[0]
    # pydantic's own line, "Extra inputs are not permitted", leaves open what to do.
    unknown = error["type"] == "extra_forbidden"
    words = error["loc"][1:]  # the first is `body`
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in words)
    found = error.get("input")
    # Only plain values: for a missing field pydantic gives the whole object around it.
    shows = isinstance(found, str | int | float) and error["type"] != "missing" and not unknown
    suffix = f"; found {shown(found, 40)}" if shows else ""
    own = "no such key; /docs lists all" if unknown else error["msg"]
    reason = shown(own.removeprefix("Value error, "), 120)
    return f"{shown(place.removeprefix('.'), 120) or 'the body'}: {reason}{suffix}"
