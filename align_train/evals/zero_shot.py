"""Zero-shot classification: a picture's class is the one whose prompts lie closest (paper, section 5.2).

Each class name goes into every template; each prompt's embedding is normalised, their mean is normalised again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch.nn.functional import normalize

from align_train.errors import UserError
from align_train.evals.encode import EncodedPairs, Encoder


class ZeroShot:
    """Top-1 and top-5 accuracy, and the share of right attributes where the classes are made up of some.

    classes: a JSON file, `{"names": [...], "attributes": {"colour": [value of class 0, …]}}`, attributes optional.
    templates: prompts with `{}` for the name. label: the field of a pair's JSON member that holds its class number.
    """

    def __init__(self, *, classes: str, templates: Sequence[str] = ("a photo of a {}",), label: str = "class") -> None:
        try:
            content = json.loads(Path(classes).expanduser().read_text(encoding="utf-8"))
            self.names: list[str] = list(content["names"])
            self.attributes: dict[str, list[int]] = dict(content.get("attributes", {}))
        except OSError as error:
            raise UserError(f"eval: class file {classes}: {error.strerror}; expected JSON with names") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f'eval: class file {classes}: expected JSON such as {{"names": ["red circle", …]}}') from None
        self.templates, self.label = tuple(templates), label
        self.answers: list[str] = []
        self.right: list[bool] = []

    @torch.inference_mode()
    def __call__(self, encoded: EncodedPairs, encoder: Encoder) -> Iterator[tuple[str, float]]:
        """Also leaves in `answers` the class given to each picture, and in `right` whether it is the picture's."""
        prompts = [template.format(name) for name in self.names for template in self.templates]
        by_class = encoder.texts(prompts).view(len(self.names), len(self.templates), -1)
        classes = normalize(by_class.mean(dim=1), dim=-1)
        labels = torch.tensor([self._label(record) for record in encoded.records], device=classes.device)
        guesses = (encoded.images @ classes.T).topk(min(5, len(self.names))).indices
        self.answers = [self.names[number] for number in guesses[:, 0].tolist()]
        self.right = (guesses[:, 0] == labels).tolist()
        yield "zero_shot/top1", float((guesses[:, 0] == labels).double().mean())
        yield "zero_shot/top5", float((guesses == labels[:, None]).any(dim=1).double().mean())
        for name, values in self.attributes.items():
            value = torch.tensor(values, device=classes.device)
            yield f"zero_shot/{name}", float((value[guesses[:, 0]] == value[labels]).double().mean())

    def _label(self, record: dict[str, object]) -> int:
        number = record.get(self.label)
        if not isinstance(number, int) or not 0 <= number < len(self.names):
            raise UserError(
                f"eval: a held-out pair's JSON has {self.label}={number!r}; expected a class number below {len(self.names)}"
            )
        return number
