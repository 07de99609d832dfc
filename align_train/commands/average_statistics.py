"""BatchNorm's statistics for averaged or mixed weights.

They are computed anew from training pairs, or else averaged as the weights are.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from align_train.commands.devices import loader_workers
from align_train.commands.open_images import open_images
from align_train.config.command_schema import AverageSettings
from align_train.config.saved import read_nodes
from align_train.errors import UserError
from align_train.model import TrainableModel
from align_train.pretrained.pretrained import Pretrained
from align_train.shards.left_out import counted
from align_train.shards.manifest import place_in
from align_train.stream.decode import Pixels, decode_centre
from align_train.stream.pairs import Pairs
from align_train.stream.shard_cache import shard_cache_of
from align_train.stream.workers import Workers
from align_train.training.fresh_statistics import moving_norms, renew_statistics


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

        Raises:
            UserError: Fewer images than a norm group could be decoded.
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
