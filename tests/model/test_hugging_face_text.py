"""Encoders of Hugging Face's as text towers: embeddings are theirs, whatever the padding."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, SiglipTextModel

from align_train.errors import UserError
from align_train.model.hugging_face_text import HuggingFaceTextTower
from align_train.training.hashing import words_of
from align_train.training.randomness import RandomLayers, refuse_other_draws
from tests.support.commands import made_once
from tests.support.operators import VALUE_ON_HOST, operators
from tests.support.text_encoders import KINDS, TEXTS, make_encoder

LONGEST = 64


@pytest.fixture(scope="session", params=KINDS)
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind: str = request.param
    return made_once(
        tmp_path_factory, f"encoder_{kind}", lambda folder: make_encoder(folder / kind, kind)
    ).joinpath(kind)


@cache
def their_model(folder: Path) -> Any:
    kind: Any = SiglipTextModel if folder.name == "siglip" else AutoModel
    return kind.from_pretrained(folder).eval()


@cache
def their_tokenizer(folder: Path) -> Any:
    kind: Any = AutoTokenizer
    return kind.from_pretrained(folder)


def their_inputs(folder: Path, texts: list[str], **options: Any) -> dict[str, Tensor]:
    inputs: dict[str, Tensor] = their_tokenizer(folder)(
        texts, truncation=True, max_length=LONGEST, return_tensors="pt", **options
    )
    inputs.pop("token_type_ids", None)
    return inputs


@torch.no_grad()
def theirs(folder: Path, texts: list[str], **options: Any) -> Tensor:
    """The embeddings that Hugging Face's own model is used for."""
    inputs = their_inputs(folder, texts, **options)
    if folder.name == "siglip":  # as its makers trained it
        inputs = {"input_ids": their_inputs(folder, texts, padding="max_length")["input_ids"]}
    result = their_model(folder)(**inputs)
    pooled: Tensor = result.last_hidden_state[:, 0]
    if folder.name in ("clip", "siglip"):
        pooled = result.pooler_output
    return pooled


def our_ids(folder: Path, texts: list[str], **options: Any) -> Tensor:
    """Their ids as our rows have them: -1 is padding."""
    inputs = their_inputs(folder, texts, **options)
    return inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -1).int()


def known(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Those settings that this kind of network has."""
    names = their_model(folder).config.to_dict()
    return {name: value for name, value in settings.items() if name in names}


def tower_of(folder: Path, **options: Any) -> HuggingFaceTextTower:
    given: dict[str, Any] = {"name": str(folder), "pretrained": True} | options
    size = len(their_tokenizer(folder))
    return HuggingFaceTextTower(dim=24, vocabulary_size=size, **given)


def test_embeddings_are_theirs_at_any_padding(encoder: Path) -> None:
    tower = tower_of(encoder).eval()
    wanted = theirs(encoder, TEXTS, padding=True)
    assert torch.pdist(wanted).min() > 1e-2  # no two texts alike

    for padding in (True, "max_length"):
        there = theirs(encoder, TEXTS, padding=padding)
        with torch.no_grad():
            ours = tower.pooled(our_ids(encoder, TEXTS, padding=padding))
        torch.testing.assert_close(ours, there, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(ours, wanted, atol=2e-6, rtol=2e-6)

    for text, row in zip(TEXTS, wanted, strict=True):
        with torch.no_grad():
            alone = tower.pooled(our_ids(encoder, [text]))[0]
        torch.testing.assert_close(alone, theirs(encoder, [text])[0], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(alone, row, atol=2e-6, rtol=2e-6)


def test_every_tensor_is_that_of_the_file(encoder: Path) -> None:
    tensors = load_file(encoder / "model.safetensors")
    state = tower_of(encoder).network.state_dict()
    for name, value in state.items():
        found = [key for key in tensors if key == name or key.endswith(f".{name}")]
        assert len(found) == 1 and torch.equal(value, tensors[found[0]]), name

    # The configuration alone gives the same network with other weights.
    fresh = tower_of(encoder, pretrained=False).network.state_dict()
    assert fresh.keys() == state.keys()
    assert sum(torch.equal(fresh[name], state[name]) for name in state) < 0.7 * len(state)


def test_its_configuration_builds_it_without_the_folder(encoder: Path) -> None:
    tower = tower_of(encoder).eval()
    config: Any = tower.config.to_diff_dict()
    again = tower_of(encoder, name="gone/with-the-hub", pretrained=False, config=config).eval()
    again.load_state_dict(tower.state_dict())
    ids = our_ids(encoder, TEXTS, padding=True)
    assert torch.equal(again(ids), tower(ids))
    assert "align_train" not in str(config)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_follows_the_pair(kind: str, tmp_path: Path) -> None:
    make_encoder(tmp_path / kind, kind, dropout=0.2)
    tower = tower_of(tmp_path / kind).double().train()
    layers = RandomLayers(tower)
    assert len(layers) >= 3  # attention in each block, at least
    ids = our_ids(tmp_path / kind, TEXTS, padding=True)
    weights = [value for value in tower.parameters() if value.requires_grad]

    def gradients(chunks: list[slice], step: int = 1) -> list[Tensor]:
        total = torch.zeros((), dtype=torch.float64)
        for chunk in chunks:
            rows = ids[chunk]
            longest = int((rows >= 0).sum(dim=1).max())
            places = torch.arange(len(ids), dtype=torch.int32)[chunk]
            layers.set_pass(words_of(5, step), places)
            total = total + tower(rows[:, :longest]).square().sum()
        return list(torch.autograd.grad(total, weights))

    with refuse_other_draws(tower, torch.device("cpu")):
        whole = gradients([slice(0, None)])
    parts = gradients([slice(6, None), slice(0, 1), slice(1, 6)])
    other = gradients([slice(0, None)], step=2)
    largest = max(float(value.abs().max()) for value in whole)
    for one, again in zip(whole, parts, strict=True):
        torch.testing.assert_close(again, one, atol=1e-11 * largest, rtol=1e-9)
    differences = [float((one - two).abs().max()) for one, two in zip(whole, other, strict=True)]
    assert max(differences) > 1e-2 * largest


def test_attention_with_dropout_sees_what_the_fused_one_sees(encoder: Path) -> None:
    config = {"attention_dropout": 1e-12, "attention_probs_dropout_prob": 1e-12}
    config |= {"hidden_dropout_prob": 0.0, "dropout": 0.0, "mlp_dropout": 0.0}
    tower = tower_of(encoder, config=known(encoder, config)).double()
    ids = our_ids(encoder, TEXTS, padding=True)
    assert "aten._softmax.default" in operators(lambda: tower.train()(ids))
    torch.testing.assert_close(tower.train()(ids), tower.eval()(ids), atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_pass_asks_the_device_for_no_value(dropout: float, encoder: Path) -> None:
    config = {"attention_dropout": dropout, "attention_probs_dropout_prob": dropout}
    tower = tower_of(encoder, pretrained=False, config=known(encoder, config)).train()
    for padding in (False, True):
        texts = TEXTS if padding else TEXTS[:1]
        ids = our_ids(encoder, texts, padding=True)
        assert VALUE_ON_HOST not in operators(lambda ids=ids: tower(ids))  # type: ignore[misc]


def test_pooling_is_a_choice(tmp_path: Path) -> None:
    folder = tmp_path / "xlm-roberta"
    make_encoder(folder, "xlm-roberta")
    inputs = their_inputs(folder, TEXTS, padding=True)
    with torch.no_grad():
        result = their_model(folder)(**inputs)
    states = result.last_hidden_state
    lengths = inputs["attention_mask"].sum(dim=1).tolist()
    rows = list(zip(states, lengths, strict=True))
    wanted = {
        "first": states[:, 0],
        "mean": torch.stack([row[:length].mean(dim=0) for row, length in rows]),
        "last": torch.stack([row[length - 1] for row, length in rows]),
        "pooler": result.pooler_output,
    }
    ids = our_ids(folder, TEXTS, padding=True)
    for pooling, expected in wanted.items():
        tower = tower_of(folder, pooling=pooling).eval()
        with torch.no_grad():
            torch.testing.assert_close(tower.pooled(ids), expected, atol=1e-6, rtol=1e-6)
        # A layer that nobody reads is neither trained nor kept.
        assert all(value.requires_grad for value in tower.parameters())
        names = [name for name, _ in tower.network.named_parameters()]
        assert any("pooler" in name for name in names) == (pooling == "pooler")


def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path) -> None:
    clip = tmp_path / "clip"
    make_encoder(clip, "clip")
    with pytest.raises(UserError, match=r"pooling=first: texts with the same first token get the"):
        tower_of(clip, pooling="first")
    with pytest.raises(UserError, match=r"is \[258, 32\] there, \[300, 32\] here"):
        HuggingFaceTextTower(dim=8, vocabulary_size=300, name=str(clip), pretrained=True)
    with pytest.raises(UserError, match="its network is no encoder of texts alone"):
        tower_of(clip, config={"model_type": "vit"}, pretrained=False)
    with pytest.raises(UserError, match=r"config\.hiden_act: .* did you mean hidden_act\?"):
        tower_of(clip, config={"hiden_act": "gelu"})
    with pytest.raises(UserError, match=r"pad_id=258: expected a token, 0 to 257, or null"):
        tower_of(clip, pad_id=258)
    with pytest.raises(UserError, match="name is not set; give a folder or a name on the hub"):
        HuggingFaceTextTower(dim=8, vocabulary_size=300)


def test_another_vocabulary_has_its_padding_at_0(tmp_path: Path) -> None:
    folder = tmp_path / "modernbert"
    make_encoder(folder, "modernbert")
    with pytest.raises(UserError, match="pooling=pooler: this network has none; take first"):
        tower_of(folder, pooling="pooler")
    assert tower_of(folder, pad_to=16).longest == 16  # longer texts would lose their ends
    tower = HuggingFaceTextTower(dim=8, vocabulary_size=100, name=str(folder))
    assert tower.pad_id == 0 and tower_of(folder).pad_id == 5
    ids = torch.tensor([[1, 7, 9, 2], [1, 7, -1, -1]])
    alone = tower.eval()(ids[1:, :2])
    torch.testing.assert_close(tower(ids)[1:], alone, atol=1e-6, rtol=1e-6)


def test_positions_are_counted_from_the_padding_token(tmp_path: Path) -> None:
    longest = {"xlm-roberta": 128, "modernbert": 128, "clip": 128, "siglip": 64}
    for kind, expected in longest.items():
        make_encoder(tmp_path / kind, kind)
        tower = tower_of(tmp_path / kind, pretrained=False).eval()
        assert tower.longest == expected
        tower(torch.full((1, expected), 7))
    with pytest.raises((IndexError, RuntimeError)):
        tower_of(tmp_path / "xlm-roberta").eval()(torch.full((1, 129), 7))
