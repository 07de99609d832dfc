"""What a run needs before its first step: processes, devices, open data, a model with weights."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping

import torch

from align_train.cluster import launcher
from align_train.commands.adapters import add_lora, spell_lora
from align_train.commands.devices import sees_own_gpu_only
from align_train.config.components import build
from align_train.config.schema import Node, TrainerSettings, TrainSettings
from align_train.errors import UserError, naming, one_line
from align_train.model import TrainableModel
from align_train.model.weights import find
from align_train.pretrained.open import open_pretrained
from align_train.pretrained.origin import origin, spell_origin
from align_train.pretrained.pretrained import Pretrained, tokenizer_of, without_pretrained
from align_train.stream.classes import ClassList
from align_train.stream.datamodule import PairsDataModule
from align_train.stream.tokenizer import Tokenizer
from align_train.stream.vocabulary import check_tokens

_QUOTED = 100  # characters of torch's reason that an error quotes


def check_processes(trainer: TrainerSettings) -> None:
    """Checks that as many processes were started as the settings say.

    Args:
        trainer: The settings of the processes.

    Raises:
        UserError: A launcher has started another number, or none has started those of other
            machines.
    """
    asked = f"trainer.nodes={trainer.nodes} x trainer.devices={trainer.devices}"
    started = launcher.current()
    if not started.started_all and trainer.nodes > 1:
        raise UserError(
            f"{asked}: nobody has started processes on other machines; submit launch/train.sbatch "
            f"to Slurm, or run launch/torchrun.sh on each (dry_run=true only prints the summary)"
        )
    if started.started_all and started.world_size != trainer.processes:
        raise UserError(
            f"{asked}: {started.name} has started {started.world_size} processes; "
            f"trainer=multinode reads their number from it"
        )


def check_hardware(settings: TrainSettings) -> None:
    """Checks this machine's GPUs and driver, or its compiler, before anything is built.

    Args:
        settings: The run's settings.

    Raises:
        UserError: There are fewer GPUs than processes, the driver is too old, or no compiler. A dry
            run needs none of them.
    """
    if settings.dry_run:
        return
    if settings.trainer.on_gpu:
        _check_gpus(settings.trainer.devices)
    # `auto` compiles on GPUs only, so a CPU wants a compiler if it is asked for by name.
    elif settings.compile is True and not shutil.which(os.environ.get("CXX", "g++")):
        raise UserError(
            "compile=true: torch.compile wants a C++ compiler on CPUs; install g++, or leave it out"
        )


def _check_gpus(devices: int) -> None:
    count = torch.cuda.device_count()
    if count < devices and not sees_own_gpu_only(count):
        fix = launcher.current().more_gpus(devices)
        raise UserError(f"trainer.devices={devices}: {count} GPUs found here; {fix}")

    try:
        # The count comes from the driver's tools, which know GPUs that torch cannot use.
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        reason = one_line(error, _QUOTED)
        raise UserError(
            f"trainer.accelerator=gpu: torch {torch.__version__} cannot use the {count} GPUs here "
            f"({reason}); if the driver is too old, install torch from another wheel index, see "
            f"docs/cluster.md"
        ) from None


def prepare_data(
    settings: TrainSettings, revisions: Mapping[str, str], *, progress: bool
) -> PairsDataModule:
    """Opens the data.

    Args:
        settings: The run's settings.
        revisions: Commits of data sets on the hub that the run has used before.
        progress: Whether this process shows progress bars.

    Returns:
        The data module, its shards made (`data.make`) and opened.

    Raises:
        UserError: Shards or tokenizer are missing or broken.
    """
    data: PairsDataModule = build(
        settings.data, revisions=revisions, progress=progress, accept=settings.accept
    )
    return data


def build_model(
    settings: TrainSettings, data: PairsDataModule, *, begun: bool
) -> tuple[TrainableModel, dict[str, str]]:
    """Builds the model, with the same weights on every rank.

    Args:
        settings: The run's settings.
        data: Gives the size of the vocabulary, or the number of classes.
        begun: Whether a checkpoint will bring the weights.

    Returns:
        The model; and lines, by title, about the trained weights that it begins with and about
        its adapters, empty if there are none.

    Raises:
        UserError: Model and data do not fit, or the weights do not fit the model.
    """
    # The same draws on every rank give the same fresh weights.
    torch.manual_seed(settings.seed)
    source = settings.initial_weights
    node = _sized(settings.model, data.vocabulary, source)
    if begun or source is not None:
        # Weights come from elsewhere: the towers need not fetch any.
        node = without_pretrained(node)

    elif isinstance(data.vocabulary, Tokenizer):
        _check_text_tower(node, data.vocabulary)

    model: TrainableModel = build(node)
    check_tokens(data.vocabulary, model)
    begins_with = ""
    if not begun and source is not None:
        with naming("initial_weights", source):
            trained = open_pretrained(source)
        begins_with = f"{_begin_with(trained, model, data)} of {source}"
    elif not begun:
        begins_with = spell_origin(origin(settings))
    # Last: tensors beside adapters have other names than those of the weights above.
    add_lora(settings.lora, model)
    return model, {"begins with": begins_with, "adapters": spell_lora(settings.lora, model)}


def _sized(node: Node, vocabulary: Tokenizer | ClassList, source: str | None) -> Node:
    """A model's node with the number of tokens, or of classes, that the data has.

    Args:
        node: The model's.
        vocabulary: The data's.
        source: The trained model whose weights it gets; None: fresh ones.
    """
    if isinstance(vocabulary, ClassList):
        classes = len(vocabulary.names)
        given = node.get("classes")
        if given not in (None, classes):
            raise UserError(
                f"model.classes={given}: data.classes={vocabulary.source} has {classes}; "
                f"set it to null"
            )
        return node | {"classes": classes}

    tokens = vocabulary.vocabulary_size
    # A larger table is fine: no text reads its last rows.
    size = node.get("vocabulary_size") or tokens
    if size < tokens:
        # Trained weights have one row a token: more of them would not fit.
        fix = "set it to null or more" if source is None else f"take the tokenizer of {source}"
        raise UserError(
            f"model.vocabulary_size={size}: the tokenizer {vocabulary.path} has {tokens} tokens; "
            f"{fix}"
        )
    return node | {"vocabulary_size": size}


def _begin_with(trained: Pretrained, model: TrainableModel, data: PairsDataModule) -> str:
    """Gives a model the weights of a trained one; returns which weights these were.

    The two must know the same tokens. A classifier takes the image tower of any model, and its
    linear layer too if the classes are the same.
    """
    vocabulary = data.vocabulary
    if isinstance(vocabulary, ClassList):
        if trained.classes is not None and ClassList(trained.classes).names == vocabulary.names:
            trained.fill(model)
            return "the weights"
        trained.fill_image_tower(model)
        return "the image tower"

    if trained.tokenizer is not None:
        _check_tokens(vocabulary, trained.tokenizer, str(trained.path))
    trained.fill(model)
    return "the weights"


def _check_text_tower(node: Node, vocabulary: Tokenizer) -> None:
    """The tokens must be those that a text tower's own weights were trained with."""
    tower = node.get("text_tower") or {}
    # `pretrained=true` means the weights of the model that `name` gives.
    key = "name" if tower.get("pretrained") is True else "pretrained"
    weights = tower.get(key)
    if not isinstance(weights, str) or weights == vocabulary.path:
        return
    tokenizer, _ = tokenizer_of(find(weights, wanted="weights of a text tower"))
    if tokenizer is not None:
        _check_tokens(vocabulary, tokenizer, f"model.text_tower.{key}={weights}")


def _check_tokens(vocabulary: Tokenizer, tokenizer: str, source: str) -> None:
    """Refuses other tokens than those that weights were trained with.

    Args:
        vocabulary: The data's.
        tokenizer: The path of the weights' own tokenizer.
        source: The weights, for the error.
    """
    # Their tables are compared, and not their files: one table may be saved in several ways.
    theirs = Tokenizer(tokenizer, max_tokens=vocabulary.max_tokens)
    if theirs.tokenizer.get_vocab() != vocabulary.tokenizer.get_vocab():
        raise UserError(
            f"data.tokenizer={vocabulary.path}: gives other tokens than {source} was trained with; "
            f"set data.tokenizer={tokenizer}"
        )
