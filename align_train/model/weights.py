"""Files of weights that come from outside: found, read without unpickling, and matched with a module tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from align_train.errors import UserError

WEIGHTS = "model.safetensors"


_INDEX = f"{WEIGHTS}.index.json"  # of weights in several files


_PICKLED = "pytorch_model.bin"  # the older format, read as weights only: nothing in it is run


def find(path: str, *, wanted: str) -> Path:
    """A folder or file here, or else a name on the Hugging Face hub, fetched into its cache. wanted: what it should be."""
    local = Path(path).expanduser()
    if local.exists():
        return local
    if path.count("/") > 1 or path.startswith((".", "/", "~")):
        raise UserError(f"{path}: no such folder; expected {wanted}")
    from huggingface_hub import snapshot_download  # only where the hub is asked

    try:
        return Path(snapshot_download(path, allow_patterns=["*.json", "*.safetensors", "*.txt"]))
    except Exception as error:  # offline, no such name, no right to read it: each its own type
        raise UserError(
            f"{path}: neither a folder here nor reachable on the Hugging Face hub ({type(error).__name__}); expected {wanted}"
        ) from None


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, or of the weights in a folder, by name. Memory: they stay in the file until they are used."""
    if path.is_file():
        return _read_file(path)
    if (path / WEIGHTS).is_file():
        return _read_file(path / WEIGHTS)
    if (path / _INDEX).is_file():
        try:
            files = sorted(
                set(json.loads((path / _INDEX).read_text(encoding="utf-8"))["weight_map"].values())
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{path / _INDEX}: expected JSON with a weight_map") from None
        return {
            name: tensor
            for file in files
            for name, tensor in _read_file(path / Path(file).name).items()
        }
    if (path / _PICKLED).is_file():
        return _read_file(path / _PICKLED)
    raise UserError(f"{path}: no {WEIGHTS} there (nor {_INDEX}, nor {_PICKLED})")


def _read_file(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            with safe_open(str(file), framework="pt") as tensors:
                return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118 - it is no dict
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        return {
            str(name): tensor for name, tensor in dict(found).items() if isinstance(tensor, Tensor)
        }
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:120]
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
    """Gives a module all its tensors; UserError that names the first one which is missing, left over or of another shape.

    names: what the module's tensors are called in `tensors`, where they are called otherwise. ignore: tensors that may be left
    over. A single number fits `[1]`.
    """
    state = module.state_dict()
    called = {name: (names or {}).get(name, name) for name in state}
    missing = [theirs for theirs in called.values() if theirs not in tensors]
    if missing:
        raise UserError(
            f"{source}: no tensor {missing[0]}{_and(len(missing) - 1)}; it is not a model of this kind, or not whole"
        )
    left_over = sorted(set(tensors) - set(called.values()) - set(ignore))
    if left_over:
        raise UserError(
            f"{source}: tensor {left_over[0]}{_and(len(left_over) - 1)} has no place in this model"
        )
    for name, theirs in called.items():
        found, wanted = tensors[theirs], state[name]
        if found.shape != wanted.shape and not found.numel() == wanted.numel() == 1:
            raise UserError(
                f"{source}: tensor {theirs} has shape {list(found.shape)}, where this model has {list(wanted.shape)}"
            )
    module.load_state_dict(
        {name: tensors[theirs].reshape(state[name].shape) for name, theirs in called.items()}
    )


def _and(more: int) -> str:
    return f" (and {more} others)" if more else ""
