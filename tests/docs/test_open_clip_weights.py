"""The script that makes Hugging Face's CLIP of open_clip's gives every tensor its place."""

from __future__ import annotations

import re
from typing import Any

import torch
from transformers import CLIPConfig, CLIPModel

from tests.support.commands import REPOSITORY

PAGE = REPOSITORY / "docs" / "open_clip_weights.md"

WIDTH, DIM, TOKENS, POSITIONS = 16, 8, 30, 5


def script() -> dict[str, Any]:
    """The names that the page's script defines."""
    found = re.search(r"```python\n(# to_clip\.py\n.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {"__name__": "to_clip"}
    exec(found[1], names)
    return names


def blocks(prefix: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a transformer's only block, as open_clip 3.3 has them."""
    block = f"{prefix}transformer.resblocks.0."
    shapes: dict[str, tuple[int, ...]] = {
        "attn.in_proj_weight": (3 * WIDTH, WIDTH),
        "attn.in_proj_bias": (3 * WIDTH,),
        "attn.out_proj.weight": (WIDTH, WIDTH),
        "attn.out_proj.bias": (WIDTH,),
        "mlp.c_fc.weight": (4 * WIDTH, WIDTH),
        "mlp.c_fc.bias": (4 * WIDTH,),
        "mlp.c_proj.weight": (WIDTH, 4 * WIDTH),
        "mlp.c_proj.bias": (WIDTH,),
    }
    for norm in ("ln_1", "ln_2"):
        shapes |= {f"{norm}.weight": (WIDTH,), f"{norm}.bias": (WIDTH,)}
    return {block + name: shape for name, shape in shapes.items()}


def open_clip_tensors() -> dict[str, torch.Tensor]:
    """The tensors of open_clip's CLIP, with one block a tower and random values."""
    shapes: dict[str, tuple[int, ...]] = {
        "positional_embedding": (POSITIONS, WIDTH),
        "text_projection": (WIDTH, DIM),
        "logit_scale": (),
        "token_embedding.weight": (TOKENS, WIDTH),
        "visual.class_embedding": (WIDTH,),
        "visual.positional_embedding": (5, WIDTH),
        "visual.proj": (WIDTH, DIM),
        "visual.conv1.weight": (WIDTH, 3, 8, 8),
    }
    for norm in ("ln_final", "visual.ln_pre", "visual.ln_post"):
        shapes |= {f"{norm}.weight": (WIDTH,), f"{norm}.bias": (WIDTH,)}
    shapes |= blocks("") | blocks("visual.")
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def test_every_tensor_of_open_clip_has_a_place_in_hugging_faces_clip() -> None:
    sizes = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 1}
    sizes["num_attention_heads"] = 2
    made: Any = CLIPConfig
    config = made(
        text_config={**sizes, "vocab_size": TOKENS, "max_position_embeddings": POSITIONS},
        vision_config={**sizes, "image_size": 16, "patch_size": 8},
        projection_dim=DIM,
    )
    theirs = open_clip_tensors()

    renamed = script()["to_clip"](theirs)

    clip: Any = CLIPModel(config)
    clip.load_state_dict(renamed)  # refuses a missing name, one too many, and another shape
    attention = clip.vision_model.encoder.layers[0].self_attn
    parts = [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
    together = theirs["visual.transformer.resblocks.0.attn.in_proj_weight"]
    assert torch.equal(torch.cat(parts), together)
    assert torch.equal(clip.text_projection.weight.T, theirs["text_projection"])
