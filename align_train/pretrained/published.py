"""Settings as they may be published: without local paths, credentials or signed URLs."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from align_train.config.schema import Node
from align_train.shards.remote import is_url

# Settings whose texts are paths, if they are no names on the hub and no URLs.
_PATHS = ("shards", "held_out", "output_dir", "folder", "path", "classes", "file", "to")

# Settings that may be names on the hub: OWNER/NAME says nothing of this machine.
_NAMES = ("tokenizer", "pretrained", "initial_weights", "model", "name")

_LOCAL = ("/", "~", "./", "../")

# Options of storage may hold credentials, and others may be some by their names.
_SECRET = re.compile(r"storage_options|(.*_)?(token|password|secret|api_key|access_key)")


def published(node: Node) -> Node:
    """Copies settings for a page that anybody may read: a path becomes its last name.

    Args:
        node: The settings.
    """
    return {key: _published(value, key) for key, value in node.items()}


def _published(value: object, key: str) -> object:
    if _SECRET.fullmatch(key):
        return None
    if isinstance(value, dict):
        return published(value)
    if isinstance(value, list):
        return [_published(item, key) for item in value]
    return _text(value, key) if isinstance(value, str) else value


def _text(text: str, key: str) -> str:
    if is_url(text):
        # No user, no query: both may be keys to the data.
        parts = urlsplit(text)
        host = parts.netloc.rpartition("@")[2]
        return f"{parts.scheme}://{host}{parts.path}"

    is_path = text.startswith(_LOCAL) or key in _PATHS or (key in _NAMES and _exists(text))
    return text.rstrip("/").rpartition("/")[2] if is_path and "/" in text else text


def _exists(text: str) -> bool:
    # A run may have been started in another folder: more than OWNER/NAME is a path anyway.
    return text.count("/") > 1 or Path(text).exists()
