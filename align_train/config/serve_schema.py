"""The typed settings of `python -m align_train.serve`."""

from __future__ import annotations

from dataclasses import dataclass, field

from align_train.config.field_marks import FREE_KEYS, TEXTS, Paths
from align_train.config.schema import OptionalNode


@dataclass
class ServeSettings:
    """The root of `python -m align_train.serve`."""

    model: Paths = field(metadata=TEXTS)
    """A run's folder, one of its checkpoints, an exported one, or Hugging Face's ALIGN, CLIP or
    SigLIP; or a list of these."""

    index: str | None
    """The folder that `align_train.embed` made, which `/search` searches; null: none."""

    host: str
    """The address that the server listens on."""

    port: int
    """The port; 0: any free one."""

    token_from: str | None
    """The environment variable that holds the token; null: no token is asked for."""

    proxy: str | None
    """The address of the proxy whose `X-Forwarded-For` is believed; null: none is."""

    device: str
    """`cpu`, `cuda`, `cuda:1`, …"""

    chunk_size: int
    """Images, or texts, that go through a tower together."""

    wait_ms: float
    """Milliseconds that an item waits for others of other requests."""

    most_waiting: int
    """Items that may wait for a tower."""

    max_bytes: int
    """Of a request."""

    max_pixels: int
    """Of an image."""

    max_images: int
    """Of a request."""

    max_texts: int
    """Texts, labels or templates of a request."""

    max_characters: int
    """Of a text."""

    max_top: int
    """Hits of a search."""

    max_requests: int
    """Questions that are answered at the same time."""

    rate: float | None
    """Requests a second from one address; null: as many as come."""

    receive_seconds: float
    """Seconds in which a request has to arrive, and its answer to be taken."""

    answer_seconds: float
    """Seconds after which a question is given up, and a forward pass counts as stuck."""

    # The first start with such a collection builds the index, index.faiss.
    approximate_from: int
    """Images from which on faiss searches; a smaller collection is compared as a whole."""

    storage_options: OptionalNode = field(metadata=FREE_KEYS)
    """Options for fsspec, for the shards of the images that are shown."""
