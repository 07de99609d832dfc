"""The comments of conf/: what each setting means, and for what each choice of a group is.

A comment belongs to a key if it stands behind its value and on the lines below, further right; or
on the lines above, at the key's own column. YAML's own parser finds the keys, so that a `#` in
quotes is no comment.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

import yaml

# The parser in C, ten times as fast, if PyYAML was built with it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_PACKAGE = "@package"  # of Hydra: `# @package _global_` puts a group's file at the root
_SENTENCE = re.compile(r"(?<=[.!?])(?<!e\.g\.)(?<!et al\.)\s+")


@dataclass
class Comments:
    """The comments of one file.

    Attributes:
        header: The comment above all, as one paragraph.
        purpose: The header's lines up to an empty one.
        is_global: Whether the file's keys are the root's, and not its group's.
        bases: Names of files of the same group that this one starts from.
        of_keys: Dotted key -> its comment.
    """

    header: str = ""
    purpose: str = ""
    is_global: bool = False
    bases: list[str] = field(default_factory=list)
    of_keys: dict[str, str] = field(default_factory=dict)


def read_comments(file: Path) -> Comments:
    """Reads the comments of a YAML file; of one that is no YAML there are none."""
    comments = Comments()
    # A user's own file may be broken; that must not cost the help of all other settings.
    try:
        text = file.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=_LOADER)
    except (yaml.YAMLError, UnicodeDecodeError):
        return comments

    lines = text.splitlines()
    above = []
    for line in lines:
        if not line.startswith("#"):
            break
        above.append(line)
    header = [line for line in above if _PACKAGE not in line]
    comments.header = _joined(header)
    comments.purpose = _joined(takewhile(lambda line: line.strip("# "), header))
    comments.is_global = any(_PACKAGE in line and "_global_" in line for line in above)

    if isinstance(root, yaml.MappingNode):
        comments.bases = list(_bases(root))
        # The header is no comment of the first key.
        comments.of_keys = dict(_of_keys(root, ["" for _ in above] + lines[len(above) :], ""))
    return comments


def first_sentence(text: str) -> str:
    """The first sentence of a paragraph."""
    return _SENTENCE.split(text, maxsplit=1)[0]


def meanings(
    root: Path, chosen: Mapping[str, Sequence[str]], folders: Sequence[Path]
) -> dict[str, str]:
    """Collects the meaning of each setting.

    The root's file comes first, before a root that it starts from. Then come a group's chosen
    files, bases before what derives from them, and its other files: `model=tiny` needs no second
    comment on a key that b7_base has.

    Args:
        root: The file of the command.
        chosen: Group -> its chosen files' names.
        folders: Folders of groups, conf/ and a user's own.

    Returns:
        Dotted key -> its comment; a key without one is missing.
    """
    found: dict[str, str] = {}
    for file in with_bases(root):
        found = read_comments(file).of_keys | found
    others = {group: list(files_of(group, folders)) for group in chosen}
    for names_of in (chosen, others):
        # What an experiment says of a key is why it has its value there.
        for group in sorted(chosen, key="experiment".__eq__):
            for key, comment in _of_group(group, names_of[group], folders):
                found.setdefault(key, comment)
    return found


def with_bases(root: Path) -> list[Path]:
    """The file of a command, and the roots of other commands that it starts from."""
    files = [root]
    for name in read_comments(root).bases:
        base = root.parent / f"{name}.yaml"
        if base.is_file():
            files += with_bases(base)
    return files


def groups_of(root: Path) -> list[str]:
    """The groups that a command chooses from, by the defaults of its file."""
    groups: set[str] = set()
    for file in with_bases(root):
        defaults = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("defaults", [])
        for item in defaults:
            # `optional rates: ${model}`, `override /hydra/job_logging: none`
            names = [key.rpartition(" ")[2] for key in item] if isinstance(item, dict) else []
            groups.update(name for name in names if "/" not in name)
    return sorted(groups)


def _of_group(
    group: str, names: Iterable[str], folders: Sequence[Path]
) -> Iterator[tuple[str, str]]:
    comments = {name: read_comments(file) for name, file in files_of(group, folders).items()}
    for name in _in_order(names, comments):
        prefix = "" if comments[name].is_global else f"{group}."
        for key, comment in comments[name].of_keys.items():
            yield prefix + key, comment


def files_of(group: str, folders: Sequence[Path]) -> dict[str, Path]:
    """The choices of a group by name; a folder that comes first wins."""
    files: dict[str, Path] = {}
    # Backwards: the first folder, which comes last here, replaces the files of the others.
    for folder in reversed(folders):
        files |= {file.stem: file for file in (folder / group).glob("*.yaml")}
    return dict(sorted(files.items()))


def _in_order(names: Iterable[str], comments: dict[str, Comments]) -> Iterator[str]:
    """The names that have a file, each after its bases."""
    for name in names:
        if name in comments:
            yield from _in_order(comments[name].bases, comments)
            yield name


def _bases(root: yaml.MappingNode) -> Iterator[str]:
    """`webdataset` of `defaults: [webdataset@data, _self_, override /eval: demo]`."""
    for key, value in root.value:
        if key.value == "defaults":
            names = [item.value for item in value.value if isinstance(item, yaml.ScalarNode)]
            yield from (name.partition("@")[0] for name in names if name != "_self_")


def _of_keys(node: yaml.MappingNode, lines: list[str], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        start = key.start_mark
        # If the value begins on a later line, the comment stands behind the key.
        on_one_line = value.start_mark.line == start.line
        end = value.end_mark if on_one_line else key.end_mark

        comment = _behind(lines, start.column, end) or _above(lines, start)
        if comment:
            yield name, comment
        # `{width: 1.2}` has no place for comments of its keys.
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            yield from _of_keys(value, lines, f"{name}.")


def _behind(lines: list[str], column: int, end: yaml.Mark) -> str:
    """The comment behind a value, and its further lines."""
    rest = lines[end.line][end.column :].lstrip(": ")
    if not rest.startswith("#"):
        return ""

    found = [rest]
    for line in lines[end.line + 1 :]:
        if not _is_comment(line) or line.index("#") <= column:
            break
        found.append(line)
    return _joined(found)


def _above(lines: list[str], start: yaml.Mark) -> str:
    """The lines of comment directly above a key, at its own column."""
    found: list[str] = []
    for line in reversed(lines[: start.line]):
        if not _is_comment(line) or line.index("#") != start.column:
            break
        found.insert(0, line)
    return _joined(found)


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")


def _joined(lines: Iterable[str]) -> str:
    return " ".join(line.strip().lstrip("#").strip() for line in lines)
