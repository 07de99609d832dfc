"""Rules of the learning rates that come with the model's choice, and where a run has them from.

`conf/rates/NAME.yaml` goes with `model=NAME`, and optimizers refer to its rates. One that has rates
of its own, as `lamb`, reads none of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from omegaconf import DictConfig, OmegaConf

from align_train.config.chosen import choice_of, folders_of_groups
from align_train.config.plain import plain_node
from align_train.config.schema import TrainSettings, conf_dir
from align_train.errors import UserError, shown

_GROUP = "rates"

# Rate of the model's choice -> the optimizer's setting that refers to it.
_READ_BY = {
    "image": "lr",
    "text": "text_lr",
    "projection": "projection_lr",
    "temperature": "temperature_lr",
    "head": "head_lr",
}


def refuse_unread_rates(config: DictConfig, words: Sequence[str]) -> None:
    """Refuses rates on the command line that no other setting refers to.

    Args:
        config: The composed settings, unresolved. Those of other commands have no rates.
        words: The overrides that they were composed with.

    Raises:
        UserError: A rate would do nothing; or a choice of the group has no file.
    """
    if _GROUP not in config:
        return
    plain = plain_node(config)
    # The group itself may refer to its own rates; that is no use of them.
    del plain[_GROUP]
    read = " ".join(_references(plain))
    for word in words:
        key, _, choice = word.lstrip("+~").partition("=")
        group, _, name = key.partition(".")
        if group != _GROUP or (name and name not in _READ_BY):
            continue
        if choice and not name:
            _refuse_no_choice(choice)
        wanted = rf"\brates\.{name}\b" if name else r"\brates\b"
        if not re.search(wanted, read):
            own = f"optimizer.{_READ_BY.get(name, 'lr')}"
            raise UserError(
                f"{shown(word)}: nothing reads it, because the optimizer's rates are its own or "
                f"given; set {own}=… instead"
            )


def _refuse_no_choice(name: str) -> None:
    """Refuses a choice without a file: to Hydra the group is optional, and a typo no error."""
    names = {
        path.stem for folder in folders_of_groups() for path in (folder / _GROUP).glob("*.yaml")
    }
    if name.strip("'\"") not in names:
        raise UserError(f"{_GROUP}={name}: no such choice; there are {', '.join(sorted(names))}")


def _references(node: object) -> Iterator[str]:
    """The texts in settings that refer to others."""
    if isinstance(node, dict):
        for item in node.values():
            yield from _references(item)
    elif isinstance(node, list):
        for item in node:
            yield from _references(item)
    elif isinstance(node, str) and "${" in node:
        yield node


def check_rates(settings: TrainSettings) -> None:
    """Checks the rates before an optimizer refers to them.

    Args:
        settings: Composed and typed.

    Raises:
        UserError: A rate cannot train.
    """
    for name, rate in asdict(settings.rates).items():
        # `not <=` refuses NaN too.
        if rate is not None and not 0 <= rate < math.inf:
            raise UserError(f"rates.{name}={rate:g}: expected a learning rate, 0 or more")


def spell_rates(settings: TrainSettings) -> list[str]:
    """Says that the optimizer has the rates of the model's choice, if it does.

    Args:
        settings: The run's settings.

    Returns:
        A line; none if rates were given, or if the optimizer has rates of its own.
    """
    choice = choice_of(_GROUP) or choice_of("model")
    rates = asdict(settings.rates)
    if not choice or rates != _brought_by(choice) or settings.optimizer.get("image_lr") is not None:
        return []

    # `rates=NAME` takes another model's rates; otherwise the choice of the model brought them.
    group = _GROUP if choice != choice_of("model") else "model"
    own = [settings.optimizer.get(key) for key in _READ_BY.values()]
    brought = [rates[name] for name in _READ_BY]
    if own == brought:
        return [f"these rates come with {group}={choice}"]
    # Divided as `${tenth:…}` in conf/optimizer does it: only then are equal rates equal floats.
    if own == [None if rate is None else rate / 10 for rate in brought]:
        return [f"these rates are a tenth of those that come with {group}={choice}"]
    return []


def _brought_by(choice: str) -> object:
    """The rates of a choice: those of its file over those that hold without one."""
    rates: Any = OmegaConf.load(conf_dir() / "train.yaml")
    rates = rates[_GROUP]
    for folder in folders_of_groups():
        file = folder / _GROUP / f"{choice}.yaml"
        if file.exists():
            rates = OmegaConf.merge(rates, OmegaConf.load(file))
            break
    return OmegaConf.to_container(rates)
