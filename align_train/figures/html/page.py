"""Renders a report. The file needs no other one, and no network: its policy forbids any request.

All texts are strangers': captions, names, settings. Jinja escapes each of them, after `printable`
has spelled out what acts on a reader unseen. Numbers for the curves travel as JSON that cannot end
its element. Only the two scripts whose hashes the policy names may run.

Price: images are 4/3 of their size; JPEG takes the place of a PNG that is larger.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from align_train.errors import shown

_HERE = Path(__file__).parent

_LARGE = 100_000  # bytes of a PNG from which on JPEG is tried
_QUALITY = 90

_LONGEST = 2000  # characters of one text


def render(page: Mapping[str, object], charts: Sequence[Mapping[str, object]]) -> str:
    """Renders the template.

    Args:
        page: What `report.html.jinja` names.
        charts: What `report.js` draws; see `chart`.

    Returns:
        The HTML.
    """
    scripts = [_read("uplot/uPlot.iife.min.js"), _read("report.js")] if charts else []
    styles = [_read("uplot/uPlot.min.css"), _read("report.css")]
    hashes = [_hash(script) for script in scripts]
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src {' '.join(hashes) or chr(39) + 'none' + chr(39)}; "
        "form-action 'none'; base-uri 'none'"
    )
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            page,
            policy=policy,
            # Ours, not a stranger's: they go in as they are.
            scripts=[Markup(script) for script in scripts],
            styles=[Markup(style) for style in styles],
            charts_json=as_json(charts),
            charts=charts,
        )
    )


def as_json(value: object) -> Markup:
    """Spells a value as JSON that is safe within a script element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    # A `</script>` in a label would end the element; JSON takes the escapes for the letters.
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def chart(
    title: str,
    lines: Sequence[tuple[str, Sequence[int], Sequence[float]]],
    *,
    colours: Sequence[str],
    dashes: Sequence[Sequence[int]],
    log: bool,
    group: str,
) -> dict[str, object]:
    """Makes what the script needs to draw a panel.

    Args:
        title: The panel's.
        lines: For each its label, steps and values. A number that is not finite is a gap.
        colours: One for each line.
        dashes: Lengths of dash and gap, for each line.
        log: Whether to begin with a logarithmic axis.
        group: The heading under which the panel stands.
    """
    # uPlot wants one list of steps for all lines, and a gap for each step that a line lacks.
    steps = sorted(set(chain.from_iterable(own for _, own, _ in lines)))
    columns = []
    for _, own, values in lines:
        by_step = dict(zip(own, values, strict=True))
        column = [by_step.get(step) for step in steps]
        columns.append(
            [value if value is None or math.isfinite(value) else None for value in column]
        )
    return {
        "title": shown(title, 120),
        "group": group,
        "log": log,
        "labels": [shown(label, 120) for label, _, _ in lines],
        "colours": list(colours),
        "dashes": [list(dash) for dash in dashes],
        "steps": steps,
        "columns": columns,
    }


def embedded(path: Path) -> Markup | None:
    """Spells an image as a data URL; None: it cannot be read."""
    try:
        content = path.read_bytes()
        kind = "png"
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            # Decoded whole: a torn file must not come into the report.
            image.load()
            if len(content) > _LARGE:
                smaller = io.BytesIO()
                image.convert("RGB").save(smaller, "JPEG", quality=_QUALITY, subsampling=0)
                if smaller.tell() < len(content):
                    content = smaller.getvalue()
                    kind = "jpeg"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return Markup(f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_harmless,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["link"] = _link
    return environment


def _harmless(value: object) -> object:
    """What the template prints: texts without what acts unseen, and not without end."""
    return (
        shown(value, _LONGEST)
        if isinstance(value, str) and not isinstance(value, Markup)
        else value
    )


def _link(name: str) -> str:
    """The address of a file beside the report. `./`, or a name might be read as a protocol."""
    return "./" + quote(name, safe="/", errors="replace")


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


@cache
def _read(name: str) -> str:
    # The element's text must be what was hashed; a parser drops carriage returns.
    return (_HERE / name).read_text(encoding="utf-8").replace("\r\n", "\n")
