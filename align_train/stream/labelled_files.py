"""Image files with texts and labels, for evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch.utils.data import Dataset

from align_train.errors import UserError
from align_train.stream.decode import Pixels, Views, decode_centre
from align_train.stream.records import About, Record


class LabelledFiles(Dataset[Pixels]):
    """The images of some files, as they are evaluated, with the texts and record of each."""

    def __init__(
        self,
        files: Sequence[Path],
        texts: Sequence[list[str]],
        records: Sequence[Record],
        views: Views,
    ) -> None:
        """Reads nothing yet.

        Args:
            files: The files.
            texts: Of each file.
            records: Of each file, its labels and the like.
            views: Decide how an image is evaluated.
        """
        self.files = files
        self.texts = texts
        self.records = records
        self.views = views

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Pixels:
        file = self.files[index]
        try:
            return decode_centre(file.read_bytes(), self.views)
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror or error})") from None
        except ValueError as error:
            raise UserError(
                f"{file}: {error}; images to evaluate on must be whole: repair or remove it"
            ) from None

    def about(self) -> About:
        """Returns the texts and the record of every image."""
        return list(zip(self.texts, self.records, strict=True))
