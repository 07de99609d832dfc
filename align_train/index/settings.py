"""The settings that a collection of embeddings was made with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from align_train.errors import UserError, one_line
from align_train.index.identity import Identity

SETTINGS_NAME = "collection.json"

PRECISIONS = ("float16", "float32")


@dataclass(frozen=True)
class Settings:
    """The settings that a folder was made with: the content of `collection.json`.

    Attributes:
        model: The model's path or name.
        identity: What the embeddings depend on.
        shards: The shards, as `data.shards` takes them; or a folder of image files.
        caption: Where the texts lie, as `data.caption` says it; `[]`: images alone.
        manifest: The manifest's hash.
        counts: Images of each shard.
        dim: Numbers of an embedding.
        precision: `float16` or `float32`, on disk.
        plain: Whether `shards` is a folder of image files.
        image: As `data.image`.
        keys: As `data.keys`.
    """

    model: str
    identity: Identity
    shards: str | list[str]
    caption: str | list[str]
    manifest: str
    counts: list[int]
    dim: int
    precision: str
    # Collections of before these settings existed recorded none of them.
    image: str | None = None
    keys: str | None = None
    plain: bool = False

    @classmethod
    def read(cls, file: Path) -> Settings:
        """Reads `collection.json`.

        Args:
            file: The file.

        Returns:
            The settings.

        Raises:
            UserError: It cannot be read, or was not written by `embed`.
        """
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            # Keys that are missing or unknown are a TypeError of the constructor.
            settings = cls(**content | {"identity": Identity.read(content.get("identity"))})
            settings._check()
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"{file}: cannot be read ({one_line(error, 100)}); remove the folder and embed "
                f"again"
            ) from None
        return settings

    def _check(self) -> None:
        captions = self.caption if isinstance(self.caption, list) else [self.caption]
        texts = (self.model, *captions, self.manifest, self.precision)
        numbers = (self.dim, *self.counts)
        # JSON gives any types, and a dataclass does not check its own.
        right_types = all(isinstance(text, str) for text in texts) and all(
            isinstance(number, int) for number in numbers
        )
        if not right_types:
            raise ValueError("other types than it is written with")
        if not self.counts or self.precision not in PRECISIONS:
            raise ValueError("no counts, or an unknown precision")


def refuse_absent_collection(path: Path) -> None:
    """Refuses a folder that holds no collection.

    Args:
        path: The folder.

    Raises:
        UserError: It has no `collection.json`.
    """
    if (path / SETTINGS_NAME).is_file():
        return
    # Nobody can embed into the folder of a model, so the usual advice would lead nowhere.
    if (path / "config.yaml").is_file() or (path / "config.json").is_file():
        raise UserError(
            f"{path}: a model's folder; expected a collection, which "
            f"align-train embed model={path} shards=… to=… makes"
        )
    raise UserError(
        f"{path}: no {SETTINGS_NAME} there; make it with "
        f"align-train embed model=… shards=… to={path}"
    )
