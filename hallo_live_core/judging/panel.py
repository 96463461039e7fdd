"""The judges by name: load those that are wanted, let each of them score a clip."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ..checkpoints import catalog
from ..checkpoints.rewards import load_sync_judge
from ..checkpoints.rewards_hf import load_audio_judge, load_video_judge
from ..devices import default_dtype
from ..errors import CheckpointError, RequestError
from ..rewards.base import Clip, JudgeCallback, Reward, Score, Verdict
from ..rewards.sync.judge import Faces
from ..types import CancelCheck

JUDGE_FILES = {
    "sync": (catalog.FACE_DETECTOR, catalog.SYNCNET),
    "audio": (catalog.AUDIOBOX,),
    "video": (catalog.VIDEO_REWARD, catalog.VIDEO_REWARD_TOKENIZER),
}
"""What every judge needs; the order is that of tables."""

JUDGES = tuple(JUDGE_FILES)

WORST_FIRST: tuple[Verdict, ...] = ("bad", "doubtful", "good")


def load_judges(
    folders: Sequence[Path],
    names: Sequence[str],
    *,
    device: torch.device | str = "cpu",
    runs_on: torch.device | None = None,
    faces: Faces = "mean",
) -> tuple[Reward, ...]:
    """The judges of these names, in the order of `JUDGES`; nothing is read for the others.

    Args:
        folders: where to look, at any depth; the first one that has all files of a judge is used.
        names: of `JUDGES`.
        device: where the networks go.
        runs_on: where a host will move them to compute, which decides the number format of the
            large one; None is `device`.
        faces: how the lip-sync judge counts several faces.

    Raises:
        RequestError: no judge, or an unknown one.
        CheckpointError: files are missing (all missing ones are named), or one does not fit.
    """
    check_names(names)
    wanted = [name for name in JUDGES if name in names]
    home = {name: _folder_of(name, folders) for name in wanted}
    missing = [file for name in wanted if home[name] is None for file in _missing(name, folders)]
    if missing:
        raise CheckpointError(
            f"Files of judges are missing in {' and '.join(map(str, folders))}",
            found=catalog.missing_list(missing),
            fix="download them there, with the folders in their names, or choose other judges",
        )
    judges: list[Reward] = []
    for name in wanted:
        folder = home[name] or folders[0]
        if name == "sync":
            judges.append(load_sync_judge(folder, device=device, faces=faces))
        elif name == "audio":
            judges.append(load_audio_judge(folder, device=device))
        else:
            dtype = default_dtype(runs_on or torch.device(device))
            judges.append(load_video_judge(folder, device=device, dtype=dtype))
    return tuple(judges)


def check_names(names: Sequence[str]) -> None:
    """Refuse an empty list of judges, and judges that do not exist.

    Raises:
        RequestError: the list is empty, or a name is unknown.
    """
    unknown = [name for name in names if name not in JUDGES]
    if unknown or not names:
        raise RequestError(
            "Unknown judge" if unknown else "No judge is chosen",
            found=", ".join(unknown) or None,
            fix=f"choose one or more of {', '.join(JUDGES)}",
        )


def score_clip(
    judges: Sequence[Reward],
    clip: Clip,
    *,
    on_progress: JudgeCallback | None = None,
    should_stop: CancelCheck | None = None,
) -> tuple[Score, ...]:
    """What every judge says of a clip.

    Raises:
        ShapeError: the clip is not one.
        Cancelled: `should_stop` said so.
    """
    return tuple(
        judge.score(clip, on_progress=on_progress, should_stop=should_stop) for judge in judges
    )


def verdict_of(score: Score) -> Verdict | None:
    """The worst verdict among a score's components; None where nothing could be told."""
    said = {part.verdict for part in score.components}
    return next((verdict for verdict in WORST_FIRST if verdict in said), None)


def _folder_of(name: str, folders: Sequence[Path]) -> Path | None:
    return next((folder for folder in folders if not _missing_in(name, folder)), None)


def _missing(name: str, folders: Sequence[Path]) -> tuple[catalog.ModelFile, ...]:
    """What the folder that has most of a judge's files still lacks."""
    return min((_missing_in(name, folder) for folder in folders), key=len)


def _missing_in(name: str, folder: Path) -> tuple[catalog.ModelFile, ...]:
    return catalog.missing_files(folder, JUDGE_FILES[name])
