"""Images at a URL, fetched when they are packed: whatever fsspec reaches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from align_train.errors import UserError
from align_train.shards.file_system import FileSystem
from align_train.shards.remote import Vanished, is_url
from align_train.shards.retry import Source

from .images import Image, ImageFile

# Seconds. An image has less patience than a shard: there are many, and a dead server has more.
_PATIENCE = 30.0
_STALL = 15.0


class NotFetched(Exception):
    """An image at a URL that did not come; the text is the reason, in one line."""


@dataclass(frozen=True, slots=True)
class RemoteImage:
    """An image at a URL.

    Attributes:
        name: The path or URL as the table has it.
        url: Where it lies.
        source: Asks for it.
    """

    name: str
    url: str
    source: Source

    def __hash__(self) -> int:
        """By the URL alone: options of a source have no hash."""
        return hash(self.url)

    def read(self) -> bytes:
        """Fetches the image.

        Raises:
            NotFetched: It did not come.
        """
        try:
            return self.source.ask(self.url, _cat)
        except Vanished:
            raise NotFetched("no such file there") from None
        except UserError as error:
            # The URL is the image's name, which whoever prints this has.
            raise NotFetched(as_of_pack(error).removeprefix(f"{self.url}: ")) from None


def as_of_pack(error: UserError) -> str:
    """An error of the retries, with the keys of `data.pack`, which are not those of a run."""
    line = str(error).replace(" (data.staging.patience)", "")
    return line.replace("data.storage_options", "storage_options")


def root_of(setting: str | None) -> Path | str | None:
    """The setting `root`: a folder, or a URL as it is."""
    if setting is None or is_url(setting):
        return setting
    return Path(setting).expanduser()


class Places:
    """From the paths of a table to its images, on a disk or at a URL."""

    def __init__(self, root: Path | str, options: Mapping[str, object]) -> None:
        """Asks for nothing.

        Args:
            root: The folder or URL from which paths start.
            options: For the file systems of fsspec.
        """
        self.root = root
        self._source = Source(options, _PATIENCE, _STALL)

    def image(self, path: str) -> Image:
        """Returns the image at a path or URL; it need not be there."""
        if is_url(path):
            return RemoteImage(path, path, self._source)
        if isinstance(self.root, Path):
            # By `Path`, so that ./a.png and a.png are the same.
            return ImageFile(str(Path(path)), self.root)

        name = Path(path).as_posix()
        if not self.root.startswith(("http://", "https://")):
            return RemoteImage(name, f"{self.root.rstrip('/')}/{name}", self._source)
        # A web server reads % and # as signs. The query may sign all that is below the root.
        base, mark, query = self.root.partition("?")
        return RemoteImage(name, f"{base.rstrip('/')}/{quote(name)}{mark}{query}", self._source)


def _cat(fs: FileSystem, path: str) -> bytes:
    return fs.cat_file(path)
