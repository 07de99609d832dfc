"""Evaluation sets by name: CLIP_benchmark's `wds_*` data sets, each an evaluator of its own.

What a set is asked for follows from its files: classification (`ZeroShot`), classification with
several classes an image (`MultiLabel`), or retrieval (`Retrieval`).

`wds_lists.json` holds CLIP_benchmark's lists of names (version 1.6.2, MIT licence): its
collections, and as `webdatasets` those of its `benchmark/webdatasets.txt`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from align_train.errors import UserError, shown
from align_train.evals.base import Evaluator, EvaluatorGroup
from align_train.evals.embedder import Embedder, ImagesOf
from align_train.evals.multi_label import MultiLabel
from align_train.evals.prompts import parse_templates
from align_train.evals.retrieval import Retrieval
from align_train.evals.zero_shot import ZeroShot
from align_train.shards.remote import is_url
from align_train.stream.classes import ClassNames
from align_train.stream.sets import ImageSet
from align_train.stream.wds import CLASS, CLASSES, OpenWdsSet, WdsSet
from align_train.stream.wds_files import DEFAULT_LANGUAGE, Description

_LISTS = Path(__file__).parent / "wds_lists.json"

# With fewer classes CLIP_benchmark gives no acc5.
_TOP = 5

_PLACE = "{name}"
# What CLIP_benchmark calls it.
_THEIR_PLACE = "{dataset_cleaned}"
_PREFIX = "wds_"

# The page of a data set, by which CLIP_benchmark's command names it.
_PAGE = re.compile(r"https://huggingface\.co/datasets/([^/]+/[^/]+)/tree/([^/]+)/?(.*)")

# How a path begins that is no name of a set.
_PATHS = ("/", "./", "../", "~")


class WdsEvaluator(Evaluator):
    """The task of one set."""

    def __init__(self, *, data: WdsSet, recall_at: Sequence[int] = (1, 5, 10)) -> None:
        """Opens nothing yet.

        Args:
            data: The set.
            recall_at: Of retrieval, see `Retrieval`.

        Raises:
            UserError: A number of `recall_at` is below 1, or there is none.
        """
        self.data = data
        # Made in any case: a wrong `recall_at` shows before any set is opened.
        self.retrieval = Retrieval(data=data, recall_at=recall_at)
        self.task: Evaluator | None = None
        self.description: Description | None = None

    def stands_alone(self) -> bool:
        """A set that is broken, or not there, costs the others nothing."""
        return True

    def sets(self) -> Sequence[ImageSet | None]:
        """Asks for the set."""
        return (self.data,)

    def check(self, images_of: ImagesOf) -> None:
        """Checks labels and prompts.

        Args:
            images_of: Opens the set.

        Raises:
            UserError: An image has no label or caption, or a prompt no place for the class.
        """
        self._task(images_of).check(images_of)

    def __call__(self, embedder: Embedder) -> Iterable[tuple[str, float]]:
        """Yields the metrics of the set's task.

        Args:
            embedder: Makes embeddings, or has them already.
        """
        return self._task(embedder.images_of)(embedder)

    def draw(self, embedder: Embedder, folder: Path, name: str) -> None:
        """Draws the result of the last call.

        Args:
            embedder: The embedder of the last call.
            folder: The folder for the files.
            name: The name of this evaluator.
        """
        if self.task is not None:
            self.task.draw(embedder, folder, name)

    def _task(self, images_of: ImagesOf) -> Evaluator:
        """Chooses the task when the set is first opened."""
        if self.task is None:
            opened = images_of(self.data)
            assert isinstance(opened, OpenWdsSet)
            self.description = opened.description
            self.task = self._task_of(opened.description)
        return self.task

    def _task_of(self, description: Description) -> Evaluator:
        if description.kind == "retrieval":
            return self.retrieval

        names = list(description.classes)
        templates = list(description.templates)
        # Here the error names the set; all of its prompts would be a long line.
        parse_templates(templates, f"prompts of {self.data.folder}")
        if description.kind == "multilabel":
            return MultiLabel(classes=names, templates=templates, field=CLASSES, data=self.data)
        return ZeroShot(classes=ClassNames(names), templates=templates, label=CLASS, data=self.data)

    def columns(self, values: Mapping[str, float]) -> dict[str, str | float]:
        """Spells results as a row of CLIP_benchmark's table.

        Args:
            values: By the names of the task's metrics.

        Returns:
            By the names of its columns; those of other tasks are left out.
        """
        assert self.description is not None
        kind = self.description.kind
        row: dict[str, str | float] = {
            "dataset": f"wds/{self.data.title}",
            "language": self.data.language or DEFAULT_LANGUAGE,
            "task": f"zeroshot_{'retrieval' if kind == 'retrieval' else 'classification'}",
        }
        for metric, value in values.items():
            column = _column(metric)
            few = metric == "top5" and len(self.description.classes) < _TOP
            if column is not None and not few:
                row[column] = value
        return row


def _column(metric: str) -> str | None:
    """CLIP_benchmark's name of a metric; None if it has no such metric."""
    direction, slash, recall = metric.partition("/")
    if slash:
        # It names what is retrieved, we name both ends.
        found = "text" if direction == "image_to_text" else "image"
        return f"{found}_retrieval_{recall}" if recall.startswith("recall@") else None
    return {
        "top1": "acc1",
        "top5": "acc5",
        "mean_per_class": "mean_per_class_recall",
        "mean_average_precision": "mean_average_precision",
    }.get(metric)


class WdsSets(EvaluatorGroup):
    """Sets by name: the evaluators `wds_NAME`, in each language `wds_NAME_LANGUAGE`."""

    def __init__(
        self,
        *,
        sets: str | Sequence[str],
        root: str,
        split: str = "test",
        language: str | Sequence[str] | None = None,
        classnames: str | None = None,
        templates: str | None = None,
        recall_at: Sequence[int] = (1, 5, 10),
    ) -> None:
        """Makes the list of evaluators; opens nothing.

        Args:
            sets: Names of sets, folders or URLs, lists of CLIP_benchmark (`vtab+`), or text files
                with a name a line; one, or several.
            root: The place of a set that is named: with `{name}` for the name, or a folder or URL
                with a folder `wds_NAME` for each.
            split: The split that is evaluated.
            language: Of class names and prompts, or several: see `WdsSet`.
            classnames: See `WdsSet`.
            templates: See `WdsSet`.
            recall_at: Of retrieval, see `Retrieval`.

        Raises:
            UserError: There are no sets, or a file of names cannot be read.
        """
        languages = [language] if language is None or isinstance(language, str) else language
        self._evaluators: dict[str, WdsEvaluator] = {}
        for name in _names([sets] if isinstance(sets, str) else sets):
            folder, title = _place(name, root)
            for one in languages or [None]:
                data = WdsSet(
                    folder=folder,
                    split=split,
                    language=one,
                    name=title,
                    classnames=classnames,
                    templates=templates,
                )
                own = "_".join([_PREFIX + _cleaned(data.title), *([one] if one else [])])
                if own in self._evaluators:
                    raise UserError(f"eval: sets: {own} is there twice; take one of them out")
                self._evaluators[own] = WdsEvaluator(data=data, recall_at=recall_at)

        if not self._evaluators:
            raise UserError("eval: sets=[]: expected names of sets, such as [cifar10,mnist]")

    def evaluators(self) -> Mapping[str, WdsEvaluator]:
        """Returns the evaluators by name."""
        return self._evaluators


def _names(sets: Sequence[str]) -> Iterator[str]:
    """The names of all sets, each once, without CLIP_benchmark's `wds/`."""
    lists: dict[str, list[str]] = json.loads(_LISTS.read_text(encoding="utf-8"))
    seen: set[str] = set()
    for item in sets:
        names = lists.get(item, [item])
        if item.endswith(".txt") and not is_url(item):
            names = _read_names(item)
        for name in names:
            name = name.strip().removeprefix("wds/")
            # The lists of CLIP_benchmark overlap: a set that two of them name is evaluated once.
            if name and name not in seen:
                seen.add(name)
                yield name


def _read_names(path: str) -> list[str]:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UserError(
            f"eval: sets={path}: {reason}; expected a text file with the name of a set a line"
        ) from None


def _place(name: str, root: str) -> tuple[str, str | None]:
    """The folder of a set, and its name in tables; None: as the folder says."""
    # `vtab/cifar10` is a name, unless there is such a folder.
    if is_url(name) or name.startswith(_PATHS) or ("/" in name and Path(name).is_dir()):
        return _address(name), None

    root = root.replace(_THEIR_PLACE, _PLACE)
    if _PLACE not in root:
        root = f"{root.rstrip('/')}/{_PREFIX}{_PLACE}"
    short = name.removeprefix(_PREFIX)
    if not _cleaned(short) or short.startswith("."):
        raise UserError(f"eval: sets: {shown(name)!r}: expected the name of a set, such as cifar10")
    return _address(root.replace(_PLACE, _cleaned(short))), short


def _address(place: str) -> str:
    """The `hf://` URL of a page on the hub; any other place as it is."""
    page = _PAGE.fullmatch(place)
    return place if page is None else f"hf://datasets/{page[1]}@{page[2]}/{page[3]}".rstrip("/")


def _cleaned(name: str) -> str:
    """A name without slashes, as the hub has it: `vtab-cifar10`."""
    return name.replace("/", "-")
