"""Towers have the sizes of the published models.

Their weights load into Hugging Face's ALIGN and give the same embeddings there.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AlignConfig, AlignModel

from align_train.config.components import build
from align_train.model import BertTower, DualEncoder, EfficientNetTower, Temperature, TimmTower
from align_train.pretrained.align_names import tensor_names
from align_train.stream.batch import normalise
from tests.support.settings import composed


def built(*overrides: str, vocabulary_size: int = 30522) -> DualEncoder:
    node = composed(*overrides).model
    node["vocabulary_size"] = vocabulary_size
    model: DualEncoder = build(node)
    return model


def millions(module: nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


@pytest.mark.parametrize(
    ("name", "dim", "image", "text"),
    [
        # Issue and FACTS: B7 without its head convolution 62.1 M; the text tower is BERT-base + 768
        # x 640 linear.
        ("b7_base", 640, 62.14, 109.38),
        ("b5_base", 640, 27.6, 109.38),
        ("b3_mini", 640, 10.35, 11.27),
        ("l2_large", 1376, 467.2, 335.5),
    ],
)
def test_models_have_the_published_parameter_counts(
    name: str, dim: int, image: float, text: float
) -> None:
    with torch.device("meta"):
        model = built(f"model={name}")
    assert model.text_tower.dim == model.image_tower.dim == dim
    assert millions(model.image_tower) == pytest.approx(image, rel=2e-3)
    assert millions(model.text_tower) == pytest.approx(text, rel=2e-3)
    assert model.temperature.value.shape == (1,)


def in_hugging_face_names(model: DualEncoder) -> dict[str, Tensor]:
    state = model.state_dict()
    return {
        theirs: state[ours].reshape(()) if theirs == "temperature" else state[ours]
        for ours, theirs in tensor_names(state).items()
    }


def test_b7_base_has_the_tensors_of_align_in_hugging_face() -> None:
    with torch.device("meta"):
        ours = in_hugging_face_names(built("model=b7_base"))
        theirs = AlignModel(AlignConfig()).state_dict()
    unused = {
        "text_model.pooler.dense.weight",
        "text_model.pooler.dense.bias",
    }  # never part of the loss
    assert set(theirs) - unused == set(ours)
    assert {name: value.shape for name, value in ours.items()} == {
        name: value.shape for name, value in theirs.items() if name not in unused
    }


def hugging_face_twin(
    tower: dict[str, Any], text: dict[str, Any], *, dim: int, vocabulary: int
) -> Any:
    config = AlignConfig(
        vision_config={
            "width_coefficient": tower["width"],
            "depth_coefficient": tower["depth"],
            "hidden_act": tower["activation"],
            "hidden_dim": dim,
            "in_channels": [32, *tower["channels"][:-1]],
            "out_channels": tower["channels"],
            "kernel_sizes": tower["kernels"],
            "strides": tower["strides"],
            "num_block_repeats": tower["repeats"],
            "expand_ratios": tower["expansions"],
            "depthwise_padding": [],
        },
        text_config={
            "vocab_size": vocabulary,
            "hidden_size": text["hidden"],
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
            "intermediate_size": text["intermediate"],
        },
        projection_dim=dim,
    )
    twin: Any = AlignModel(config)
    return twin.eval()


@pytest.mark.parametrize("size", [64, 65, 72, 81])
def test_tiny_equals_hugging_face_at_even_and_odd_sizes(size: int) -> None:
    node = composed().model
    torch.manual_seed(0)
    model = built(vocabulary_size=500)
    # Fresh weights embed all images alike, which would hide every error.
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight, module.running_var):
                assert isinstance(value, Tensor)
                nn.init.uniform_(value, 0.5, 1.5)
            for value in (module.bias, module.running_mean):
                assert isinstance(value, Tensor)
                nn.init.normal_(value, std=0.2)
    model.eval()
    twin = hugging_face_twin(node["image_tower"], node["text_tower"], dim=160, vocabulary=500)
    missing, unexpected = twin.load_state_dict(in_hugging_face_names(model), strict=False)
    assert not unexpected and all("pooler" in name for name in missing)
    noise = torch.rand(5, size, size, 3)
    levels = torch.tensor(
        [[0.1, 0.9, 0.5], [0.9, 0.1, 0.1], [0.0, 0.2, 0.9], [0.9, 0.9, 0.0], [0.5, 0.5, 0.5]]
    )
    images = normalise((255 * (0.7 * levels[:, None, None] + 0.3 * noise)).to(torch.uint8), None)
    input_ids = torch.randint(1, 500, (5, 16))
    input_ids[2, 9:] = -1
    with torch.no_grad():
        image, text = model(images, input_ids)
        theirs = twin(
            pixel_values=images,
            input_ids=input_ids.clamp(min=0),
            attention_mask=(input_ids >= 0).long(),
        )
    assert (image @ image.T).min() < 0.97  # 10,000 x what is tolerated below
    torch.testing.assert_close(image, theirs.image_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(text, theirs.text_embeds, atol=1e-5, rtol=0)


def test_the_projection_is_optional() -> None:
    small = {
        "channels": [8],
        "kernels": [3],
        "strides": [2],
        "repeats": [1],
        "expansions": [1],
        "stem": 8,
    }
    assert isinstance(EfficientNetTower(**small).projection, nn.Identity)  # type: ignore[arg-type]
    assert EfficientNetTower(**small, projection=24).dim == 24  # type: ignore[arg-type]


def test_a_timm_tower_is_chosen_by_name() -> None:
    tower = TimmTower(name="vit_tiny_patch16_224", projection=40, options={"img_size": 32})
    assert tower(torch.randn(2, 3, 32, 32)).shape == (2, 40)
    assert TimmTower(name="vit_tiny_patch16_224", options={"img_size": 32}).dim == 192


def test_a_fresh_tiny_tower_separates_texts() -> None:
    """BERT's spread of weights is too small for a narrow tower.

    The tower would embed all texts alike, and the demo would learn no shapes for a long time.
    """
    input_ids = torch.randint(1, 500, (32, 12), generator=torch.Generator().manual_seed(0))
    input_ids[:, 0] = 1
    alike = []
    for override in ((), ("model.text_tower.initializer_range=0.02",)):
        torch.manual_seed(0)
        with torch.no_grad():
            texts = built(*override, vocabulary_size=500).eval().encode_text(input_ids)
        alike.append((texts @ texts.T)[~torch.eye(32, dtype=torch.bool)].mean().item())
    assert alike[0] < 0.96 and alike[1] > 0.999


@pytest.mark.parametrize("lock", ["image", "text"])
def test_a_locked_tower_does_not_move(lock: str) -> None:
    small = {
        "channels": [8, 16],
        "kernels": [3, 3],
        "strides": [2, 2],
        "repeats": [1, 1],
        "expansions": [1, 4],
        "stem": 8,
    }
    model = DualEncoder(
        image_tower=EfficientNetTower(**small),  # type: ignore[arg-type]
        text_tower=partial(BertTower, hidden=16, layers=1, heads=2, intermediate=32),
        temperature=Temperature(initial=0.1),
        vocabulary_size=50,
        lock=lock,
    )
    locked = {"image": model.image_tower, "text": model.text_tower}[lock]
    before = {name: value.clone() for name, value in locked.state_dict().items()}
    optimizer = torch.optim.SGD(
        [parameter for parameter in model.parameters() if parameter.requires_grad], lr=1.0
    )
    image, text = model.train()(torch.randn(4, 3, 32, 32), torch.randint(1, 50, (4, 8)))
    (image * text).sum().backward()
    optimizer.step()
    assert not locked.training
    assert all(torch.equal(value, before[name]) for name, value in locked.state_dict().items())
    assert all(parameter.grad is None for parameter in locked.parameters())


def test_temperature_stays_in_its_bounds() -> None:
    temperature = Temperature(initial=0.1, minimum=0.05, maximum=0.2)
    for found, expected in ((0.01, 0.05), (0.5, 0.2), (0.1, 0.1)):
        temperature.value.data.fill_(found)
        temperature.clamp_(temperature.value.data)
        assert temperature().item() == pytest.approx(expected)
    with pytest.raises(ValueError, match="minimum"):
        Temperature(initial=0.1, minimum=0.2)
