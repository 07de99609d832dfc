"""The text tower's attention and mask are BERT's own, without a look at values on the host."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from align_train.model import BertTower
from tests.support.operators import VALUE_ON_HOST, operators

LENGTH = 24


def tower_with(**options: float) -> BertTower:
    torch.manual_seed(0)
    return BertTower(
        dim=32,
        vocabulary_size=500,
        hidden=64,
        layers=3,
        heads=4,
        intermediate=128,
        initializer_range=0.2,
        **options,  # type: ignore[arg-type]
    )


def texts(*, padded: bool) -> Tensor:
    input_ids = torch.randint(1, 500, (6, LENGTH), generator=torch.Generator().manual_seed(1))
    if padded:
        input_ids[2, 9:] = -1
        input_ids[4, 3:] = -1
    return input_ids


def embedded_by_transformers(tower: BertTower, input_ids: Tensor) -> Tensor:
    """The tower's embeddings if Hugging Face's own BERT makes the states."""
    config = BertConfig(**tower.config.to_dict())
    network = BertModel(config, add_pooling_layer=False).train(tower.training)
    network.load_state_dict(tower.network.state_dict())
    mask = input_ids >= 0
    states = network(input_ids=input_ids.clamp(min=0), attention_mask=mask).last_hidden_state
    embeddings: Tensor = tower.projection(states[:, 0])
    return embeddings


@pytest.mark.parametrize("padded", [False, True])
def test_embeddings_are_those_of_hugging_face(padded: bool) -> None:
    tower = tower_with().eval()
    input_ids = texts(padded=padded)
    with torch.no_grad():
        ours = tower(input_ids)
        torch.testing.assert_close(
            ours, embedded_by_transformers(tower, input_ids), atol=1e-6, rtol=0
        )
        # As Hugging Face's tokenizers pad: with a token, and a mask.
        assert torch.equal(tower(input_ids.clamp(min=7), (input_ids >= 0).long()), ours)


def test_attention_with_dropout_sees_what_the_fused_one_sees() -> None:
    tower = tower_with(dropout=0.0, attention_dropout=0.5).double()
    input_ids = texts(padded=True)
    fused = tower.eval()(input_ids)
    for module in tower.modules():
        if isinstance(module, nn.Dropout) and module.p > 0:
            # So little that nothing is dropped, but not the 0 that chooses the fused one.
            module.p = 1e-12

    torch.testing.assert_close(tower.train()(input_ids), fused, atol=1e-9, rtol=0)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("padded", [False, True])
def test_a_pass_asks_the_device_for_no_value(dropout: float, padded: bool) -> None:
    tower = tower_with(dropout=dropout).train()
    input_ids = texts(padded=padded)

    assert VALUE_ON_HOST not in operators(lambda: tower(input_ids))
    theirs = operators(lambda: embedded_by_transformers(tower, input_ids))
    assert VALUE_ON_HOST in theirs


def test_no_configuration_knows_our_attention() -> None:
    assert "align_train" not in json.dumps(tower_with().config.to_dict())
    assert "align_train" not in tower_with().config.to_json_string()
