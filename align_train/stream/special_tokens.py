"""The special tokens of the tokenizers that we make: BERT's, with BERT's numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tokenizers import Tokenizer as TokenizersTokenizer
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

NAMES = {
    "unk_token": "[UNK]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}

# In the order of their ids, as in BERT's own files.
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def save_new_tokenizer(tokenizer: TokenizersTokenizer, folder: Path) -> None:
    """Saves a tokenizer as a Hugging Face folder: a text is [CLS], its tokens and [SEP].

    Args:
        tokenizer: The first tokens of its vocabulary are the special ones.
        folder: Where `tokenizer.json` and its companions are written.
    """
    tokenizer.add_special_tokens(list(SPECIAL))
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    make: Callable[..., PreTrainedTokenizerFast] = PreTrainedTokenizerFast
    make(tokenizer_object=tokenizer, **NAMES).save_pretrained(folder)
