"""A run that goes on: its data and its settings, written down once they are known to hold."""

from __future__ import annotations

from dataclasses import replace

import lightning

from align_train.cluster import launcher
from align_train.commands.begun import FOUND_OUT
from align_train.commands.changes import Changes, spell_changes
from align_train.config.saved import to_yaml
from align_train.config.schema import TrainSettings
from align_train.errors import UserError
from align_train.files import check_links, write_whole
from align_train.optim.schedules import START, Anchor
from align_train.pretrained.origin import origin
from align_train.run.folder import RunFolder
from align_train.run.lock import Lock
from align_train.stream.classes import ClassList
from align_train.stream.datamodule import PairsDataModule
from align_train.stream.recipe import Start
from align_train.stream.tokenizer import Tokenizer
from align_train.stream.vocabulary import Vocabulary


def _with_found_captions(settings: TrainSettings, data: PairsDataModule) -> TrainSettings:
    """Gives settings the captions that the data has found out: a resume must not look again."""
    if settings.data.get("caption", "") is not None:
        return settings
    found = {key: getattr(data, key) for key in FOUND_OUT}
    return replace(settings, data=settings.data | found)


def continue_stretch(data: PairsDataModule, folder: RunFolder, finished_steps: int) -> None:
    """Makes the data go on after the run's finished steps.

    Args:
        data: The data module.
        folder: The run's folder, whose lineage says where the last stretch began.
        finished_steps: Steps in the last checkpoint, at least 1.

    Raises:
        UserError: The data is other than the run's, and that was not accepted; or the tokenizer is.
    """
    _refuse_other_tokens(data.vocabulary, folder)
    # Of the last finished step: a later line may be of a start that did no step.
    before = folder.lineage.stretch_at(finished_steps - 1)
    start = Start.from_line(before).after(finished_steps, before["batch_size"])
    data.go_on({**before, **start.as_line()})


def _refuse_other_tokens(vocabulary: Vocabulary, folder: RunFolder) -> None:
    """Refuses a tokenizer that was made anew: its ids would be those of other words."""
    if not isinstance(vocabulary, Tokenizer) or not folder.tokenizer.is_dir():
        return
    own = Tokenizer(str(folder.tokenizer), max_tokens=vocabulary.max_tokens)
    if own.digest != vocabulary.digest:
        raise UserError(
            f"data.tokenizer={vocabulary.path}: gives other ids than the run was trained with; set "
            f"data.tokenizer={folder.tokenizer}, the run's own copy, or choose another name"
        )


class WriteSettings(lightning.Callback):
    """Writes the settings of this start into the run's folder, once they are known to hold.

    Those of a new run hold at once; those of a resumed run once its checkpoint was loaded under
    them.
    """

    def __init__(
        self,
        folder: RunFolder,
        settings: TrainSettings,
        data: PairsDataModule,
        changes: Changes,
        anchor: Anchor,
        finished_steps: int,
    ) -> None:
        """Keeps what is to be written.

        Args:
            folder: The run's folder.
            settings: The settings of this start.
            data: The open data.
            changes: The settings that differ from before.
            anchor: Where the schedule of the learning rate begins.
            finished_steps: Steps after which the settings hold; 0: the run is new.
        """
        self._folder = folder
        self._settings = settings
        self._data = data
        self._changes = changes
        self._anchor = anchor
        self._finished_steps = finished_steps
        self._first = launcher.is_first_process()
        self._written = False

    def begin(self, lock: Lock) -> None:
        """Claims the folder for this process; writes the settings of a new run.

        Args:
            lock: The folder's. It could not be taken before if the folder did not exist.

        Raises:
            UserError: Another process has begun the run since this one looked, or no link can lie
                in the folder.
        """
        # If the lock is new to this process, the folder was not there at its first look.
        if self._first and lock.take() and self._folder.config.exists():
            raise UserError(
                f"{self._folder.path}: another process has begun this run meanwhile; "
                f"run the same command again"
            )
        if not self._finished_steps:
            if self._first:
                # `checkpoints/last` is one; the first checkpoint may be hours away.
                check_links(self._folder.path, "choose another output_dir")
            self._write()

    def on_train_start(self, *_: object) -> None:
        """Writes the settings of a resumed run: the checkpoint has been loaded by now."""
        self._write()

    def refusal(self, error: Exception) -> UserError | None:
        """Explains an error of a checkpoint that does not load.

        Args:
            error: What torch or Lightning raised while the run was trained.

        Returns:
            The line for the user; None for any other error.
        """
        # The checkpoint has been loaded by then, so the error is another one.
        if self._written:
            return None

        checkpoint = self._folder.last_checkpoint()
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        # torch may name every tensor that does not fit, each in a line of its own.
        reason = " ".join(lines[:2])[:200]
        if self._changes:
            return UserError(
                f"{checkpoint}: does not go with what changed ({spell_changes(self._changes)}): "
                f"{reason}; restore it, or choose another name"
            )
        return UserError(
            f"{checkpoint}: cannot be loaded ({type(error).__name__}: {reason}); "
            f"point checkpoints/last at another one"
        )

    def _write(self) -> None:
        if self._first and not self._written:
            self._record()
        # On all ranks: it also says that an error is no checkpoint's.
        self._written = True

    def _record(self) -> None:
        folder = self._folder
        folder.checkpoints.mkdir(parents=True, exist_ok=True)
        # Before config.yaml: a start that finds its own settings there does not ask again.
        begun = folder.lineage.schedule_at(self._finished_steps)
        if self._anchor != START or begun:
            folder.lineage.begin_schedule(self._anchor._asdict(), step=self._finished_steps)
        write_whole(folder.config, to_yaml(_with_found_captions(self._settings, self._data)))

        vocabulary = self._data.vocabulary
        vocabulary.save(folder.path if isinstance(vocabulary, ClassList) else folder.tokenizer)

        # A later start has its weights from the checkpoint, whatever the settings name now.
        begins_with = {} if self._finished_steps else origin(self._settings)
        folder.lineage.begin_stretch(
            self._data.recipe, step=self._finished_steps, begins_with=begins_with
        )
        if self._changes:
            pairs = {key: list(pair) for key, pair in self._changes.items()}
            folder.lineage.note_changes(pairs, step=self._finished_steps)
