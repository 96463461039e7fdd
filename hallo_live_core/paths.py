"""Where files may be written."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import HalloLiveError

PARTIAL = ".part"
"""What an unfinished file is called in addition."""


def refuse_link(path: Path, error: type[HalloLiveError]) -> None:
    """Refuse to write to a name that is a link: that would change a file that nobody named.

    Links among the folders above it are fine, many keep their models on another disk that way.

    Raises:
        HalloLiveError: `path` is a symbolic link, dangling ones included; of the type `error`.
    """
    try:
        target = path.readlink() if path.is_symlink() else None
    except OSError:  # it vanished meanwhile, or cannot be looked at: writing will tell
        return
    if target is not None:
        raise error(
            f"{path} is a link and was left as it is",
            found=f"it leads to {target}",
            fix="delete the link, or name a file of its own",
        )


@contextmanager
def appearing(target: Path, error: type[HalloLiveError]) -> Generator[BinaryIO, None, None]:
    """A file to write to, which has its name only once the block is done; its folder is made.

    Raises:
        HalloLiveError: the name is a link, or the file cannot be written; of the type `error`.
    """
    refuse_link(target, error)
    partial = target.with_name(target.name + PARTIAL)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)  # of a run that was killed; a link, by somebody else
        with partial.open("xb") as file:
            yield file
        partial.replace(target)
    except OSError as problem:
        raise error(
            f"{target} cannot be written",
            found=problem,
            fix="check the folder and the free space, or name another place",
        ) from problem
    finally:
        partial.unlink(missing_ok=True)


def refuse_unwritable(path: Path, error: type[HalloLiveError]) -> None:
    """Refuse a file that cannot be written, before work begins; missing folders are fine.

    Raises:
        HalloLiveError: `path` is a link or a folder, lies below a file, or may not be written; of
            the type `error`.
    """
    refuse_link(path, error)
    problem = f"Cannot write {path}"
    if path.is_dir():
        raise error(problem, found="a folder of that name", fix="name a file in it")
    nearest = next(above for above in (path, *path.absolute().parents) if above.exists())
    if nearest != path and not nearest.is_dir():
        raise error(problem, found=f"{nearest} is no folder", fix="name another folder")
    if not os.access(nearest, os.W_OK):
        raise error(problem, found=f"no permission to write {nearest}", fix="name another folder")
