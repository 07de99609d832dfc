"""Weights from files and from the Hugging Face hub, into a module of the same shape.

Files are safetensors, or PyTorch's older pickles read as weights only: nothing in them is run.
Memory: tensors stay in the file until they are used.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from align_train.errors import UserError, one_line
from align_train.files import is_missing_path, nearest_path

WEIGHTS = "model.safetensors"
_INDEX = f"{WEIGHTS}.index.json"  # of weights in several files
_PICKLED = "pytorch_model.bin"
# `config.yaml` is of our own format.
_DESCRIBING = ["*.json", "*.txt", "config.yaml"]
_FETCHED = [*_DESCRIBING, "*.safetensors"]


def find(path: str, *, wanted: str, weights: bool = True) -> Path:
    """A folder or file here, or else one of the hub's, fetched into its cache.

    Args:
        path: A path, or a name on the Hugging Face hub.
        wanted: What it should be, for errors.
        weights: False: its small files will do, so that no more of the hub's is fetched.

    Returns:
        Where it lies.

    Raises:
        UserError: It is neither here nor on the hub.
    """
    local = Path(path).expanduser()
    if local.exists():
        return local
    if is_missing_path(path):
        raise UserError(f"{path}: no such folder{nearest_path(path)}; expected {wanted}")

    from huggingface_hub import snapshot_download  # only if the hub is asked

    try:
        fetched = _FETCHED if weights else _DESCRIBING
        folder = Path(snapshot_download(path, allow_patterns=fetched))
        # Old models have nothing else (openai/clip-vit-base-patch32). Others have safetensors of
        # open_clip's names alone, which `read` does not take: so the names count, not the suffix.
        if weights and not any((folder / name).is_file() for name in (WEIGHTS, _INDEX)):
            snapshot_download(path, allow_patterns=[_PICKLED])
        return folder
    except Exception as error:  # offline, no such name, no right to read it: each its own type
        raise UserError(
            f"{path}: neither a folder here nor reachable on the Hugging Face hub "
            f"({type(error).__name__}); expected {wanted}"
        ) from None


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, or of the weights in a folder, by name.

    Raises:
        UserError: There are no weights, or they cannot be read.
    """
    if path.is_file():
        return _read_file(path)
    if (path / WEIGHTS).is_file():
        return _read_file(path / WEIGHTS)
    if (path / _INDEX).is_file():
        return _read_indexed(path)
    if (path / _PICKLED).is_file():
        return _read_file(path / _PICKLED)
    raise UserError(f"{path}: no {WEIGHTS} there (nor {_INDEX}, nor {_PICKLED})")


def _read_indexed(folder: Path) -> dict[str, Tensor]:
    try:
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        files = sorted(set(index["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{folder / _INDEX}: expected JSON with a weight_map") from None

    tensors: dict[str, Tensor] = {}
    for file in files:
        # The name only: an index must not lead out of its folder.
        tensors.update(_read_file(folder / Path(file).name))
    return tensors


def _read_file(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            with safe_open(str(file), framework="pt") as opened:
                names = opened.keys()
                return {name: opened.get_tensor(name) for name in names}

        # Weights only: a pickle from elsewhere could run anything.
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        tensors: dict[str, Tensor] = {}
        for name, value in dict(loaded).items():
            if isinstance(value, Tensor):
                tensors[str(name)] = value
        return tensors
    except (OSError, SafetensorError) as error:
        reason = one_line(error, 120)
        raise UserError(
            f"{file}: cannot be read ({reason}); is it whole? fetch or export it again"
        ) from None
    except Exception as error:  # torch raises many kinds for torn or foreign files
        raise UserError(
            f"{file}: not a file of weights ({type(error).__name__}); expected {WEIGHTS}"
        ) from None


def fill(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    source: str,
    names: Mapping[str, str] | None = None,
    ignore: Iterable[str] = (),
) -> None:
    """Gives a module all its tensors.

    Args:
        module: The module.
        tensors: By name. A single number fits a tensor of shape `[1]`.
        source: What errors begin with.
        names: The module's names -> names in `tensors`, for those that differ; None: none does.
        ignore: Tensors that may be left over.

    Raises:
        UserError: A tensor is missing, left over or of another shape; it names the first one.
    """
    # All names and shapes are compared first: a module is filled whole or not at all.
    state = module.state_dict()
    theirs = {name: (names or {}).get(name, name) for name in state}

    missing = [name for name in theirs.values() if name not in tensors]
    if missing:
        raise UserError(
            f"{source}: no tensor {missing[0]}{_and(len(missing) - 1)}; "
            f"it is not a model of this kind, or not whole"
        )

    left_over = sorted(set(tensors) - set(theirs.values()) - set(ignore))
    if left_over:
        raise UserError(
            f"{source}: tensor {left_over[0]}{_and(len(left_over) - 1)} has no place in this model"
        )

    filled = {}
    for name, expected in state.items():
        tensor = tensors[theirs[name]]
        # Hugging Face's ALIGN has a temperature without dimensions; ours has shape `[1]`.
        both_single = tensor.numel() == expected.numel() == 1
        if tensor.shape != expected.shape and not both_single:
            raise UserError(
                f"{source}: tensor {theirs[name]} has shape {list(tensor.shape)}, "
                f"where this model has {list(expected.shape)}"
            )
        filled[name] = tensor.reshape(expected.shape)
    module.load_state_dict(filled)


def _and(more: int) -> str:
    return f" (and {more} others)" if more else ""
