"""Weights averaged, or mixed (WiSE-FT), and written as a new folder.

The story: open the models, see that they are of one shape and mean the same by their inputs, mix
their tensors, compute BatchNorm's statistics anew or say that they are averages, write.

Price: three models in memory and the sum of all, on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from align_train.cluster.interruption import leave
from align_train.commands.average_choice import chosen_mixes, chosen_models
from align_train.commands.average_statistics import Statistics
from align_train.commands.devices import device_of
from align_train.commands.mix_sweep import PICTURE, TABLE, MixSweep
from align_train.commands.targets import check_new_folder
from align_train.commands.write_model import align_config, write_model
from align_train.config.command_schema import AverageSettings
from align_train.errors import UserError
from align_train.files import whole
from align_train.model import TrainableModel
from align_train.model.mixing import between, mean_of
from align_train.model.weights import fill
from align_train.pretrained.identity import embedded_probes, unread
from align_train.pretrained.load import TrainedClassifier, TrainedModel
from align_train.pretrained.open import open_pretrained
from align_train.pretrained.pretrained import Pretrained

_TOLERANCE = 1e-5  # of embeddings: two ways of building one model may round differently

Trained = TrainedModel | TrainedClassifier


def average(settings: AverageSettings) -> None:
    """Averages or mixes models: `python -m align_train.average`.

    Args:
        settings: The command's settings, after `average_choice.py` has looked at them.

    Raises:
        UserError: The models do not fit each other, or cannot be read or written.
    """
    folder = check_new_folder(settings.to)
    device = device_of(settings.device)
    paths = chosen_models(settings)
    mixes = chosen_mixes(settings)
    pretrained = open_pretrained(paths[0])
    if pretrained.family == "clip":
        raise UserError(f"{paths[0]}: Hugging Face's CLIP, which is not mixed here")
    config = align_config(pretrained, settings.format)

    first = _loaded(pretrained)
    # Another one: that is frozen, and frozen layers count as locked ones.
    model: TrainableModel = pretrained.build()
    states = _states(paths, first)
    statistics = Statistics(settings, pretrained, device)

    sweep: MixSweep | None = None
    result: dict[str, Tensor] | None = None
    said = f"mean of {', '.join(paths)}"
    if not mixes:
        result = mean_of(states)
    else:
        # Each mix needs both, while a mean takes one model after the other.
        before, after = list(states)
        chosen: float | None = mixes[0]
        if len(mixes) > 1:
            sweep = MixSweep(settings, paths[0], device)
            sweep.run(model, before, after, mixes, statistics.renew, keep=settings.keep)
            chosen = _kept(settings, sweep)
        if chosen is not None:
            result = between(before, after, chosen)
            said = f"{1 - chosen:g} x {paths[0]} + {chosen:g} x {paths[1]}"

    if result is not None:
        # The sweep has left the model on its device.
        model.to("cpu").load_state_dict(result)
        said += f"; {statistics.renew(model)}"
        model.to("cpu")

    with whole(folder) as aside:
        aside.mkdir()
        if sweep is not None:
            sweep.write(aside)
        if result is not None:
            body = f"{said}.\n"
            write_model(aside, pretrained, model, config, name=folder.name, body=body)
    leave(f"{folder} is complete")

    if sweep is not None:
        print(f"{folder / TABLE}, {folder / PICTURE}: {len(mixes)} mixes")
    if result is not None:
        print(f"{folder}: {said}")


def _kept(settings: AverageSettings, sweep: MixSweep) -> float | None:
    """The mix that is written; None: none is."""
    keep = settings.keep
    if isinstance(keep, str):
        return sweep.best_by(keep)
    return None if keep is None else float(keep)


def _loaded(pretrained: Pretrained) -> Trained:
    if pretrained.is_classifier:
        return TrainedClassifier(pretrained)
    return TrainedModel(pretrained)


def _states(paths: Sequence[str], first: Trained) -> Iterator[dict[str, Tensor]]:
    """The tensors of each model, one after the other, each seen to be of the first one's kind."""
    # A copy: `fill` gives this model the weights of the others below.
    own = {name: value.clone() for name, value in first.model.state_dict().items()}
    yield own
    for path in paths[1:]:
        pretrained = open_pretrained(path)
        if pretrained.is_classifier != isinstance(first, TrainedClassifier):
            raise UserError(f"{path}: no model of the kind of {paths[0]}: one is a classifier")
        other = _loaded(pretrained)
        _refuse_other_inputs(first, other, path, paths[0])

        state = {name: value.clone() for name, value in other.model.state_dict().items()}
        # An export may have a layer that no forward pass reads, and the run has not.
        state = {name: value for name, value in state.items() if name in own or not unread(name)}
        state |= {name: own[name] for name in own if unread(name) and name not in state}
        # The first model takes the weights of the other, so that the next line compares towers
        # alone.
        fill(first.model, state, source=path)
        _refuse_other_towers(first, other, path, paths[0])
        yield state


def _refuse_other_inputs(first: Trained, other: Trained, path: str, path_of_first: str) -> None:
    """Tokens, or classes, must be the same ones: their rows are added up."""
    if isinstance(first, TrainedClassifier) and isinstance(other, TrainedClassifier):
        if first.names != other.names:
            raise UserError(f"{path}: has other classes than {path_of_first}")
        return
    assert isinstance(first, TrainedModel) and isinstance(other, TrainedModel)
    if first.tokenizer_digest != other.tokenizer_digest:
        raise UserError(
            f"{path}: has other tokens than {path_of_first}, so that their weights cannot be mixed"
        )


def _refuse_other_towers(first: Trained, other: Trained, path: str, path_of_first: str) -> None:
    """With the same weights both must embed alike: shapes do not show heads, strides or pixels.

    Args:
        first: The first model, which has the other's weights by now.
        other: The other model.
        path: Of the other, for the error.
        path_of_first: Of the first.
    """
    ours, theirs = embedded_probes(first), embedded_probes(other)
    alike = [
        mine.shape == its.shape and torch.allclose(mine, its, atol=_TOLERANCE)
        for mine, its in zip(ours, theirs, strict=True)
    ]
    if not all(alike):
        part = "images" if not alike[0] else "texts"
        raise UserError(
            f"{path}: with the same weights it embeds {part} otherwise than {path_of_first}: their "
            f"towers, or the sizes of images or texts, differ; give models of one shape"
        )
