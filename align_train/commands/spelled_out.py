"""What a run's settings leave to a trained model, or to a tower by name, spelled out."""

from __future__ import annotations

from align_train.config.schema import Node


def explicit(model: Node, data: Node) -> Node:
    """Spells out what a trained model, or a tower with weights of its own, brings with it.

    Args:
        model: The node of the model.
        data: The node of the data.

    Returns:
        Settings that take the place of others, by dotted key.

    Raises:
        UserError: The model or tower cannot be found.
    """
    if "path" in model:
        from align_train.pretrained.explicit import explicit_settings

        return explicit_settings(model, data)

    towers = (model.get("image_tower"), model.get("text_tower"))
    asked = any(isinstance(tower, dict) and tower.get("pretrained") for tower in towers)
    # A text encoder by name brings its configuration, also without its weights.
    asked |= isinstance(towers[1], dict) and bool(towers[1].get("name"))
    # Others need nothing, and must not wait for torch.
    if not asked and model.get("image_size", 0) is not None:
        return {}
    from align_train.pretrained.towers import tower_settings

    return tower_settings(model, data)
