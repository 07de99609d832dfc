"""Prompts with a place for the label, as users give them."""

from __future__ import annotations

from collections.abc import Sequence

from align_train.errors import UserError, shown
from align_train.evals.prompts import parse_templates, template_sets
from align_train.serving.refused import Refused


def checked_templates(templates: str | Sequence[str]) -> list[str]:
    """Prompts as users give them -> prompts for `str.format`.

    Args:
        templates: Each with one `{}` for the label; or the name of a known set, never a file.

    Raises:
        Refused: There is no such set, or a prompt has no place for the label.
    """
    if isinstance(templates, str):
        sets = template_sets()
        if templates not in sets:
            known = shown(", ".join(sets), 200)
            raise Refused(
                f"templates={shown(templates)}: no such set; expected a list of prompts, or one of "
                f"{known}"
            )
        templates = sets[templates]
    if not templates:
        raise Refused("templates: none given; expected at least one, such as {}")

    checked = []
    for index, template in enumerate(templates):
        try:
            # One at a time, so that the error can name its place in the request.
            checked += parse_templates([template], "")
        except UserError:
            raise Refused(
                f"templates[{index}]: {shown(template)}: expected {{}} once, for the label"
            ) from None
    return checked
