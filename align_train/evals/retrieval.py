"""Retrieval in both directions: recall at 1, 5 and 10, median and mean rank (paper, section 5.1).

Price: see `similarity.py`; never a whole matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from align_train.errors import UserError
from align_train.evals.base import Evaluator, share
from align_train.evals.embedder import EmbeddedPairs, Embedder
from align_train.evals.similarity import retrieval_ranks, similarities
from align_train.figures.plots import draw_similarity
from align_train.figures.sheets import Hit, draw_answers, hit_sheet, save_sheet
from align_train.stream.sets import ImageSet, OpenSet

_SHOWN = 40  # images on a contact sheet
_QUERIES = 8  # texts that are drawn with their hits
_HITS = 6  # images that are drawn beside a text
_MATRIX = 24  # pairs whose similarities are drawn

_RECALL_AT = (1, 5, 10)

_DIRECTIONS = ("image_to_text", "text_to_image")


class Retrieval(Evaluator):
    """From images to texts, and from texts to images.

    An image with several texts is found if any of them is.
    """

    def __init__(
        self,
        *,
        data: ImageSet | None = None,
        recall_at: Sequence[int] = _RECALL_AT,
    ) -> None:
        """Checks the settings.

        Args:
            data: The images and their texts; None: the run's held-out pairs.
            recall_at: A query counts as found at `k` if a right answer is among the first `k`.

        Raises:
            UserError: A number of `recall_at` is below 1, or there is none.
        """
        if not recall_at or min(recall_at) < 1:
            raise UserError(
                f"eval: recall_at={list(recall_at)}: expected some numbers, each at least 1"
            )
        self.data = data
        self.recall_at = tuple(recall_at)

    @classmethod
    def metrics(cls, settings: Mapping[str, object]) -> Sequence[str] | None:
        """Those of both directions."""
        recall_at = settings.get("recall_at", _RECALL_AT)
        # A value of another type has an error of its own when the evaluator is built.
        if not isinstance(recall_at, Sequence):
            return None
        names = [f"recall@{k}" for k in recall_at]
        names += ["median_rank", "mean_rank"]
        return [f"{direction}/{name}" for direction in _DIRECTIONS for name in names]

    def sets(self) -> Sequence[ImageSet | None]:
        """Asks for the images and their texts."""
        return (self.data,)

    @torch.inference_mode()
    def __call__(self, embedder: Embedder) -> Iterator[tuple[str, float]]:
        """Yields `DIRECTION/recall@K`, `DIRECTION/median_rank` and `DIRECTION/mean_rank`.

        Ranks count from 1.

        Args:
            embedder: Makes embeddings, or has them already.
        """
        pairs = embedder.pairs(self.data)
        of_images, of_texts = retrieval_ranks(pairs.images, pairs.texts, pairs.image_of_text)
        self.right = of_images == 0

        yield from self._of_direction(_DIRECTIONS[0], of_images)
        yield from self._of_direction(_DIRECTIONS[1], of_texts)

    def _of_direction(self, direction: str, ranks: Tensor) -> Iterator[tuple[str, float]]:
        for k in self.recall_at:
            yield f"{direction}/recall@{k}", share(ranks < k)

        # Floored before 1 is added, like the evaluation of VSE++ (Faghri et al. 2018).
        median = ranks.double().quantile(0.5).floor()
        yield f"{direction}/median_rank", float(median) + 1

        mean = ranks.double().mean()
        yield f"{direction}/mean_rank", float(mean) + 1

    @torch.inference_mode()
    def draw(self, embedder: Embedder, folder: Path, name: str) -> None:
        """Draws the first pairs and their hits.

        `NAME.png` has images over the text found for them, and a text of theirs if that is another.
        `NAME_text_to_image.png` has texts, their own images and the images found for them.
        `NAME_similarity.png` has the first pairs against each other.

        Args:
            embedder: The embedder of the last call.
            folder: The folder for the files.
            name: The name of this evaluator, NAME above.
        """
        pairs = embedder.pairs(self.data)
        images = embedder.images_of(self.data)

        answers: list[str] = []
        for _, similarity in similarities(pairs.images[:_SHOWN], pairs.texts):
            closest = similarity.argmax(dim=1).tolist()
            answers += [pairs.captions[index] for index in closest]
        own = [pairs.captions[index] for index in pairs.first_text[:_SHOWN].tolist()]
        draw_answers(
            images.__getitem__,
            answers,
            self.right.tolist(),
            folder / f"{name}.png",
            title=f"{name}: the nearest text to each image",
            truths=own,
        )

        self._draw_hits(pairs, images, folder / f"{name}_text_to_image.png", title=name)
        self._draw_similarity(pairs, images, folder / f"{name}_similarity.png", title=name)

    @staticmethod
    def _draw_hits(pairs: EmbeddedPairs, images: OpenSet, path: Path, *, title: str) -> None:
        queries = pairs.first_text[:_QUERIES]
        # So few queries are one block.
        _, similarity = next(similarities(pairs.texts[queries], pairs.images))
        scores, indices = similarity.topk(min(_HITS, len(images)))

        rows = []
        for row, query in enumerate(queries.tolist()):
            own = int(pairs.image_of_text[query])
            hits = []
            for score, index in zip(scores[row].tolist(), indices[row].tolist(), strict=True):
                right = index == own
                hits.append(Hit(images[index], f"{score:.3f}", right))

            rows.append((pairs.captions[query], images[own], hits))
        sheet = hit_sheet(
            rows,
            title=f"{title}: the nearest images to each text, with their cosines",
            legend=("the text's own image", "another one"),
            image_is="Beside each text: its own image.",
        )
        save_sheet(sheet, path)

    @staticmethod
    def _draw_similarity(
        pairs: EmbeddedPairs,
        images: OpenSet,
        path: Path,
        *,
        title: str,
    ) -> None:
        # One text an image: the diagonal has the pairs that belong together.
        texts = pairs.first_text[:_MATRIX]
        captions = [pairs.captions[index] for index in texts.tolist()]
        shown = [images[index] for index in range(len(texts))]
        _, matrix = next(similarities(pairs.images[:_MATRIX], pairs.texts[texts]))

        draw_similarity(
            matrix.cpu().numpy(),
            shown,
            captions,
            path,
            title=title,
        )
