"""The text files of an evaluation set in the layout of CLIP_benchmark's `wds_*` data sets.

    classnames.txt                              a class a line, in the order of the labels
    zeroshot_classification_templates.txt       a prompt a line, with {c} for the class
    dataset_type.txt                            retrieval or multilabel; absent: classification
    test/nshards.txt, test/0.tar, test/1.tar …  the images of the split `test`

In another language the first two are `classnames_ja.txt` and
`zeroshot_classification_templates_ja.txt`. That is our own rule: CLIP_benchmark has no language in
this layout.

Price: four small files a set.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from align_train.errors import UserError, shown, shown_names
from align_train.shards.cache import ShardCache
from align_train.shards.remote import Vanished, is_url

Kind = Literal["classification", "multilabel", "retrieval"]

CLASS_NAMES = "classnames"
TEMPLATES = "zeroshot_classification_templates"

# The language of the files that name none.
DEFAULT_LANGUAGE = "en"

_LAYOUT = (
    f"expected CLIP_benchmark's layout: SPLIT/nshards.txt, SPLIT/0.tar, …, {CLASS_NAMES}.txt and "
    f"{TEMPLATES}.txt, or dataset_type.txt that says retrieval"
)

# Servers of plain files have no listings.
_WEB = ("http://", "https://")


@dataclass(frozen=True)
class Description:
    """What the text files of a set say.

    Attributes:
        kind: The task.
        shards: The tars of the split, as `data.shards` takes them.
        classes: The names of the classes, in the order of the labels; of retrieval none.
        templates: Prompts with `{c}` or `{}` for the class; of retrieval none.
    """

    kind: Kind
    shards: str
    classes: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class WdsFiles:
    """The folder of a set.

    Attributes:
        folder: Its path or URL; on the hub at a commit.
        split: The folder of the tars in it.
        language: Of the class names and prompts; None: the files that name no language.
        keys: The names of the set in files of several sets.
        classnames: The user's file in the place of the set's own; None: the set's.
        templates: The same of the prompts.
        cache: Fetches remote files.
    """

    folder: str
    split: str
    language: str | None
    keys: Sequence[str]
    classnames: str | None
    templates: str | None
    cache: ShardCache

    def describe(self) -> Description:
        """Reads the files.

        Raises:
            UserError: A file is missing, or is not as expected.
        """
        if not is_url(self.folder) and not Path(self.folder).is_dir():
            raise UserError(f"{self.folder}: no such folder; {_LAYOUT}")

        shards = self._shards()
        kind = self._kind()
        if kind == "retrieval":
            if self.language is not None:
                raise UserError(
                    f"{self.folder}: a retrieval set has the one language of its captions; leave "
                    f"language={self.language} out for it"
                )
            return Description(kind, shards)

        classes = self._lines_of(CLASS_NAMES, self.classnames, setting="classnames")
        templates = self._lines_of(TEMPLATES, self.templates, setting="templates")
        return Description(kind, shards, tuple(classes), tuple(templates))

    def _shards(self) -> str:
        name = f"{self.split}/nshards.txt"
        text = self._text(name)
        if text is None:
            raise UserError(
                f"{self.folder}: no {name}{self._which('*/nshards.txt', 'splits')}; {_LAYOUT}"
            )

        count = text.strip()
        if not count.isascii() or not count.isdigit() or int(count) < 1:
            raise UserError(
                f"{self.folder}/{name}: says {shown(count)!r}; expected the number of tars, at "
                f"least 1"
            )
        last = int(count) - 1
        return f"{self.folder}/{self.split}/" + (f"{{0..{last}}}.tar" if last else "0.tar")

    def _kind(self) -> Kind:
        name = "dataset_type.txt"
        kind = (self._text(name) or get_args(Kind)[0]).strip().lower()
        if kind not in get_args(Kind):
            raise UserError(
                f"{self.folder}/{name}: says {shown(kind)!r}; expected {', '.join(get_args(Kind))}"
            )
        return cast(Kind, kind)

    def _lines_of(self, kind: str, given: str | None, *, setting: str) -> list[str]:
        """The class names, or the prompts: of the user's file, or of the set's own."""
        if given is not None:
            return self._given(given, setting)

        names = [f"{kind}.txt"]
        if self.language is not None:
            names.insert(0, f"{kind}_{self.language}.txt")
            # English is what CLIP_benchmark's files are in.
            if self.language != DEFAULT_LANGUAGE:
                names.pop()
        for name in names:
            text = self._text(name)
            if text is not None:
                return _lines(text, f"{self.folder}/{name}")

        which = self._which(f"{kind}*.txt", "such files")
        raise UserError(
            f"{self.folder}: no {names[0]}{which}; add it, or give {setting}=…, a file with a "
            f"line each"
        )

    def _given(self, given: str, setting: str) -> list[str]:
        """The lines of a user's file: of a text, or of JSON with the lines of several sets."""
        path = given.replace("{language}", self.language or DEFAULT_LANGUAGE)
        where = f"eval: {setting}={path}"
        try:
            text = Path(path).expanduser().read_text(encoding="utf-8-sig")
        except OSError as error:
            raise UserError(f"{where}: {error.strerror}; give another file") from None
        except UnicodeDecodeError:
            raise UserError(f"{where}: not UTF-8; write it anew") from None
        if not path.lower().endswith(".json"):
            return _lines(text, where)

        try:
            of_sets = json.loads(text)
        except (ValueError, RecursionError):
            of_sets = None
        if not isinstance(of_sets, dict):
            raise UserError(f'{where}: expected JSON such as {{"cifar10": ["airplane", …]}}')
        for key in self.keys:
            lines = of_sets.get(key)
            if isinstance(lines, list) and lines and all(isinstance(line, str) for line in lines):
                return [line.strip() for line in lines]
            if lines is not None:
                raise UserError(f"{where}: {key}: expected a list of texts")
        raise UserError(
            f"{where}: says nothing of {self.keys[-1]}; it has {shown_names(map(str, of_sets))}"
        )

    def _text(self, name: str) -> str | None:
        """A small file; None if there is none."""
        url = f"{self.folder}/{name}"
        if not is_url(url) and not Path(url).is_file():
            return None
        try:
            # Notepad begins a text with a byte order mark, which utf-8-sig skips.
            return self.cache.read(url).decode("utf-8-sig")
        except Vanished:
            return None
        except UnicodeDecodeError:
            raise UserError(f"{url}: not UTF-8; write it anew") from None

    def _which(self, pattern: str, what: str) -> str:
        """Which of such files there are, for an error."""
        if self.folder.startswith(_WEB):
            return ""
        found: list[str] = []
        if is_url(self.folder):
            with contextlib.suppress(Vanished):  # the whole set is not there
                found = self.cache.glob(f"{self.folder}/{pattern}")
        else:
            found = [str(path) for path in Path(self.folder).glob(pattern)]
        names = sorted(path.removeprefix(f"{self.folder}/") for path in found)
        return f" (there are these {what}: {shown_names(names)})" if names else ""


def _lines(text: str, where: str) -> list[str]:
    """The lines of a file, stripped; UserError if one is empty: labels count lines."""
    lines = [line.strip() for line in text.splitlines()]
    if not lines:
        raise UserError(f"{where}: empty; expected a line each")
    if "" in lines:
        raise UserError(f"{where}: line {lines.index('') + 1} is empty; take it out")
    return lines
