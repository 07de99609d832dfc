"""Files that are missing, files written whole or not at all, locks, and the user's folders.

A reader never sees half a file: the content goes to a hidden name beside it and is renamed once it
is complete. A rename within one folder is atomic on local disks, NFS and Lustre.

`locked` is for a block of code: threads and processes enter one after another. For its whole life a
run holds another lock, `run/lock.py`.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import socket
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from align_train.errors import UserError, did_you_mean

_POLL = 0.05  # seconds between two attempts to take a lock


def is_missing_path(name: str) -> bool:
    """Whether a name that may be one of the Hugging Face hub's is a path that is not there.

    Args:
        name: The hub has NAME and OWNER/NAME. A path has more folders, begins with `.`, `/` or `~`,
            or lies in a folder that is there: `outputs/demo`.
    """
    path = Path(name).expanduser()
    if path.exists():
        return False
    lies_here = "/" in name and path.parent.is_dir()
    return lies_here or name.count("/") > 1 or name.startswith((".", "/", "~"))


def nearest_path(path: str | Path) -> str:
    """`, did you mean …?` if a file beside has nearly the name of a missing one, or nothing."""
    missing = Path(path)
    try:
        names = os.listdir(missing.expanduser().parent)
    except OSError:
        return ""
    # Hidden files are leftovers, and a name with another number is another thing of the kind.
    numberless = re.sub(r"\d+", "", missing.name)
    names = [
        name
        for name in names
        if not name.startswith(".") and re.sub(r"\d+", "", name) != numberless
    ]
    # 0.75: a folder of runs has similar names, and a wrong proposal is worse than none.
    folder = str(missing).removesuffix(missing.name)
    return did_you_mean(missing.name, names, before=folder, cutoff=0.75)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Writes a file or a folder whole or not at all.

    Args:
        path: The final place. Its folder is made if it is missing.

    Yields:
        A hidden place beside it, for the block to fill: as a file, or as a folder that the block
        makes. It takes the final name when the block ends, and is removed if the block raises.

    Raises:
        OSError: The place cannot be written.
    """
    # A thread's number is unique on its machine, and that of the main thread is its process's. Two
    # containers often have the same ones.
    aside = path.with_name(f".{path.name}.{socket.gethostname()}.{threading.get_native_id()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    # A killed process whose number has come again may have left it.
    _remove(aside)

    try:
        yield aside
        os.replace(aside, path)
    finally:
        with contextlib.suppress(OSError):
            _remove(aside)


def write_whole(
    path: Path,
    content: str | bytes | memoryview,
    *,
    fix: str = "free some space or set output_dir to another place",
) -> None:
    """Writes a file whole or not at all.

    Args:
        path: The file. Its folder is made if it is missing.
        content: Text is written as UTF-8.
        fix: The advice at the end of the error.

    Raises:
        UserError: The file cannot be written.
    """
    try:
        with whole(path) as aside:
            aside.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); {fix}") from None


def move_link(link: Path, target: str) -> None:
    """Points a symbolic link at a file. The link exists at every moment.

    Args:
        link: The link. It need not exist.
        target: What it names, from its own folder.

    Raises:
        OSError: It cannot be written.
    """
    # A link cannot be changed, but another can take its name.
    aside = link.with_name(f".{link.name}.new")
    aside.unlink(missing_ok=True)
    aside.symlink_to(target)
    os.replace(aside, link)


def check_writable(path: Path, fix: str) -> None:
    """Checks that a file or folder can be written, before the work whose result it is to hold.

    Args:
        path: What is to be written later. It and its folder need not exist.
        fix: The advice at the end of the error: a setting, with what to give.

    Raises:
        UserError: It cannot be written.
    """
    folder = path.parent
    # The folder may not be there yet: then the nearest one above it decides.
    while not os.path.lexists(folder):
        folder = folder.parent

    # Not `os.access`: it knows the bits, but not every network file system goes by them.
    trial = folder / f".align_train.{threading.get_native_id()}.trial"
    try:
        trial.touch()
        trial.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); {fix}") from None


def check_links(folder: Path, fix: str) -> None:
    """Checks that a folder's file system has symbolic links, before work that ends with one.

    Args:
        folder: It is there, and can be written.
        fix: The advice at the end of the error.

    Raises:
        UserError: A bucket that is mounted as a folder has none, and neither has FAT.
    """
    trial = folder / f".align_train.{threading.get_native_id()}.trial"
    try:
        trial.symlink_to("nothing")
        trial.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: its file system has no symbolic links ({error.strerror}), as a bucket "
            f"that is mounted; {fix}"
        ) from None


def cache_folder(name: str) -> Path:
    """The folder `align_train/NAME` in the user's cache folder (`XDG_CACHE_HOME`, or `~/.cache`).

    Without a home that can be written, as in many containers, it lies below the temporary folder.
    The folder is not made here. UserError: there is no place for it.
    """
    user_cache = _user_cache(os.environ.get("XDG_CACHE_HOME", ""), os.environ.get("HOME"))
    return user_cache / "align_train" / name


def settle_home() -> None:
    """Gives this process and its children a home and a user's name, if they have none.

    A container's user may have no passwd entry. Libraries would then write to a folder called `~`,
    to their working folder, or fail.
    """
    # Empty, it would mean the working folder to some libraries.
    if not os.environ.get("XDG_CACHE_HOME"):
        os.environ.pop("XDG_CACHE_HOME", None)
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = str(_stand_in("there is no home folder"))

    # Matplotlib warns in two lines if it cannot write there.
    if not _can_write(Path.home() / ".config") and not os.environ.get("XDG_CONFIG_HOME"):
        os.environ.setdefault("MPLCONFIGDIR", str(cache_folder("matplotlib")))

    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        # `getpass.getuser` finds the name here; without an entry in passwd it would fail.
        os.environ.setdefault("USER", f"uid-{os.getuid()}")


@cache
def _user_cache(given: str, home: str | None) -> Path:
    """The user's cache folder. home: `HOME`; decided once for each value, as rights may change."""
    # An empty or relative path counts as unset, by the rules of XDG.
    if os.path.isabs(given):
        return Path(given)

    try:
        folder = Path.home() / ".cache"
    except RuntimeError:
        return _stand_in("there is no home folder") / ".cache"

    return folder if _can_write(folder) else _stand_in(f"{folder} cannot be written") / ".cache"


def _can_write(folder: Path) -> bool:
    """Whether the user may write a folder, or make it if it is missing."""
    while not os.path.exists(folder):
        folder = folder.parent
    return os.access(folder, os.W_OK | os.X_OK)


def _stand_in(why: str) -> Path:
    """A folder below the temporary one, in place of a home. The process that makes it says so."""
    fix = "set HOME or XDG_CACHE_HOME to a folder of yours"
    try:
        folder = Path(tempfile.gettempdir(), f"align_train-{os.getuid()}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            line = f"align_train: {why}: {folder} takes its place; {fix} to choose another"
            print(line, file=sys.stderr, flush=True)
        about = folder.lstat()
    except OSError as error:
        raise UserError(f"{why}, nor a temporary one ({error.strerror}); {fix}") from None

    # Anybody may make a folder of that name, and put files of theirs there.
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid():
        raise UserError(f"{why}, and {folder} is not this user's; {fix}")
    return folder


@contextmanager
def locked(path: Path, deadline: float, *, refusal: str) -> Iterator[None]:
    """Lets one thread of one process at a time into the block.

    The lock (`flock`) ends with the process, however that ends. Its file stays.

    Args:
        path: The lock's file, in a folder that exists.
        deadline: When to give up waiting, by `time.monotonic`; a time in the past: at once.
        refusal: The error's text if another one keeps the lock.

    Yields:
        Nothing.

    Raises:
        UserError: Another one keeps the lock, or the file cannot be locked.
    """
    from filelock import FileLock, Timeout  # asyncio comes with it, 0.06 s

    patience = max(deadline - time.monotonic(), 0)
    try:
        # Whoever may write the folder may lock in it, whatever the umask of the first user was.
        rights = path.parent.stat().st_mode & 0o666
        lock = FileLock(path, mode=rights | 0o600)
        lock.acquire(timeout=patience, poll_interval=_POLL)
    except Timeout:
        raise UserError(refusal) from None
    except OSError as error:
        raise UserError(
            f"{path}: cannot be locked ({error.strerror}); choose another folder"
        ) from None

    try:
        yield
    finally:
        lock.release()


def _remove(path: Path) -> None:
    # A link to a folder is removed itself; its target stays.
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
