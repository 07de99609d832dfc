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
from align_train.commands.best import ended_early
from align_train.commands.captions import refuse_absent_captions
from align_train.commands.changes import changed_settings
from align_train.commands.export_choice import check_export
from align_train.commands.named_models import look_for_model, look_for_models_of
from align_train.commands.score_prompts import prompts_of
from align_train.commands.targets import (
    check_collection_folder,
    check_results_folder,
    check_sheet,
)
from align_train.commands.twice_in_batch import refuse_larger
from align_train.config.command_schema import (
    EmbedSettings,
    EvaluateSettings,
    ExportSettings,
    ScoreSettings,
    SearchSettings,
)
from align_train.config.saved import read_run
from align_train.config.schema import Node, TrainSettings
from align_train.errors import UserError, shown
from align_train.files import check_writable, nearest_path
from align_train.index.scores import TEXT_CHOICES
from align_train.index.settings import PRECISIONS, refuse_absent_collection
from align_train.run.folder import RunFolder
from align_train.shards.cache import ShardCache
from align_train.shards.caption import CaptionSource, is_unicode
from align_train.shards.image_kind import promises_image
from align_train.shards.manifest import MANIFEST_NAME, read_manifest
from align_train.shards.members import Members
from align_train.shards.remote import is_url
from align_train.shards.resolve import first_shards, refuse_absent
from align_train.shards.tar_end import compression
from align_train.stream.tokenizer_folder import refuse_absent_tokenizer

_OUR_DATA = "align_train.stream.datamodule.PairsDataModule"


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
    # Called for its refusals alone: the start computes the changes again.
    changed_settings(folder, settings, finished_steps)
    if _may_be_finished(folder, settings, finished_steps):
        # It then shows its results, for which it needs neither data nor GPU: both may be gone.
        return

    if settings.data.get("_target_") == _OUR_DATA:
        _look_at_data(settings)
    look_for_models_of(settings, begun=finished_steps > 0)
    # A dry run writes no folder of a run, and may look at the settings of another machine.
    if not settings.dry_run:
        check_writable(folder.config, "choose another name or output_dir")
    if settings.trainer.on_gpu and not settings.dry_run and surely_none():
        devices = settings.trainer.devices
        raise UserError(
            f"trainer.devices={devices}: 0 GPUs found here; {started.more_gpus(devices)}"
        )


def _may_be_finished(folder: RunFolder, settings: TrainSettings, finished_steps: int) -> bool:
    """Whether a run is at its last step, if its data is still the same."""
    if not finished_steps:
        return False
    if ended_early(folder, settings, finished_steps):
        return True
    if settings.length_is_known:
        return finished_steps >= settings.steps
    if not folder.config.exists():
        return False

    # The length is given in epochs: the last start has recorded how many steps they have.
    before = read_run(folder.config)
    same = before.epochs == settings.epochs and before.max_steps is not None
    return same and finished_steps >= before.steps


def _look_at_data(settings: TrainSettings) -> None:
    data = settings.data
    # With `make` the run draws its shards and tokenizer itself, later.
    if data.get("make") is None:
        if data.get("shards") is None:
            raise UserError("data.shards is not set; give data.shards=…")
        refuse_absent(data["shards"], key="data.shards")
        if data.get("held_out") is not None:
            refuse_absent(data["held_out"], key="data.held_out")
        _look_at_batch(settings)
        _look_at_captions(data)

        tokenizer = data.get("tokenizer")
        if isinstance(tokenizer, str):
            refuse_absent_tokenizer(tokenizer)


def _look_at_captions(data: Node) -> None:
    """Refuses captions that no pair has, if a setting names them."""
    members = Members.parse(data.get("image"), data.get("keys"))
    labels = data.get("classes") is not None
    for of, key in (("shards", "caption"), ("held_out", "held_out_caption")):
        shards, caption = data.get(of), data.get(key)
        if shards is None or caption is None:
            continue
        # Weights belong to the training captions; those of held-out pairs have none.
        weights = data.get("caption_weights") if key == "caption" else None
        source = CaptionSource.parse(caption, weights, key=f"data.{key}")
        refuse_absent_captions(
            shards, source, members, labels=labels, key=f"data.{key}", of=f"data.{of}"
        )


def _look_at_batch(settings: TrainSettings) -> None:
    """Compares the batch with the data, if a manifest says how many pairs there are."""
    shards = settings.data["shards"]
    if not isinstance(shards, str) or is_url(shards):
        return
    path = Path(shards).expanduser()
    if compression(b"", path.name):
        # This refuses it, and names the tool that unpacks it.
        first_shards(shards, 1, cache=ShardCache())
    # Without a manifest, counting the pairs would mean opening every tar.
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
    if isinstance(settings, ExportSettings):
        check_export(settings)
    elif isinstance(settings, EmbedSettings | ScoreSettings):
        check_collection_folder(settings.to)
    elif settings.to is not None:
        check_results_folder(Path(settings.to).expanduser().absolute())

    look_for_model(settings.model)
    # Many ranks would ask the file system at once, as in `look_before_training`.
    if not launcher.current().started_all:
        if isinstance(settings, EmbedSettings):
            _look_for_images(settings)
        elif not isinstance(settings, ExportSettings) and settings.shards is not None:
            refuse_absent(settings.shards, key="shards")
        if isinstance(settings, ScoreSettings):
            _look_for_texts(settings)
    if not isinstance(settings, ExportSettings):
        look_for_device(settings.device)


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
    prompts_of(settings.prompts)


def _look_for_texts(settings: ScoreSettings) -> None:
    """Refuses captions that no pair has: none would have a score."""
    shards, caption = settings.shards, settings.caption
    if shards is not None and caption is not None:
        members = Members.parse(settings.image, settings.keys, prefix="")
        source = CaptionSource.parse(caption, key="caption")
        refuse_absent_captions(shards, source, members, labels=False, key="caption", of="shards")


def _look_for_images(settings: EmbedSettings) -> None:
    images = settings.images
    if images is not None:
        folder = Path(images).expanduser()
        if not folder.is_dir():
            what = "a file" if folder.exists() else f"no such folder{nearest_path(images)}"
            raise UserError(f"images={shown(images)}: {what}; expected a folder with images")
        return

    try:
        refuse_absent(settings.shards, key="shards")
    except UserError as error:
        # A folder of plain images is an easy mistake, which the error can name.
        folder = Path(str(settings.shards)).expanduser()
        if folder.is_dir() and any(map(promises_image, folder.iterdir())):
            raise UserError(f"{error}; or give images={shown(settings.shards)}") from None
        raise


def look_for_device(name: str) -> None:
    """Refuses a GPU if there is none; `devices.py` asks torch for all other names.

    Args:
        name: The setting.

    Raises:
        UserError: There is none.
    """
    kind = name.partition(":")[0]
    # People know this word from trainer=gpu.
    if kind == "gpu":
        raise UserError(f"device={name}: expected cpu, cuda, cuda:1, …; take device=cuda")
    if kind == "cuda" and surely_none():
        reason = gpus().why_none
        raise UserError(f"device={name}: not there ({reason}); take device=cpu")


def check_query(settings: SearchSettings) -> None:
    """Checks the settings of a search, without opening anything.

    Args:
        settings: The command's settings.

    Raises:
        UserError: One of them is wrong.
    """
    if settings.text is None and settings.image is None:
        raise UserError("give text=…, image=…, or both")
    if settings.text is not None and not is_unicode(settings.text):
        raise UserError(f"text={shown(settings.text)}: not UTF-8; type it in a UTF-8 terminal")
    if settings.top < 1:
        raise UserError(f"top={settings.top}: expected at least 1 image")
    # Written as a chain, which refuses NaN too.
    if not 0 <= settings.text_weight < float("inf"):
        raise UserError(f"text_weight={settings.text_weight}: expected a finite number from 0 on")
    check_sheet(settings.to)


def look_before_searching(settings: SearchSettings) -> None:
    """Looks for the query and the embeddings.

    Args:
        settings: The command's settings.

    Raises:
        UserError: There is no query, or they are not there.
    """
    check_query(settings)
    image = settings.image
    if image is not None and not is_url(image) and not Path(image).expanduser().exists():
        reason = f"cannot be read ({os.strerror(errno.ENOENT)})"
        raise UserError(f"image={shown(image)}: {reason}; give another file")

    index = Path(settings.index).expanduser().absolute()
    refuse_absent_collection(index)
