"""The steps of a run whose length is given in epochs: the data says how many.

From then on the settings have `max_steps` beside `epochs`, and so has config.yaml. Whoever reads a
run's settings, as `show` does, needs no data to know its length.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import ceil

from align_train.config.saved import read_run
from align_train.config.schema import TrainSettings
from align_train.run.folder import RunFolder
from align_train.stream.datamodule import PairsDataModule


def length_of_last_start(
    settings: TrainSettings, folder: RunFolder, finished_steps: int
) -> TrainSettings:
    """Fills in the steps that the last start found, if they still hold.

    A finished run then says so without its data, which may be gone.

    Args:
        settings: The settings of this start, with what the run keeps for good (`begun.py`).
        folder: The run's folder.
        finished_steps: Steps in the last checkpoint; 0: there was no start that counts.

    Returns:
        The settings; as they were, if only the data can say how many steps there are.
    """
    if settings.epochs is None or not finished_steps or not folder.config.exists():
        return settings

    steps = found_before(settings, folder)
    return settings if steps is None else replace(settings, max_steps=steps)


def found_before(settings: TrainSettings, folder: RunFolder) -> int | None:
    """The steps that the last start found for these epochs; None: it had others, or other data.

    Args:
        settings: With `epochs`.
        folder: The folder of a run that has begun.
    """
    before = read_run(folder.config)
    # The steps follow from these three settings alone.
    then = (before.epochs, before.batch_size, before.data)
    if then != (settings.epochs, settings.batch_size, settings.data):
        return None
    return before.max_steps


def with_length(settings: TrainSettings, data: PairsDataModule) -> TrainSettings:
    """Fills in the steps that the epochs have.

    Args:
        settings: The settings of this start.
        data: The open data.

    Returns:
        The settings; as they were, if another setting gives the length.
    """
    if settings.epochs is None:
        return settings

    # `config/lengths.py` refuses epochs of several sources. A fraction keeps 0.1 exact.
    (source,) = data.stretch.order.sources
    pairs = Fraction(str(settings.epochs)) * source.epoch_pairs
    return replace(settings, max_steps=ceil(pairs / settings.batch_size))
