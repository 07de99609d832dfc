"""Says before the first step how many tokens the vocabulary lacks, and how many texts are cut.

An unknown token stands for any text that the vocabulary has no tokens for: a model learns nothing
from it. Texts of one more language, or of a set to evaluate on, may consist of little else.

Price: the texts of some hundred pairs of a few shards are read, and 2,000 texts of each set are
tokenised: a tenth of a second a set. A shard that is not on this machine is not looked into.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TypeVar

from align_train.cluster.launcher import is_first_process
from align_train.evals.base import Evaluator
from align_train.shards.sample import sample
from align_train.stream.datamodule import PairsDataModule
from align_train.stream.sets import EvaluationSets
from align_train.stream.tokenizer import Counted, Tokenizer

T = TypeVar("T")

_TRAINING = "training"
_SHARDS = 4
_PAIRS = 500  # of a shard
_TEXTS = 2000  # of a set
_TOO_MANY = 0.05  # the share of unknown tokens from which on a line warns


def counted_tokens(
    data: PairsDataModule, evaluators: Mapping[str, Evaluator]
) -> dict[str, Counted]:
    """Counts tokens of a sample of the training texts, and of each set to evaluate on.

    Args:
        data: The run's data.
        evaluators: Those of the run, by name; their sets are open.

    Returns:
        The counts by name: `training`, `held out`, and evaluators with sets of their own. A
        classifier's data has none.
    """
    if not isinstance(data.vocabulary, Tokenizer):
        return {}
    found = {}
    texts = _spread(_training_texts(data))
    if texts:
        found[_TRAINING] = data.vocabulary.count(texts)
    return found | counted_in_sets(data.sets, evaluators)


def counted_in_sets(
    sets: EvaluationSets, evaluators: Mapping[str, Evaluator]
) -> dict[str, Counted]:
    """Counts tokens of a sample of each set's texts.

    Args:
        sets: Open already.
        evaluators: By name; two that ask for one set are counted once.
    """
    vocabulary = sets.vocabulary
    if not isinstance(vocabulary, Tokenizer):
        return {}

    found: dict[str, Counted] = {}
    seen: set[str] = set()
    for name, evaluator in evaluators.items():
        for image_set in evaluator.sets():
            # As `images_of` knows them: by their text.
            if repr(image_set) in seen:
                continue
            seen.add(repr(image_set))
            rows = sets.images_of(image_set).about()
            texts = _spread(list(chain.from_iterable(of_image for of_image, _ in rows)))
            if texts:
                found["held out" if image_set is None else name] = vocabulary.count(texts)
    return found


def spell_tokens(found: Mapping[str, Counted]) -> str:
    """Says in one line how many tokens are unknown, and how many texts are cut."""
    parts = []
    if found and _TRAINING not in found:
        parts.append(f"{_TRAINING} not counted (none of its shards is on this machine)")
    for name, counted in found.items():
        part = f"{name} {_percent(counted.unknown, counted.tokens)} unknown"
        if counted.cut:
            part += f" and {_percent(counted.cut, counted.texts)} of the texts cut"
        parts.append(part)
    return ", ".join(parts)


def spell_unknown(found: Mapping[str, Counted], tokenizer: str, *, trained: bool = False) -> str:
    """Warns of sets with many unknown tokens; nothing if there is none.

    Args:
        found: The counts by the set's name.
        tokenizer: The setting `data.tokenizer`; of a trained model, where its tokenizer lies.
        trained: Whether the model is trained already: it keeps its tokens.
    """
    bad = []
    for name, counted in found.items():
        if counted.unknown > _TOO_MANY * counted.tokens:
            bad.append(f"{_percent(counted.unknown, counted.tokens)} of {name}")
    if not bad:
        return ""
    if trained:
        return (
            f"{', '.join(bad)}: tokens that the model's tokenizer ({tokenizer}) lacks; the model "
            f"knows nothing of them, and its results there say little"
        )
    return (
        f"{', '.join(bad)}: tokens that data.tokenizer={tokenizer} lacks, of which nothing is "
        f"learned; make a vocabulary of all these texts (align-train vocabulary kind=unigram), or "
        f"give another data.tokenizer"
    )


def warn_of_unknown(
    sets: EvaluationSets, evaluators: Mapping[str, Evaluator], tokenizer: str
) -> None:
    """Prints a warning if sets to evaluate on have many unknown tokens; see `spell_unknown`."""
    if not is_first_process():
        return
    warning = spell_unknown(counted_in_sets(sets, evaluators), tokenizer, trained=True)
    if warning:
        print(f"warning: {warning}", flush=True)


def _training_texts(data: PairsDataModule) -> list[str]:
    shards = data.manifest.shards
    texts: list[str] = []
    for shard in _spread(shards, _SHARDS):
        if data.cache.wants(shard.url):
            continue
        try:
            pairs = sample(Path(shard.url), data.members, _PAIRS)
        except OSError:
            continue  # whoever reads the shard says why
        for pair in pairs:
            for place in data.source.places:
                texts += pair.texts(place)
    return texts


def _spread(items: Sequence[T], most: int = _TEXTS) -> Sequence[T]:
    """Some of the items, from begin to end."""
    return items[:: max(1, -(-len(items) // most))]


def _percent(part: int, whole: int) -> str:
    # One digit more for a small share, which would look like none.
    share = part / whole if whole else 0.0
    return f"{share:.0%}" if share == 0 or share >= 0.1 else f"{share:.1%}"
