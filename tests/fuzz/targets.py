"""What is tried with the mutants of each kind: a probe that may raise ValueError, nothing else."""

from __future__ import annotations

import tempfile
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import torch
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from align_train.commands.spelled_out import explicit
from align_train.config.check import check
from align_train.config.compose import compose_training
from align_train.config.messages import in_one_line
from align_train.errors import UserError
from align_train.shards.cache import ShardCache
from align_train.shards.caption import CaptionSource
from align_train.shards.manifest import read_manifest
from align_train.shards.members import MemberTable
from align_train.shards.sample import sample
from align_train.shards.shard import ShardReader
from align_train.shards.tar_index import load_index
from align_train.stream.decode import Views, decode, decode_centre
from data.packing.images import ImageFile
from data.packing.write import read_image
from tests.fuzz import corpus
from tests.fuzz.mutate import Corpus

Probe = Callable[[bytes], None]

_VIEWS = Views(image_size=32, resize_size=40, least_scale=0.5)
_CAPTIONS = tuple(map(CaptionSource.parse, ("txt", "json:captions", "json:a.b")))


@dataclass(frozen=True)
class Target:
    """A kind of mutants.

    Attributes:
        corpus: Makes the corpus.
        probe: Takes a mutant. ValueError: it is refused; None: it is accepted.
        of_user: Whether the contract is UserError, a ValueError of one line.
    """

    corpus: Callable[[], Corpus]
    probe: Probe
    of_user: bool = False


def _image(data: bytes) -> None:
    """Training, evaluation and packing each have their say, whatever another one says."""
    path = _folder() / "image"
    path.write_bytes(data)
    view = _VIEWS.draw(Random(len(data)))
    errors: list[ValueError] = []
    ways: tuple[Callable[[], None], ...] = (
        lambda: _check_pixels(decode(data, view, 32)),
        lambda: _check_pixels(decode_centre(data, _VIEWS)),
        lambda: _check_member(*read_image(ImageFile(path.name, path.parent))),
    )
    for way in ways:
        try:
            way()
        except ValueError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _check_pixels(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8


def _check_member(extension: str, content: bytes) -> None:
    assert extension and content


@cache
def _folder() -> Path:
    """A folder of this process, in memory if there is room."""
    memory = Path("/dev/shm")
    name = tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None)
    _KEPT.append(name)
    return Path(name.name)


_KEPT: list[tempfile.TemporaryDirectory[str]] = []  # until the process ends


def _tar(data: bytes) -> None:
    path = _folder() / "a.tar"
    path.write_bytes(data)
    reader = ShardReader(path, _CAPTIONS[0])
    _read_all(reader)
    pairs = MemberTable(reader.index).pairs(_CAPTIONS[1])
    sample(path)
    assert pairs.max(initial=0) < max(1, len(reader.index.names))
    if reader.index.fault:
        raise ValueError(reader.index.fault)


def _read_all(reader: ShardReader) -> None:
    """Reads all that is said to be there. A bad pair is a ValueError, which is no escape."""
    try:
        for pair in range(len(reader)):
            reader.find(reader.key(pair))
            for read in (reader.image, reader.text, reader.json):
                try:
                    read(pair)
                except ValueError:
                    continue
        reader.texts_without_image()
    finally:
        reader.close()


@cache
def _indexed() -> Path:
    """A good tar with its index beside it."""
    path = _folder() / "good.tar"
    path.write_bytes(corpus.tar().originals[0])
    load_index(path)
    return path


@cache
def _index_corpus() -> Corpus:
    path = _indexed()
    index = path.with_name(f".{path.name}.index.npz").read_bytes()
    return Corpus("index", [index], [b"PK\3\4", b"PK\1\2", b"PK\5\6", b"\x93NUMPY", b"'descr': "])


def _index(data: bytes) -> None:
    """A broken index is made anew: the tar reads as before."""
    path = _indexed()
    path.with_name(f".{path.name}.index.npz").write_bytes(data)
    reader = ShardReader(path, _CAPTIONS[0])
    assert len(reader) == 3, f"{len(reader)} pairs"
    _read_all(reader)


def _manifest(data: bytes) -> None:
    path = _folder() / "manifest.jsonl"
    path.write_bytes(data)
    # Without the bits that it names, no manifest with a selection is read at all.
    path.with_suffix(".selection").write_bytes(bytes(4096))
    cache_of = ShardCache(folder=str(_folder() / "cache"))
    manifest = read_manifest(str(path), cache=cache_of)

    # What a run asks of it before it opens a shard.
    assert manifest.pairs == sum(manifest.counts.tolist()) > 0
    assert manifest.bytes >= 0 and manifest.identity
    for shard in manifest.shards:
        shard.name.encode("utf-8", "surrogateescape")
        if shard.selection is not None:
            try:
                shard.selection.read(cache_of)
            except UserError:
                continue


def _caption(data: bytes) -> None:
    errors: list[ValueError] = []
    for caption in _CAPTIONS:
        try:
            texts = caption.read(data)
            assert texts and all(text == text.strip() and text.encode() for text in texts)
        except ValueError as error:
            errors.append(error)
    if len(errors) == len(_CAPTIONS):
        raise errors[0]


def _settings(data: bytes) -> None:
    """Any texts in place of overrides: valid settings, or an error that ends as one line."""
    overrides = data.decode("utf-8", "replace").split("\n")
    try:
        check(compose_training(*overrides, fill_in=explicit))
    except UserError:
        raise
    except (HydraException, OmegaConfBaseException) as error:
        # What `command` prints for these.
        line = in_one_line(error)
        assert line and "Traceback" not in line, repr(line)
        raise UserError(" ".join(line.split())) from None
    except (ValueError, TypeError) as error:
        # `command` takes these for Hydra's own, if they come while Hydra composes.
        last = traceback.extract_tb(error.__traceback__)[-1].filename
        if not any(f"/{package}/" in last for package in ("hydra", "omegaconf", "antlr4")):
            raise TypeError(f"no UserError: {error}") from error
        raise UserError(" ".join(in_one_line(error).split())) from None


TARGETS = {
    "jpeg": Target(corpus.jpeg, _image),
    "png": Target(corpus.png, _image),
    "webp": Target(corpus.webp, _image),
    "others": Target(corpus.others, _image),
    "tar": Target(corpus.tar, _tar),
    "index": Target(_index_corpus, _index),
    "manifest": Target(corpus.manifest, _manifest, of_user=True),
    "caption": Target(corpus.caption, _caption),
    "settings": Target(corpus.settings, _settings),
}


def prepare() -> None:
    """For a process that tries mutants: one thread, and no warnings by the thousand."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
