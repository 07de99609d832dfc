"""What `/docs` shows: the paths and fields of the interface, from its OpenAPI description.

FastAPI's own page loads its viewer from another server, and shows nothing without one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

OpenApi = Mapping[str, Any]
"""A part of an OpenAPI description: JSON, as FastAPI makes it."""

# The page has one style and no script, so the browser may refuse all else.
DOCS_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
}

_HEAD = """<!doctype html><html lang="en"><meta charset="utf-8"><title>align_train: API</title>
<meta name="viewport" content="width=device-width"><style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; max-width: 60rem; margin: 1rem auto; padding: 0 1rem; }
h2 { font: 700 1.1rem monospace; margin: 2rem 0 0; }
table { border-collapse: collapse; width: 100%; margin-top: 0.5rem; }
td, th { border: 1px solid #8888; padding: 0.25rem 0.5rem; text-align: left; vertical-align: top; }
td:first-child, code { font-family: monospace; }
</style><h1>align_train: API</h1>
<p>Bodies are JSON; an error is <code>{"error": "…"}</code>. For programs: <a
href="openapi.json">openapi.json</a>.</p>"""  # noqa: E501


def docs_page(description: OpenApi) -> str:
    """The page, as HTML.

    Args:
        description: As `app.openapi()` gives it.
    """
    parts = [_HEAD]
    schemas = description["components"]["schemas"]
    for path, methods in description["paths"].items():
        for method, about in methods.items():
            parts.append(f"<h2>{escape(method.upper())} {escape(path)}</h2>")
            parts.append(f"<p>{escape(about.get('description', ''))}</p>")
            parts.extend(_tables(about, schemas))
    return "\n".join(parts)


def _tables(about: OpenApi, schemas: OpenApi) -> Iterator[str]:
    """What is asked, and what is answered."""
    sides = (("asks", about.get("requestBody")), ("answers", about["responses"].get("200")))
    for title, side in sides:
        content = (side or {}).get("content", {}).get("application/json", {})
        # Routes that answer images or figures have no schema, hence no table.
        name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
        if name:
            yield f"<table><tr><th>{title}<th>type<th>{_rows(name, schemas)}</table>"


def _rows(name: str, schemas: OpenApi) -> str:
    schema = schemas[name]
    required = schema.get("required", [])
    rows = []
    for field, about in schema.get("properties", {}).items():
        default = "" if "default" not in about else f" = {about['default']}"
        # An answer has all of its fields: only in a question a field may be missing.
        needed = " (required)" if field in required and name.endswith("Question") else ""
        words = about.get("description", "") + needed
        kind = escape(_kind(about, schemas) + default)
        rows.append(f"<tr><td>{escape(field)}<td>{kind}<td>{escape(words)}")
    return "".join(rows)


def _kind(about: OpenApi, schemas: OpenApi) -> str:
    """A type in a few words."""
    if "$ref" in about:
        fields = schemas[about["$ref"].rpartition("/")[2]].get("properties", {})
        return "{" + ", ".join(fields) + "}"
    if "anyOf" in about:
        kinds = [_kind(each, schemas) for each in about["anyOf"]]
        return " or ".join(kinds)
    if about.get("type") == "array":
        return f"list of {_kind(about['items'], schemas)}"
    return str(about.get("type", "anything"))
