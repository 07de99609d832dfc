"""Folders of small tokenizers of Hugging Face's, each of a kind that its models have."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertTokenizer,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    XLMRobertaTokenizer,
)

from align_train.stream.unigram import train_unigram
from align_train.stream.wordpiece import train_tokenizer

# To train on: a few words, and letters of four languages.
WORDS = [
    "two green stars and a red circle on a blue square",
    "Ein Kätzchen und zwei grüne Sterne",
    "un círculo rojo; une étoile verte, l'été",
    "赤い丸と緑の星 赤い星 緑の丸",
] * 20

# Padded, cut, normalised and told apart by id, each of these has caught somebody.
TEXTS = [
    "!",
    "",
    " ",
    "<pad>",
    "[PAD]",
    "</s>",
    "<|endoftext|>",
    "a <pad> b [PAD] c <mask> d",
    "ＡＢＣ！ full-width",
    "two  green\tstars\n",
    "Ein Kätzchen 🐈 und 猫",
    "l'été, c'est l’œuf",
    "赤い丸と緑の星",
    "🎉🎉",
    "a long text of two green stars " * 9,
]


def make_tokenizer(folder: Path, kind: str) -> None:
    """Writes a small tokenizer.

    Args:
        folder: The folder.
        kind: One of `KINDS`.
    """
    _MAKERS[kind](folder)


def _wordpiece(folder: Path) -> None:
    train_tokenizer(lambda: [WORDS], size=200, folder=folder)


def _unigram(folder: Path) -> None:
    train_unigram(lambda: [WORDS], size=200, folder=folder)


def _alone(folder: Path) -> None:
    """A tokenizer.json without the files that name its special tokens."""
    train_unigram(lambda: [WORDS], size=200, folder=folder)
    (folder / "tokenizer_config.json").unlink()


def _bert(folder: Path) -> None:
    train_tokenizer(lambda: [WORDS], size=200, folder=folder)
    words = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    make: Any = BertTokenizer
    make(vocab=words, do_lower_case=False).save_pretrained(folder)


def _modernbert(folder: Path) -> None:
    """Byte-level BPE between [CLS] and [SEP]; other special tokens; <mask> eats spaces."""
    tokenizer = _bytes(["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"])
    _between(tokenizer, "[CLS]", "[SEP]")
    _generic(tokenizer, folder, pad="[PAD]", unk="[UNK]", cls="[CLS]", sep="[SEP]", mask="[MASK]")


def _no_pad(folder: Path) -> None:
    tokenizer = _bytes(["<s>", "</s>"])
    _between(tokenizer, "<s>", "</s>")
    _generic(tokenizer, folder, bos="<s>", eos="</s>")


def _left(folder: Path) -> None:
    """Cut at the left, and special tokens in a text are plain text."""
    tokenizer = _bytes(["<s>", "</s>", "<pad>"])
    _between(tokenizer, "<s>", "</s>")
    settings = {"truncation_side": "left", "split_special_tokens": True}
    _generic(tokenizer, folder, settings, bos="<s>", eos="</s>", pad="<pad>")


def _clip(folder: Path) -> None:
    tokenizer = _bytes([])
    vocabulary = {letter: index for index, letter in enumerate(sorted(tokenizer.get_vocab()))}
    words = [*vocabulary, *(f"{letter}</w>" for letter in vocabulary)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    make: Any = CLIPTokenizer
    make(vocab={word: index for index, word in enumerate(words)}, merges=[]).save_pretrained(folder)


def _xlm_roberta(folder: Path) -> None:
    """Its own class: <s> and </s>, <pad> is 1, and the Unigram's pieces begin at 4."""
    train_unigram(lambda: [WORDS], size=200, folder=folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    pieces = [tuple(piece) for piece in content["model"]["vocab"][5:]]
    special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    make: Any = XLMRobertaTokenizer
    make(vocab=[*special, *pieces, ("<mask>", 0.0)]).save_pretrained(folder)


def _sentencepiece(folder: Path) -> None:
    """XLM-R as it was published at first: a SentencePiece model, and no tokenizer.json."""
    folder.mkdir(parents=True, exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(WORDS),
        model_prefix=str(folder / "sentencepiece.bpe"),
        vocab_size=120,
        hard_vocab_limit=False,
        character_coverage=1.0,
        minloglevel=2,
    )
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "XLMRobertaTokenizer"}')


def _bytes(special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(WORDS, trainer)
    return tokenizer


def _between(tokenizer: Tokenizer, first: str, last: str) -> None:
    ends = [(token, tokenizer.token_to_id(token)) for token in (first, last)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=ends
    )


def _generic(
    tokenizer: Tokenizer, folder: Path, settings: dict[str, Any] | None = None, **names: str
) -> None:
    make: Any = PreTrainedTokenizerFast
    named = {f"{name}_token": token for name, token in names.items()}
    make(tokenizer_object=tokenizer, **named, **(settings or {})).save_pretrained(folder)


_MAKERS: dict[str, Callable[[Path], None]] = {
    "wordpiece": _wordpiece,
    "unigram": _unigram,
    "alone": _alone,
    "bert": _bert,
    "modernbert": _modernbert,
    "no_pad": _no_pad,
    "left": _left,
    "clip": _clip,
    "xlm_roberta": _xlm_roberta,
    "sentencepiece": _sentencepiece,
}
KINDS = tuple(_MAKERS)
