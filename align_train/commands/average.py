"""Weights averaged, or mixed (WiSE-FT), and written as a new folder.

The story: open the models, see that they are of one shape and mean the same by their inputs, mix
their tensors, compute BatchNorm's statistics anew or say that they are averages, write.

Price: three models in memory and the sum of all, on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from align_train.cluster.interruption import leave
from align_train.commands.average_choice import chosen_mixes, chosen_models
from align_train.commands.devices import device_of, loader_workers
from align_train.commands.mix_sweep import PICTURE, TABLE, MixSweep
from align_train.commands.open_images import open_images
from align_train.commands.targets import check_new_folder
from align_train.commands.write_model import align_config, write_model
from align_train.config.command_schema import AverageSettings
from align_train.config.saved import read_nodes
from align_train.errors import UserError
from align_train.files import whole
from align_train.model import TrainableModel
from align_train.model.mixing import between, mean_of
from align_train.model.weights import fill
from align_train.pretrained.identity import embedded_probes, unread
from align_train.pretrained.load import TrainedClassifier, TrainedModel
from align_train.pretrained.open import open_pretrained
from align_train.pretrained.pretrained import Pretrained
from align_train.shards.left_out import counted
from align_train.shards.manifest import place_in
from align_train.stream.decode import Pixels, decode_centre
from align_train.stream.pairs import Pairs
from align_train.stream.shard_cache import shard_cache_of
from align_train.stream.workers import Workers
from align_train.training.fresh_statistics import moving_norms, renew_statistics

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


class _Centres(Dataset[Pixels | None]):
    """Images by their place among all pairs; None for one that cannot be decoded."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs
        self.ends = np.cumsum(pairs.manifest.counts)

    def __getitem__(self, index: int) -> Pixels | None:
        shard, pair = place_in(self.ends, index)
        try:
            return decode_centre(self.pairs.reader(shard).image(pair), self.pairs.views)
        except UserError:
            raise
        except ValueError:
            return None


class Statistics:
    """Where BatchNorm's statistics come from: training pairs, or the average."""

    def __init__(
        self, settings: AverageSettings, pretrained: Pretrained, device: torch.device
    ) -> None:
        """Opens the training pairs, if they are given.

        Args:
            settings: The command's settings.
            pretrained: The first model, whose run knows its norm group.
            device: The device of the forward passes.

        Raises:
            UserError: The pairs are not there, or too few; or nobody says the norm group.
        """
        self.device = device
        self.workers = loader_workers(settings.workers, device)
        self.pairs: Pairs | None = None
        if settings.train_shards is None:
            return

        # As in training, unless a setting says otherwise: the statistics are means over groups.
        self.group = settings.norm_group or _norm_group_of(pretrained)
        self.pairs = open_images(
            settings.train_shards,
            plain=False,
            caption=[],
            image=settings.image,
            keys=settings.keys,
            views=pretrained.views(),
            cache=shard_cache_of(None, None),
            progress=True,
        )
        total = self.pairs.manifest.pairs
        # Whole groups only: in the mean each group counts alike, and a small one would count too
        # much.
        self.count = min(settings.train_pairs, total) // self.group * self.group
        if not self.count:
            raise UserError(
                f"train_pairs={settings.train_pairs}: of {total:,} pairs, fewer than a norm group "
                f"of {self.group}; give more, or a smaller norm_group"
            )

    def renew(self, model: TrainableModel) -> str:
        """Computes a model's statistics anew if there are pairs for it.

        Args:
            model: The model, in evaluation mode.

        Returns:
            What was done, for a line.
        """
        norms = moving_norms(model)
        if not norms:
            return "no BatchNorm whose statistics would move"
        if self.pairs is None:
            return (
                f"the statistics of {counted(len(norms), 'BatchNorm layer')} are averages too; "
                f"train_shards=… computes them anew"
            )
        groups = renew_statistics(model.to(self.device), self._groups())
        if not groups:
            raise UserError(
                f"train_shards={self.pairs.manifest.source}: of {self.count:,} pairs fewer than a "
                f"norm group of {self.group} could be decoded; repair the shards"
            )
        bad = self.count - groups * self.group
        left_out = f", without {counted(bad, 'image')} left over or not decodable" if bad else ""
        return (
            f"the statistics of {counted(len(norms), 'BatchNorm layer')} are computed anew, from "
            f"{counted(groups, 'norm group')} of {self.group}{left_out}"
        )

    def _groups(self) -> Iterator[Tensor]:
        """The images of one norm group after the other, evenly spread over all pairs."""
        assert self.pairs is not None
        total = self.pairs.manifest.pairs
        # Shards may be sorted by class: a group has pairs from everywhere.
        places = np.arange(self.count, dtype=np.int64) * total // self.count
        # A fixed seed: the same command writes the same weights.
        places = np.random.default_rng(0).permutation(places)
        images: Workers[list[Pixels | None]] = Workers(
            _Centres(self.pairs),
            sampler=places.tolist(),
            batch_size=self.group,
            collate=list,
            workers=self.workers,
            setting="workers",
        )
        waiting: list[Pixels] = []
        try:
            for chunk in images:
                # An image that cannot be decoded leaves no gap: the next ones fill the group up.
                waiting += [pixels for pixels in chunk if pixels is not None]
                if len(waiting) >= self.group:
                    yield torch.from_numpy(np.stack(waiting[: self.group]))
                    waiting = waiting[self.group :]
        finally:
            images.close()


def _norm_group_of(pretrained: Pretrained) -> int:
    settings = read_nodes(Path(pretrained.path) / "config.yaml") if pretrained.run else {}
    group = settings.get("norm_group")
    if not isinstance(group, int):
        raise UserError(
            f"norm_group is not set, and {pretrained.path} does not say; give norm_group=…, the "
            f"pairs that share BatchNorm's statistics"
        )
    return group
