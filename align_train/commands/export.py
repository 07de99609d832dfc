"""A trained model written as a folder, for transformers, align_train or onnxruntime, or pushed.

The folder is complete or absent. Without `to` it is a temporary one (`TMPDIR`), which goes to the
hub and is removed.
"""

from __future__ import annotations

import filecmp
import tempfile
from pathlib import Path

from align_train.cluster.interruption import leave
from align_train.commands.export_choice import ONNX, check_export, is_export
from align_train.commands.export_onnx import write_onnx
from align_train.commands.push import CARD, push
from align_train.commands.write_model import align_config, loader_of, write_model
from align_train.config.command_schema import ExportSettings
from align_train.errors import UserError
from align_train.files import whole
from align_train.model.weights import WEIGHTS
from align_train.pretrained.card_merge import merged
from align_train.pretrained.open import open_pretrained
from align_train.pretrained.pretrained import Pretrained


def export(settings: ExportSettings) -> None:
    """Writes a trained model as a new folder, and pushes it: `python -m align_train.export`.

    Args:
        settings: The command's settings.

    Raises:
        UserError: The model cannot be read or expressed, the folder is not new, or the hub refuses.
    """
    check_export(settings)
    pretrained = open_pretrained(settings.model)
    folder = None if settings.to is None else Path(settings.to).expanduser().absolute()
    if folder is not None and not (settings.push and is_export(str(folder))):
        # An empty folder may be there already: a rename replaces it.
        with whole(folder) as aside:
            aside.mkdir()
            said = _write(aside, pretrained, settings, place=folder)
        # The line of a signal must not say any more that nothing is saved.
        leave(f"{folder} is complete")
        print(said, flush=True)
        _push(folder, settings)
        return

    # Without `to`; or an earlier push has left the folder, and the fresh export must equal it.
    with tempfile.TemporaryDirectory(prefix="align_train-export-") as temporary:
        fresh = Path(temporary)
        print(_write(fresh, pretrained, settings, place=folder), flush=True)
        if folder is not None:
            _refuse_another(folder, fresh)
        _push(fresh, settings)


def _write(
    to: Path, pretrained: Pretrained, settings: ExportSettings, *, place: Path | None
) -> str:
    """Writes a model into a folder; says what. place: the folder in the end; None: the hub."""
    name = settings.push or (place or to).name
    model = pretrained.build()
    if settings.format == ONNX:
        written = write_onnx(to, pretrained, model, name=name, licence=settings.licence)
        reader = "onnxruntime"
    else:
        if pretrained.family == "clip":
            raise UserError(
                f"{settings.model}: Hugging Face's own CLIP or SigLIP, which transformers loads "
                f"already"
            )
        config = align_config(pretrained, settings.format)
        tensors = write_model(to, pretrained, model, config, name=name, licence=settings.licence)
        written = f"{tensors} tensors, {(to / WEIGHTS).stat().st_size / 1e6:.1f} MB"
        reader = loader_of(pretrained) if config is None else "transformers.AlignModel"

    step = "" if pretrained.step is None else f", step {pretrained.step}"
    lines = [f"{place or settings.push}: {written}{step}, for {reader}"]
    lines += [f"not exported: {reason}" for reason in pretrained.missing.values()]
    return "\n".join(lines)


def _refuse_another(folder: Path, fresh: Path) -> None:
    """Refuses a folder that is there already, and holds another export than this one."""
    # The card may differ: it names the repository, or the folder if there was none.
    names = sorted({path.name for path in (*folder.iterdir(), *fresh.iterdir())} - {CARD})
    # Byte by byte: two exports may agree in size and time.
    _, different, absent = filecmp.cmpfiles(folder, fresh, names, shallow=False)
    for name in (*different, *absent):
        raise UserError(
            f"to={folder}: exists already with another export ({name} differs); choose a new "
            f"folder, or leave to= out"
        )


def _push(folder: Path, settings: ExportSettings) -> None:
    if settings.push is None:
        return
    leave("what was sent stays on the hub, unseen, and the same command sends the rest")
    push(folder, settings.push, private=settings.private, merge=merged)
