"""Where files may be written."""

from __future__ import annotations

from pathlib import Path

from .errors import HalloLiveError


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
