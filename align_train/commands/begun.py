"""What a run keeps for good of what it began with: images, sizes of weights, places of captions.

The weights that its towers began with, or the library that describes them, may be gone or changed
when the run goes on.
"""

from __future__ import annotations

from align_train.cluster import launcher
from align_train.config.saved import read_run, with_values
from align_train.config.schema import Node, TrainSettings
from align_train.model.bert_config import BERT_SIZES
from align_train.model.expected_images import PREPARATION
from align_train.run.folder import RunFolder

FOUND_OUT = ("caption", "held_out_caption")
"""Settings of the data that a run finds out where they are null."""


def as_begun(folder: RunFolder, settings: TrainSettings, finished_steps: int) -> TrainSettings:
    """Takes from a run that goes on what its towers and its data had when it began.

    Pixels must not change under a model. Runs of before these settings existed have ALIGN's.

    Args:
        folder: The run's folder.
        settings: The settings of this start.
        finished_steps: Steps in the last checkpoint; 0: the run is new, and nothing is taken.

    Returns:
        The settings to go on with.
    """
    if not finished_steps or not folder.config.exists():
        return settings
    begun = read_run(folder.config)
    before = begun.model
    kept: dict[str, object] = {}
    for key in PREPARATION:
        if settings.model.get(key) != before.get(key):
            kept[f"model.{key}"] = before.get(key)
        # The data cuts images for this model, so its node repeats some of the values.
        if key in settings.data and settings.data[key] != before.get(key):
            kept[f"data.{key}"] = before.get(key)

    text_tower = before.get("text_tower") or {}
    if text_tower.get("pretrained"):
        # The weights may be gone by now, and with them what they say.
        for key in BERT_SIZES:
            if key in text_tower and settings.model["text_tower"].get(key) != text_tower[key]:
                kept[f"model.text_tower.{key}"] = text_tower[key]
    if text_tower.get("pretrained") or text_tower.get("name"):
        kept |= _of_encoder(settings, text_tower)
        if settings.model.get("vocabulary_size") is None:
            kept["model.vocabulary_size"] = before.get("vocabulary_size")

    # A data module of the user may lack the key, which is not the same as null.
    if settings.data.get("caption", "") is None:
        for key in FOUND_OUT:
            if settings.data.get(key) is None:
                kept[f"data.{key}"] = begun.data.get(key)

    # The configuration of an encoder is a mapping of many lines, too long for this one.
    told = {key: value for key, value in kept.items() if not isinstance(value, dict)}
    shown = [f"{key}: {value}" for key, value in told.items() if key.startswith("model.")]
    if shown and launcher.is_first_process():
        print(f"{folder.path}: keeps what it began with ({'; '.join(shown)})", flush=True)
    return with_values(settings, kept) if kept else settings


def _of_encoder(settings: TrainSettings, before: Node) -> dict[str, object]:
    """What the model of an encoder's name said, if that model is gone."""
    kept: dict[str, object] = {}
    now = settings.model["text_tower"]
    if "model_type" in (before.get("config") or {}) and "model_type" not in (
        now.get("config") or {}
    ):
        for key in ("config", "pooling", "pad_id"):
            kept[f"model.text_tower.{key}"] = before.get(key)
    return kept
