"""A folder of embedded pictures: `collection.json`, and for each shard `00000.npy` (`[pairs, dim]`, memory-mapped) and
`00000.jsonl` (key and texts of each row; why, for a picture that cannot be decoded: its row is zeros).

A shard's files appear whole, the embeddings last: what has them is done. Price of a search: one pass over the files, a block of
16,384 rows at a time; with faiss (from a million pictures on, say) a fraction of it, for an index in memory of dim + 8 bytes a
picture and a little recall.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from align_train.errors import UserError
from align_train.evals.knn import nearest
from align_train.files import write_whole
from align_train.shards.manifest import place_in

PRECISIONS = ("float16", "float32")


_ABOUT = "collection.json"


_INDEX = "index.faiss"


_BLOCK = 16_384


_TRAINED_ON = 64  # pictures a cell, to place the cells of an index


_PROBED = 64  # cells that a query looks into


_SAME = {
    "weights": "another model",
    "identity": "other shards",
    "counts": "other shards",
    "caption": "another caption",
    "precision": "another precision",
}


_COMPARED = 4  # times as many as are asked for


@dataclass(frozen=True)
class Settings:
    """What the folder was made with. weights: a hash of the model's; identity, counts: of the shards."""

    model: str
    weights: str
    shards: Any
    caption: str
    identity: str
    counts: list[int]
    dim: int
    precision: str


class Collection:
    """Of pictures by number, in the order of the shards. Rows are L2-normalised."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path, self.settings = path, settings
        self.ends = np.cumsum(settings.counts)

    def __len__(self) -> int:
        return int(self.ends[-1])

    @staticmethod
    def begin(path: Path, settings: Settings) -> Collection:
        """Makes the folder, or goes on in one; UserError where it was begun with other shards or another model."""
        file = path / _ABOUT
        others = path.exists() and (
            not path.is_dir() or any(not one.name.startswith(".") for one in path.iterdir())
        )
        if file.exists():  # asked last: another process may just have made it
            found = _read(file)
            for name, told in _SAME.items():
                if getattr(found, name) != getattr(settings, name):
                    raise UserError(
                        f"{path}: was begun with {told}; restore it, choose another folder, or remove this one"
                    )
            return Collection(path, found)
        if others:
            raise UserError(f"{path}: exists and holds no embeddings; choose another folder")
        _write(file, json.dumps(asdict(settings), indent=1))
        return Collection(path, settings)

    @staticmethod
    def open(path: Path) -> Collection:
        """A whole one; UserError where shards are missing."""
        if not (path / _ABOUT).is_file():
            raise UserError(
                f"{path}: no {_ABOUT} there; make it with python -m align_train.embed model=… shards=… to={path}"
            )
        found = Collection(path, _read(path / _ABOUT))
        left = [shard for shard in range(len(found.settings.counts)) if not found.has(shard)]
        if left:
            raise UserError(
                f"{path}: {len(left)} of {len(found.settings.counts)} shards are not embedded yet; run the same "
                f"align_train.embed again"
            )
        return found

    def has(self, shard: int) -> bool:
        return self._file(shard, "npy").is_file() and self._file(shard, "jsonl").is_file()

    def write(
        self, shard: int, embeddings: NDArray[np.float32], about: list[dict[str, Any]]
    ) -> None:
        """embeddings: `[pairs, dim]`; about: of each row its key and texts."""
        _write(self._file(shard, "jsonl"), "".join(json.dumps(row) + "\n" for row in about))
        rows = io.BytesIO()
        np.save(rows, embeddings.astype(self.settings.precision))
        _write(self._file(shard, "npy"), rows.getbuffer())

    def about(self, number: int) -> dict[str, Any]:
        shard, row = self.place(number)
        path = self._file(shard, "jsonl")
        try:
            with path.open(encoding="utf-8") as file:
                found: dict[str, Any] = json.loads(
                    next(line for at, line in enumerate(file) if at == row)
                )
            return {"key": str(found["key"]), "texts": list(found["texts"]), **found}
        except (OSError, ValueError, KeyError, TypeError, StopIteration):
            raise UserError(
                f"{path}: cannot be read; remove it and run the same align_train.embed again"
            ) from None

    def place(self, number: int) -> tuple[int, int]:
        """The shard of a picture, and its row there."""
        return place_in(self.ends, number)

    def search(
        self, query: Tensor, k: int, *, approximate: bool = False
    ) -> list[tuple[int, float]]:
        """Numbers and cosines of the k nearest pictures of `[dim]`, nearest first; those that cannot be decoded are none."""
        if approximate:  # its scores are of 8 bits: the best of some more are compared as they are
            _, numbers = self._index().search(query[None].numpy(), _COMPARED * k)
            found = [int(number) for number in numbers[0] if number >= 0]
            exact = [(number, float(self._row(number) @ query)) for number in found]
            return sorted(exact, key=lambda one: (-one[1], one[0]))[:k]
        best: list[tuple[float, int]] = []
        for first, block in self._blocks():
            there = (block != 0).any(dim=1).nonzero()[:, 0]
            if len(there):
                scores, rows = nearest(query[None], block[there], min(k, len(there)))
                best += zip(scores[0].tolist(), (-(first + there[rows[0]])).tolist(), strict=True)
                best = sorted(best, reverse=True)[:k]
        return [(-number, score) for score, number in best]

    def _blocks(self) -> Iterator[tuple[int, Tensor]]:
        """The number of the first row, and `[rows, dim]` float32."""
        first = 0
        for shard, count in enumerate(self.settings.counts):
            rows = self._open(shard)
            for start in range(0, count, _BLOCK):
                block = torch.from_numpy(rows[start : start + _BLOCK].astype(np.float32))
                if not block.isfinite().all():
                    raise UserError(
                        f"{self._file(shard, 'npy')}: holds what is no number; remove it and run align_train.embed again"
                    )
                yield first + start, block
            first += count

    def _row(self, number: int) -> Tensor:
        shard, row = self.place(number)
        return torch.from_numpy(self._open(shard)[row].astype(np.float32))

    def _open(self, shard: int) -> NDArray[Any]:
        file = self._file(shard, "npy")
        try:
            rows: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            reason = " ".join(str(error).split())[:100]
            raise UserError(
                f"{file}: cannot be read ({reason}); remove it and run the same align_train.embed again"
            ) from None
        if (
            rows.shape != (self.settings.counts[shard], self.settings.dim)
            or rows.dtype != self.settings.precision
        ):
            raise UserError(
                f"{file}: {rows.shape} of {rows.dtype} is not what {_ABOUT} says; remove it and run align_train.embed again"
            )
        return rows

    def _file(self, shard: int, kind: str) -> Path:
        return self.path / f"{shard:05d}.{kind}"

    def _index(self) -> Any:
        """The faiss index, made where it is missing: cells of an inverted file, rows in 8 bits a number."""
        try:
            import faiss
        except ImportError:
            raise UserError(
                f"{len(self):,} pictures want faiss (approximate_from): pip install 'align_train[search]', or compare all of "
                f"them with approximate_from={len(self) + 1}"
            ) from None
        file = self.path / _INDEX
        if not file.is_file():
            _write(file, faiss.serialize_index(self._build(faiss)).data)
        try:
            index = faiss.read_index(str(file))
            faiss.extract_index_ivf(index).nprobe = _PROBED
        except RuntimeError:
            raise UserError(f"{file}: no index of faiss; remove it, and it is made anew") from None
        return index

    def _build(self, faiss: Any) -> Any:
        cells = max(1, min(4 * int(len(self) ** 0.5), len(self) // _TRAINED_ON))
        index = faiss.index_factory(
            self.settings.dim, f"IVF{cells},SQ8", faiss.METRIC_INNER_PRODUCT
        )
        wanted = min(len(self), cells * _TRAINED_ON)
        chosen = np.linspace(0, len(self) - 1, wanted).astype(np.int64)
        sample = [
            block[chosen[(chosen >= first) & (chosen < first + len(block))] - first]
            for first, block in self._blocks()
        ]
        index.train(torch.cat(sample).numpy())
        with tqdm(total=len(self), desc="indexing", unit="picture", leave=False) as bar:
            for first, block in self._blocks():
                there = (block != 0).any(dim=1).nonzero()[:, 0]
                index.add_with_ids(block[there].numpy(), (first + there).numpy())
                bar.update(len(block))
        return index


def _write(path: Path, content: Any) -> None:
    write_whole(path, content, fix="free some space or mend its rights, and run the command again")


def _read(file: Path) -> Settings:
    try:
        content: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        found = Settings(**content)
        texts = (found.model, found.weights, found.caption, found.identity, found.precision)
        numbers = (found.dim, *found.counts)
        if not all(isinstance(text, str) for text in texts) or not all(
            isinstance(number, int) for number in numbers
        ):
            raise ValueError("other types than it is written with")
        if not found.counts or found.precision not in PRECISIONS:
            raise ValueError("no counts, or an unknown precision")
        return found
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{file}: cannot be read ({str(error)[:100]}); remove the folder and embed again"
        ) from None
