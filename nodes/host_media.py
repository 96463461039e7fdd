"""Calls to ComfyUI about clips: its folders, its VIDEO, what its pages may fetch."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import folder_paths
from comfy.cli_args import args
from comfy_api.latest import InputImpl

MAX_ID = 64
"""Characters of a workflow's id; pages make UUIDs."""

VIEWABLE_FOLDERS = ("temp", "output", "input")
"""The folders that the host hands files out of, by the names it has for them."""


def temporary_clip() -> Path:
    """A new file name in the host's temp folder."""
    return Path(folder_paths.get_temp_directory()) / f"hallolive_{uuid.uuid4().hex}.mp4"


def workflow_metadata(hidden: Any) -> dict[str, str]:
    """What makes a dropped file restore its workflow; nothing if the user turned that off."""
    if args.disable_metadata:
        return {}
    metadata = {} if hidden.prompt is None else {"prompt": hidden.prompt}
    return {k: json.dumps(v) for k, v in {**metadata, **_mapping(hidden.extra_pnginfo)}.items()}


def workflow_id(hidden: Any) -> str:
    """Of the canvas that queued the run; empty for programs, which may send anything or nothing."""
    found = _mapping(_mapping(hidden.extra_pnginfo).get("workflow")).get("id")
    return found if isinstance(found, str) and len(found) <= MAX_ID else ""


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def as_video(path: Path) -> Any:
    """A VIDEO backed by a file."""
    return InputImpl.VideoFromFile(str(path))


def file_of(video: Any) -> Path | None:
    """The file behind a VIDEO; None for one that is made of tensors, which would encode itself."""
    source = video.get_stream_source() if isinstance(video, InputImpl.VideoFromFile) else None
    return Path(source) if isinstance(source, str) else None


def clip_for_view(path: Path) -> dict[str, str] | None:
    """How pages and programs ask /view for a clip; None if it lies outside the host's folders."""
    for kind in VIEWABLE_FOLDERS:
        root = Path(folder_paths.get_directory_by_type(kind)).resolve()
        if (place := path.resolve()).is_relative_to(root):
            folder = place.parent.relative_to(root).as_posix().removeprefix(".")
            return {
                "filename": path.name,
                "subfolder": folder,
                "type": kind,
                "format": "video/mp4",
            }
    return None


def video_for_view(video: Any) -> dict[str, str] | None:
    """The same for a VIDEO, of which a copy is made if it is no file that can be viewed."""
    if (file := file_of(video)) is not None and (found := clip_for_view(file)):
        return found
    copy = temporary_clip()
    copy.parent.mkdir(parents=True, exist_ok=True)
    video.save_to(str(copy))
    return clip_for_view(copy)
