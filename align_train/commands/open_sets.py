"""The sets of images of an evaluation: which pairs are held out, and how an image is cut."""

from __future__ import annotations

from align_train.commands.captions import caption_of_run
from align_train.config.command_schema import EvaluateSettings
from align_train.config.components import build
from align_train.config.schema import Node
from align_train.errors import UserError
from align_train.pretrained.pretrained import Pretrained
from align_train.shards.members import Members
from align_train.stream.sets import EvaluationSets
from align_train.stream.shard_cache import shard_cache_of
from align_train.stream.vocabulary import open_vocabulary

_SIZES = ("image_size", "resize_size")

# Pixels a side.
_LEAST_SIDE = 8
_LARGEST_SIDE = 4096


def open_sets(pretrained: Pretrained, settings: EvaluateSettings, data: Node) -> EvaluationSets:
    """Opens the held-out pairs. The training shards may long be gone, and stay closed.

    Args:
        pretrained: The model.
        settings: Of the command.
        data: The node `data` of the model's run, or the default one.

    Returns:
        The sets, of which evaluators open their own.

    Raises:
        UserError: The pairs are not there, a size is impossible, or the model lacks a tokenizer.
    """
    given: dict[str, int] = {}
    for key in _SIZES:
        size = getattr(settings, key)
        if size is not None:
            given[key] = size

    for part, reason in pretrained.missing.items():
        # Both sizes replace a processor that the folder lacks. Nothing replaces a tokenizer.
        if part != "preprocess" or len(given) < len(_SIZES):
            raise UserError(f"{reason}; {part} is needed to evaluate")

    sizes: dict[str, int] = {key: data[key] for key in _SIZES}
    if "image_size" in given and "resize_size" not in given:
        # The crop stays the same part of the image.
        given["resize_size"] = round(given["image_size"] * data["resize_size"] / data["image_size"])
    sizes |= given
    if not _LEAST_SIDE <= sizes["image_size"] <= sizes["resize_size"] <= _LARGEST_SIDE:
        spelled = ", ".join(f"{key}={size}" for key, size in sizes.items())
        raise UserError(
            f"{spelled}: expected {_LEAST_SIDE} to {_LARGEST_SIDE:,} pixels, the crop no larger "
            f"than the image that it is cut from"
        )

    vocabulary = open_vocabulary(
        tokenizer=pretrained.tokenizer,
        max_tokens=data["max_tokens"],
        classes=pretrained.classes,
    )
    # The run's own shards are those of its own commits.
    run = None if settings.shards is not None else pretrained.run
    revisions = run.lineage.revisions(pretrained.step or 0) if run else {}
    members = Members.parse(
        settings.image or data.get("image"), settings.keys or data.get("keys"), prefix=""
    )
    return EvaluationSets(
        held_out=data["held_out"],
        caption=settings.caption or caption_of_run(settings.shards, data, members),
        vocabulary=vocabulary,
        views=pretrained.views(**sizes),
        members=members,
        cache=shard_cache_of(build(data["staging"]), data["storage_options"], revisions),
        # Errors name the setting that the user has given.
        key="shards" if settings.shards is not None else "data.held_out",
    )
