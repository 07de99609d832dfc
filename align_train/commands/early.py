"""Files and folders that are not there, found before torch is imported.

So the mistakes of a first day end a command after a second, and not after the eight that torch and
Lightning take to import. These checks only look, and leave what they cannot know to the work
itself, which checks again: a name on the hub, a URL, components of the user's own.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from align_train.cluster import launcher
from align_train.cluster.gpus import gpus, surely_none
from align_train.commands.changes import changed_settings
from align_train.commands.repeats import refuse_larger
from align_train.config.command_schema import (
    EmbedSettings,
    EvaluateSettings,
    ExportSettings,
    ScoreSettings,
    SearchSettings,
)
from align_train.config.saved import read_run
from align_train.config.schema import TrainSettings
from align_train.errors import UserError, shown
from align_train.files import check_writable, is_missing_path
from align_train.index.scores import TEXT_CHOICES
from align_train.index.settings import PRECISIONS
from align_train.run.folder import RunFolder
from align_train.shards.cache import ShardCache
from align_train.shards.image_kind import promises_image
from align_train.shards.manifest import MANIFEST_NAME, read_manifest
from align_train.shards.remote import is_url
from align_train.shards.resolve import refuse_absent

_OUR_DATA = "align_train.stream.datamodule.PairsDataModule"

_MODEL = (
    "a run's folder, an exported one, or Hugging Face's ALIGN or CLIP (a folder or a name on the "
    "hub)"
)
_COLLECTION = "collection.json"  # of `index/collection.py`
_FIX = "give to=…, a folder that you can write"
_MODEL_FILES = ("config.yaml", "config.json")


def look_before_training(settings: TrainSettings) -> None:
    """Looks at the run's folder, its data and the machine.

    Args:
        settings: Composed settings; those that need no class are checked.

    Raises:
        UserError: As the run itself would raise it.
    """
    started = launcher.current()
    if started.started_all or not launcher.is_first_process():
        # A thousand ranks would ask the file system at once: later rank 0 asks for all.
        return

    folder = RunFolder(settings.path)
    finished_steps = folder.last_step()
    changed_settings(folder, settings, finished_steps)
    if _may_be_finished(folder, settings, finished_steps):
        # It then shows its results, for which it needs neither data nor GPU: both may be gone.
        return

    if settings.data.get("_target_") == _OUR_DATA:
        _look_at_data(settings)
    if settings.trainer.on_gpu and not settings.dry_run and surely_none():
        devices = settings.trainer.devices
        raise UserError(
            f"trainer.devices={devices}: 0 GPUs found here; {started.more_gpus(devices)}"
        )


def _may_be_finished(folder: RunFolder, settings: TrainSettings, finished_steps: int) -> bool:
    """Whether a run is at its last step, if its data is still the same."""
    if not finished_steps:
        return False
    if settings.length_is_known:
        return finished_steps >= settings.steps
    if not folder.config.exists():
        return False

    before = read_run(folder.config)
    same = before.epochs == settings.epochs and before.max_steps is not None
    return same and finished_steps >= before.steps


def _look_at_data(settings: TrainSettings) -> None:
    data = settings.data
    if data.get("make") is None:
        refuse_absent(data["shards"], key="data.shards")
        if data.get("held_out") is not None:
            refuse_absent(data["held_out"], key="data.held_out")
        _look_at_batch(settings)

        tokenizer = data.get("tokenizer")
        if isinstance(tokenizer, str) and is_missing_path(tokenizer):
            raise UserError(
                f"data.tokenizer={tokenizer}: no tokenizer.json there; make one with "
                f"`align-train pack` or give a hub name"
            )


def _look_at_batch(settings: TrainSettings) -> None:
    """Compares the batch with the data, if a manifest says how many pairs there are."""
    shards = settings.data["shards"]
    if not isinstance(shards, str) or is_url(shards):
        return
    path = Path(shards).expanduser()
    file = path / MANIFEST_NAME if path.is_dir() else path
    if file.is_file() and file.suffix.lower() != ".tar":
        lanes = settings.data["lanes"]
        pairs = int(read_manifest(str(file), cache=ShardCache()).counts.sum())
        refuse_larger(settings, pairs // lanes * lanes)


def look_before_opening(
    settings: EvaluateSettings | EmbedSettings | ScoreSettings | ExportSettings,
) -> None:
    """Looks for the model, the images and the device of a command that opens a trained model.

    Args:
        settings: The command's settings.

    Raises:
        UserError: They are not there, or settings contradict each other.
    """
    if isinstance(settings, EmbedSettings):
        _check_embedding(settings)
    if isinstance(settings, ScoreSettings):
        _check_scoring(settings)
    if settings.to is not None:
        to = Path(settings.to).expanduser().absolute()
        if isinstance(settings, ExportSettings):
            refuse_existing(to, settings.to)
        # A folder that exists takes a file.
        check_writable(to / "results" if to.is_dir() else to, _FIX)

    path = settings.model
    folder = Path(path).expanduser()
    # The hub has names without an owner, too, but no ALIGN among them.
    if is_missing_path(path) or ("/" not in path and not folder.exists()):
        raise UserError(f"{path}: no such folder; expected {_MODEL}")
    if folder.is_dir() and not any((folder / name).is_file() for name in _MODEL_FILES):
        raise UserError(f"{path}: neither {' nor '.join(_MODEL_FILES)} there; expected {_MODEL}")

    if not launcher.current().started_all:
        if isinstance(settings, EmbedSettings):
            _look_for_images(settings)
        if isinstance(settings, ScoreSettings):
            refuse_absent(settings.shards, key="shards")
    if not isinstance(settings, ExportSettings):
        _look_for_device(settings.device)


def refuse_existing(folder: Path, to: str) -> None:
    """Refuses a folder with content in place of a new one.

    Args:
        folder: The folder.
        to: The setting `to`, for the error.

    Raises:
        UserError: It is a file, or has files.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"to={to}: exists already; choose a new folder")


def _check_embedding(settings: EmbedSettings) -> None:
    if settings.precision not in PRECISIONS:
        raise UserError(f"precision={settings.precision}: expected {' or '.join(PRECISIONS)}")
    if (settings.shards is None) == (settings.images is None):
        raise UserError(
            "give shards=…, a data set of shards, or images=…, a folder of image files; one of them"
        )
    images = settings.images
    if images is not None and is_url(images):
        raise UserError(f"images={shown(images)}: a URL; expected a folder on this machine")


def _check_scoring(settings: ScoreSettings) -> None:
    if settings.texts not in TEXT_CHOICES:
        raise UserError(
            f"texts={shown(settings.texts)}: expected {', '.join(TEXT_CHOICES)}: which of several "
            f"texts of a pair its score is of"
        )


def _look_for_images(settings: EmbedSettings) -> None:
    images = settings.images
    if images is not None:
        if not Path(images).expanduser().is_dir():
            raise UserError(f"images={shown(images)}: no such folder; expected one with images")
        return

    try:
        refuse_absent(settings.shards, key="shards")
    except UserError as error:
        folder = Path(str(settings.shards)).expanduser()
        if folder.is_dir() and any(map(promises_image, folder.iterdir())):
            raise UserError(f"{error}; or give images={shown(settings.shards)}") from None
        raise


def _look_for_device(name: str) -> None:
    """Refuses a GPU if there is none; `devices.py` asks torch for all other names."""
    if name.partition(":")[0] == "cuda" and surely_none():
        reason = gpus().why_none
        raise UserError(f"device={name}: not there ({reason}); take device=cpu")


def look_before_searching(settings: SearchSettings) -> None:
    """Looks for the query and the embeddings.

    Args:
        settings: The command's settings.

    Raises:
        UserError: There is no query, or they are not there.
    """
    if settings.to is not None:
        sheet = Path(settings.to).expanduser().absolute()
        check_writable(sheet, "give to=…, an image in a folder that you can write")

    image = settings.image
    if settings.text is None and image is None:
        raise UserError("give text=…, image=…, or both")
    if image is not None and not is_url(image) and not Path(image).expanduser().exists():
        reason = f"cannot be read ({os.strerror(errno.ENOENT)})"
        raise UserError(f"image={shown(image)}: {reason}; give another file")

    index = Path(settings.index).expanduser().absolute()
    if not (index / _COLLECTION).is_file():
        raise UserError(
            f"{index}: no {_COLLECTION} there; make it with "
            f"align-train embed model=… shards=… to={index}"
        )
