"""Prompt templates for class names: well-known sets by name, your own from a file.

`templates.json` holds CLIP's sets (Radford et al. 2021, MIT licence, as in open_clip 3.3 and
CLIP_benchmark 1.6).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from align_train.errors import UserError, shown

_SETS = Path(__file__).parent / "templates.json"


def template_sets() -> dict[str, list[str]]:
    """The well-known sets by name."""
    sets: dict[str, list[str]] = json.loads(_SETS.read_text(encoding="utf-8"))
    return sets


def read_templates(source: str | Sequence[str]) -> list[str]:
    """Reads prompts with `{}`, or CLIP_benchmark's `{c}`, in the place of the class.

    Args:
        source: A list of prompts; the name of a set, for example `imagenet`, CLIP's 80; or the
            path of a file with a prompt a line.

    Returns:
        The prompts, for `str.format`.

    Raises:
        UserError: The file cannot be read, or a prompt has no place for the class.
    """
    if isinstance(source, str):
        sets = template_sets()
        # A set wins over a file of the same name.
        if source in sets:
            return sets[source]
        setting = f"templates={source}"
        templates = _read_lines(source, sets)
    else:
        setting = f"templates={list(source)}"
        templates = list(source)

    if not templates:
        raise UserError(f"eval: {setting}: no prompts; give at least one")
    return parse_templates(templates, setting)


def parse_templates(templates: Sequence[str], setting: str) -> list[str]:
    """Checks prompts.

    Args:
        templates: Each with one `{}`, or with `{c}`, for the class.
        setting: Where they come from, for the error.

    Returns:
        The prompts, for `str.format`.

    Raises:
        UserError: A prompt has no place for the class.
    """
    for template in templates:
        if not isinstance(template, str) or not _has_one_place(template):
            raise UserError(
                f"eval: {setting}: {shown(repr(template))}: expected {{}} once, in place of the "
                f"class; e.g. 'a photo of a {{}}'"
            )
    # `{c}` may come several times; `str.format` needs the number for that.
    return [template.replace("{c}", "{0}") for template in templates]


def _read_lines(path: str, sets: dict[str, list[str]]) -> list[str]:
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UserError(
            f"eval: templates={path}: {reason}; expected a file with one prompt a line, "
            f"or one of {', '.join(sets)}"
        ) from None
    return [line for line in text.splitlines() if line.strip()]


def _has_one_place(template: str) -> bool:
    # Every `{c}` is the same class; CLIP_benchmark fills in all of them.
    place = "{c}" if "{c}" in template else "{}"
    # A single brace beside the place would be a replacement field, or an error, to str.format.
    rest = template.replace(place, "")
    places = template.count(place)
    return places >= 1 and (places == 1 or place == "{c}") and "{" not in rest and "}" not in rest
