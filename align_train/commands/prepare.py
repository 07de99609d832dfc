from __future__ import annotations

import os
import shutil
from typing import Any

import torch
from omegaconf import OmegaConf

from align_train.cluster import launcher
from align_train.config.components import build
from align_train.errors import UserError
from align_train.model import Classifier, DualEncoder
from align_train.pretrained.open import open_pretrained
from align_train.pretrained.pretrained import Pretrained, without_pretrained
from align_train.stream.classes import ClassList
from align_train.stream.datamodule import PairsDataModule
from align_train.stream.tokenizer import Tokenizer


def prepare_data(config: Any, *, progress: bool) -> PairsDataModule:
    """Makes what `make` describes (the demo's shards), then opens the shards."""
    if config.make is not None:
        build(config.make)
    data: PairsDataModule = build(config.data, progress=progress, accept=list(config.accept))
    return data


def build_model(
    config: Any, data: PairsDataModule, *, begun: bool = False
) -> tuple[DualEncoder | Classifier, str]:
    """The configured model, the same on every rank, and what it begins with: nothing, or of `initial_weights`; where the run
    has begun, a checkpoint will bring them. Its vocabulary is the tokenizer's unless set, its classes are the data's."""
    torch.manual_seed(config.seed)
    settings: Any = OmegaConf.to_container(config.model, resolve=True)
    node = _sized(settings, data.vocabulary)
    start = config.initial_weights
    model: DualEncoder | Classifier = build(
        without_pretrained(node) if begun or start is not None else node
    )
    if begun or start is None:
        return model, ""
    return model, f"{_begin_with(open_pretrained(start), model, data)} of {start}"


def _sized(node: dict[str, Any], vocabulary: Tokenizer | ClassList) -> dict[str, Any]:
    """A model's node with the number of tokens, or of classes, that the data has."""
    if isinstance(vocabulary, ClassList):
        found, known = node.get("classes"), len(vocabulary.names)
        if found not in (None, known):
            raise UserError(
                f"model.classes={found}: data.classes={vocabulary.source} has {known}; set it to null"
            )
        return node | {"classes": known}
    known = vocabulary.vocabulary_size
    size = node.get("vocabulary_size") or known
    if size < known:
        raise UserError(
            f"model.vocabulary_size={size}: the tokenizer {vocabulary.path} has {known} tokens; set it to null or more"
        )
    return node | {"vocabulary_size": size}


def _begin_with(found: Pretrained, model: DualEncoder | Classifier, data: PairsDataModule) -> str:
    """Gives a model the weights of another, trained with the same tokens; or a classifier the image tower of any, and the
    linear layer too of one with the same classes. Returns what it was given."""
    if isinstance(data.vocabulary, ClassList):
        assert isinstance(model, Classifier)
        if found.classes is not None and ClassList(found.classes).names == data.vocabulary.names:
            found.fill(model)
            return "the weights"
        found.fill_image_tower(model)
        return "the image tower"
    if found.tokenizer is not None:
        theirs = Tokenizer(found.tokenizer, max_tokens=data.vocabulary.max_tokens)
        if theirs.tokenizer.get_vocab() != data.vocabulary.tokenizer.get_vocab():
            raise UserError(
                f"data.tokenizer={data.vocabulary.path}: gives other tokens than {found.path} was trained with; "
                f"set data.tokenizer={found.tokenizer}"
            )
    found.fill(model)
    return "the weights"


def check_hardware(config: Any) -> None:
    """After paths, before anything is built."""
    if config.trainer.accelerator == "gpu":
        found = torch.cuda.device_count()
        if found < config.trainer.devices:
            asked = f"trainer.devices={config.trainer.devices}"
            fix = launcher.current().more_gpus(config.trainer.devices)
            raise UserError(f"{asked}: {found} GPUs found here; {fix}")
    elif config.compile and not shutil.which(os.environ.get("CXX", "g++")):
        raise UserError(
            "compile=true: torch.compile wants a C++ compiler on CPUs; install g++, or leave it out"
        )


def check_processes(config: Any) -> None:
    """What started this process must have started as many as the settings say."""
    wanted = config.trainer.nodes * config.trainer.devices
    asked = f"trainer.nodes={config.trainer.nodes} x trainer.devices={config.trainer.devices}"
    started = launcher.current()
    if not started.started_all and config.trainer.nodes > 1:
        raise UserError(
            f"{asked}: nobody has started processes on other machines; submit launch/train.sbatch to Slurm, or run "
            f"launch/torchrun.sh on each (dry_run=true only prints the summary)"
        )
    if started.started_all and started.world_size != wanted:
        raise UserError(
            f"{asked}: {started.name} has started {started.world_size} processes; "
            f"trainer=multinode reads their number from it"
        )
