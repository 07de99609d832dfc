"""Settings of what a run takes from models that are trained already: a teacher, or adapters."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class DistillationSettings:
    """A teacher that the run learns from beside its pairs (docs/distillation.md).

    Off unless one of the first two is given.
    """

    model: str | None
    """The teacher: a run, an exported folder, or a model of Hugging Face's; it sees each step's
    images and texts. null: none."""

    embeddings: str | None
    """A folder of `align_train.score embeddings=true`: the teacher's embeddings of these shards.
    null: none."""

    weight: float
    """Share of the loss that is the teacher's, above 0 and at most 1; the pairs' own loss has the
    rest."""

    temperature: float | None
    """The number that the teacher's cosines are divided by; null: the teacher's own."""

    @property
    def on(self) -> bool:
        """Whether there is a teacher."""
        return self.model is not None or self.embeddings is not None


@dataclass
class LoraSettings:
    """Adapters of low rank in towers whose own weights are locked (docs/lora.md).

    Off unless one of the first two is given.
    """

    image: int | None
    """Rank of the adapters in the image tower; null: it has none."""

    text: int | None
    """Rank of the adapters in the text tower; null: it has none."""

    alpha: float
    """An adapter's output is multiplied by alpha / rank."""

    dropout: float
    """Share of an adapter's input that is dropped."""

    image_targets: list[str]
    """Ends of the names of layers that get an adapter; empty: every linear layer, and every
    convolution of 1 x 1, in the tower's blocks."""

    text_targets: list[str]
    """As `image_targets`, of the text tower."""

    projections: bool
    """Whether the linear layers on top of these towers are trained too, whole."""

    @property
    def on(self) -> bool:
        """Whether a tower has adapters."""
        return self.image is not None or self.text is not None

    def rank(self, tower: str) -> int | None:
        """The rank in a tower, `image` or `text`."""
        return self.image if tower == "image" else self.text

    def targets(self, tower: str) -> list[str]:
        """The targets in a tower, `image` or `text`."""
        return self.image_targets if tower == "image" else self.text_targets
