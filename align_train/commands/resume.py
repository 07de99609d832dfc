from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning
from omegaconf import OmegaConf

from align_train.config.compose import read_settings, to_yaml
from align_train.errors import UserError
from align_train.files import write_whole
from align_train.run.folder import RunFolder
from align_train.stream.classes import ClassList
from align_train.stream.datamodule import PairsDataModule
from align_train.stream.recipe import SETTINGS, Start, refusal


class WriteSettings(lightning.Callback):
    """Settings are written once they are known to hold: at a resume, only after the checkpoint was loaded under them."""

    def __init__(self, write: Callable[[], None], first: bool) -> None:
        self._write, self.first, self.written = write, first, False

    def write(self) -> None:
        if self.first and not self.written:
            self._write()
        self.written = True

    def on_train_start(self, *_: Any) -> None:
        self.write()


def cannot_resume(checkpoint: str, error: Exception, changes: dict[str, tuple[Any, Any]]) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = " ".join(lines[:2])[:200]
    if not changes:
        return f"{checkpoint}: cannot be loaded ({type(error).__name__}: {reason}); point checkpoints/last at another one"
    told = "; ".join(f"{key}: {was} -> {now}" for key, (was, now) in changes.items())
    return f"{checkpoint}: does not go with what changed ({told}): {reason}; restore it, or choose another name"


def changed_settings(folder: RunFolder, config: Any, done: int) -> dict[str, tuple[Any, Any]]:
    """Settings that differ from those that the run was started or last resumed with; refuses what would break it."""
    if not done or not folder.config.exists():
        return {}
    before, now = (
        _flat(OmegaConf.to_container(node, resolve=True))
        for node in (read_settings(folder.config), config)
    )
    changes = {
        key: (before.get(key), now.get(key))
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    }
    for key in ("accept", "dry_run"):  # of this start, not of the run
        changes.pop(key, None)
    for key in SETTINGS.values():
        if (
            key in changes and key != "data.shards" and key not in config.accept
        ):  # shards are known by what they hold
            raise UserError(refusal(key, *changes[key], done))
    return changes


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix: node}
    return {
        key: value
        for name, item in node.items()
        for key, value in _flat(item, f"{prefix}.{name}".lstrip(".")).items()
    }


def record_settings(
    folder: RunFolder,
    config: Any,
    data: PairsDataModule,
    changes: dict[str, tuple[Any, Any]],
    done: int,
) -> None:
    folder.checkpoints.mkdir(parents=True, exist_ok=True)
    write_whole(folder.config, to_yaml(config))
    data.vocabulary.save(
        folder.path if isinstance(data.vocabulary, ClassList) else folder.tokenizer
    )
    folder.lineage.begin_stretch(data.recipe, step=done)
    if changes:
        folder.lineage.note_changes({key: list(pair) for key, pair in changes.items()}, step=done)


def place(folder: RunFolder, done: int) -> dict[str, int]:
    """Where the run stands after so many steps, from the line of its lineage."""
    before = folder.lineage.stretch_at(done - 1)
    return Start.from_line(before).after(done, before["batch_size"]).as_line()
