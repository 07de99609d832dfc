"""What changed since the last start of a run: refused, accepted, and written down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import lightning

from align_train.config.saved import read_run, to_yaml
from align_train.config.schema import TrainSettings
from align_train.errors import UserError
from align_train.files import write_whole
from align_train.run.folder import RunFolder
from align_train.stream.classes import ClassList
from align_train.stream.datamodule import PairsDataModule
from align_train.stream.recipe import SETTINGS, Start, refusal

Changes = dict[str, tuple[object, object]]
"""Key of a setting -> its value before, and now."""

_OF_THIS_START = ("accept", "dry_run")  # settings that say nothing about the run itself


def changed_settings(folder: RunFolder, settings: TrainSettings, finished_steps: int) -> Changes:
    """Compares settings with those that the run was started or last resumed with.

    Args:
        folder: The run's folder.
        settings: The settings of this start.
        finished_steps: Steps in the last checkpoint; 0: the run is new, and nothing has changed.

    Returns:
        The settings that differ.

    Raises:
        UserError: One of them decides which pairs a step sees, and was not accepted.
    """
    if not finished_steps or not folder.config.exists():
        return {}

    before = _flat(asdict(read_run(folder.config)))
    now = _flat(asdict(settings))
    changes: Changes = {}
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key) and key not in _OF_THIS_START:
            changes[key] = (before.get(key), now.get(key))

    for key in SETTINGS.values():
        # Shards are known by their content: whether that changed shows once they are open.
        if key in changes and key != "data.shards" and key not in settings.accept:
            raise UserError(refusal(key, *changes[key], finished_steps))
    return changes


def _flat(node: object, prefix: str = "") -> dict[str, object]:
    """Settings by dotted key."""
    if not isinstance(node, dict):
        return {prefix: node}

    values: dict[str, object] = {}
    for name, item in node.items():
        values |= _flat(item, f"{prefix}.{name}".lstrip("."))
    return values


def continue_stretch(data: PairsDataModule, folder: RunFolder, finished_steps: int) -> None:
    """Makes the data go on after the run's finished steps.

    Args:
        data: The data module.
        folder: The run's folder, whose lineage says where the last stretch began.
        finished_steps: Steps in the last checkpoint, at least 1.

    Raises:
        UserError: The data is other than the run's, and that was not accepted.
    """
    before = folder.lineage.stretch_at(finished_steps - 1)
    start = Start.from_line(before).after(finished_steps, before["batch_size"])
    data.go_on({**before, **start.as_line()})


class WriteSettings(lightning.Callback):
    """Writes the settings once: at a resume, only after the checkpoint was loaded under them.

    Attributes:
        written: Whether they hold, and are written.
    """

    def __init__(self, write: Callable[[], None], *, first: bool) -> None:
        """Keeps what is to be done.

        Args:
            write: Writes the settings.
            first: Whether this process is the one that writes.
        """
        self._write = write
        self._first = first
        self.written = False

    def write(self) -> None:
        """Writes the settings if nobody has."""
        if self._first and not self.written:
            self._write()
        self.written = True

    def on_train_start(self, *_: object) -> None:
        """Writes: a checkpoint has been loaded by now."""
        self.write()


def record_settings(
    folder: RunFolder,
    settings: TrainSettings,
    data: PairsDataModule,
    changes: Changes,
    finished_steps: int,
) -> None:
    """Writes settings, vocabulary and a line of the lineage into the run's folder.

    Args:
        folder: The run's folder.
        settings: The settings that hold from here on.
        data: The open data.
        changes: The settings that differ from before.
        finished_steps: Steps after which they hold.
    """
    folder.checkpoints.mkdir(parents=True, exist_ok=True)
    write_whole(folder.config, to_yaml(settings))

    vocabulary = data.vocabulary
    vocabulary.save(folder.path if isinstance(vocabulary, ClassList) else folder.tokenizer)

    folder.lineage.begin_stretch(data.recipe, step=finished_steps)
    if changes:
        pairs = {key: list(pair) for key, pair in changes.items()}
        folder.lineage.note_changes(pairs, step=finished_steps)


def cannot_resume(checkpoint: str, error: Exception, changes: Changes) -> str:
    """Says why a checkpoint does not load.

    Args:
        checkpoint: Its path.
        error: What torch or Lightning raised.
        changes: The settings that differ from before.

    Returns:
        The line for the user.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = " ".join(lines[:2])[:200]
    if not changes:
        return (
            f"{checkpoint}: cannot be loaded ({type(error).__name__}: {reason}); "
            f"point checkpoints/last at another one"
        )

    spelled = spell_changes(changes)
    return (
        f"{checkpoint}: does not go with what changed ({spelled}): {reason}; "
        f"restore it, or choose another name"
    )


def spell_changes(changes: Changes) -> str:
    """Spells changes as `key: before -> now`."""
    return "; ".join(f"{key}: {before} -> {now}" for key, (before, now) in changes.items())
