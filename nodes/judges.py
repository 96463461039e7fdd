"""The judges of finished clips: loaded into the host's memory manager, and asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, get_args

import torch
from comfy_api.latest import io

from ..hallo_live_core import (
    JUDGES,
    MAX_SECONDS,
    CheckpointError,
    Clip,
    JudgeProgress,
    RequestError,
    Reward,
    Score,
    frames_from_images,
    load_judges,
    read_clip,
    score_clip,
)
from . import host, host_media, host_watch
from .host_devices import DEFAULT, check_device, compute_device, device_input
from .sockets import ADVANCED, CATEGORY

Judges = io.Custom("HALLOLIVE_JUDGES")

Faces = Literal["mean", "best"]

WORKING_BYTES = 2 * 10**9
"""What a judge takes besides its weights: its widest layers are 70 MB (faces), 200 MB (lips) and
some 2100 tokens of a 2B language model, several of each at a time; doubled."""

SAME_LENGTH_SECONDS = 0.5
"""A VIDEO that differs more from its file was cut by a node, so the file is not the clip."""


@dataclass(frozen=True)
class LoadedJudges:
    """Value of HALLOLIVE_JUDGES; the patchers hold the judges' networks for the host."""

    judges: tuple[Reward, ...]
    patchers: tuple[Any, ...]


class HalloLiveJudgeLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HalloLiveJudgeLoader",
            display_name="Hallo-Live Judge Loader",
            category=CATEGORY,
            description=(
                "Loads the judges that score finished clips. Only the files of those that are "
                "switched on are needed, anywhere below models/judges."
            ),
            inputs=[
                io.Boolean.Input(
                    "sync",
                    default=True,
                    tooltip="Lip sync: S3FD and SyncNet, 0.15 GB (sfd_face.pth, syncnet_v2.model).",
                ),
                io.Boolean.Input(
                    "audio",
                    default=False,
                    tooltip="Sound: AudioBox Aesthetics, 0.4 GB (folder audiobox-aesthetics).",
                ),
                io.Boolean.Input(
                    "video",
                    default=False,
                    tooltip="Picture and prompt: VideoAlign, 4.4 GB in use (folder VideoReward).",
                ),
                io.Combo.Input(
                    "faces",
                    options=list(get_args(Faces)),
                    default="mean",
                    tooltip=(
                        "With several faces in a clip: mean of all, as published; best: that of "
                        "the one that fits best, for clips in which others listen."
                    ),
                    extra_dict=ADVANCED,
                ),
                device_input("Where the judges run. default: with the host's models."),
            ],
            outputs=[
                Judges.Output(display_name="judges", tooltip="For Score, Pick Best and Best Of.")
            ],
            **host.known(io.Schema, search_aliases=["reward", "syncnet", "lip sync score"]),
        )

    @classmethod
    def validate_inputs(cls, device: str | None = None) -> bool | str:
        return check_device(device)

    @classmethod
    def execute(
        cls, sync: bool, audio: bool, video: bool, faces: Faces, device: str = DEFAULT
    ) -> io.NodeOutput:
        switched = dict(zip(JUDGES, (sync, audio, video), strict=True))
        names = [name for name, on in switched.items() if on]
        if not names:
            raise RequestError("No judge is switched on", fix=f"switch on {' or '.join(JUDGES)}")
        place = compute_device(device)
        try:
            judges = load_judges(host.judge_folders(), names, runs_on=place, faces=faces)
        except CheckpointError as error:
            fix = error.fix or "put the judges' files into models/judges"
            raise CheckpointError(error.problem, found=error.found, fix=fix) from error
        patchers = tuple(host.judge_patcher(judge.networks, place) for judge in judges)
        return io.NodeOutput(LoadedJudges(judges, patchers))


class JudgeReport:
    """Tells the user where the judges are; raises when the user asked to stop."""

    def __init__(self, node_id: str | None) -> None:
        self._host = host_watch.ProgressReport(node_id)
        self._title = ""

    def begin(self, title: str) -> None:
        """Name the clip that is judged next."""
        self._title = f"{title} · " if title else ""

    def advance(self, progress: JudgeProgress) -> None:
        """After every piece of a judge's work."""
        self._host.advance(progress.done, progress.total)
        self._host.say(
            f"{self._title}{progress.judge}: {progress.stage} {progress.done}/{progress.total}"
        )

    def say(self, text: str) -> None:
        """Show the result."""
        self._host.say(text)


def ask(loaded: LoadedJudges, clip: Clip, report: JudgeReport) -> tuple[Score, ...]:
    """What every judge says of a clip; call it while `on_device` holds them."""
    return score_clip(loaded.judges, clip, on_progress=report.advance)


def on_device(loaded: LoadedJudges) -> Any:
    """Have the judges where they compute."""
    return host.loaded(loaded.patchers, WORKING_BYTES, whole=True)


def clip_of_video(video: Any, prompt: str) -> Clip:
    """A VIDEO of any origin as a clip to judge.

    Files are read by our own reader, which keeps sound and picture aligned and needs a quarter of
    the memory; what no file holds comes as tensors.
    """
    if (file := host_media.file_of(video)) is not None:
        clip = read_clip(file, prompt=prompt)
        if abs(min(video.get_duration(), MAX_SECONDS) - clip.seconds) < SAME_LENGTH_SECONDS:
            return clip
    parts = video.get_components()
    return clip_of_tensors(parts.images, parts.audio, Fraction(parts.frame_rate), prompt)


def clip_of_tensors(
    images: torch.Tensor, audio: dict[str, Any] | None, fps: Fraction, prompt: str
) -> Clip:
    """IMAGE and AUDIO as a clip to judge."""
    frames = frames_from_images(images)
    if audio is None:
        return Clip(frames, fps, prompt=prompt)
    waveform = audio["waveform"]
    if len(waveform) != 1:
        raise RequestError(
            "A clip can have only one sound",
            found=f"an AUDIO of {len(waveform)}",
            fix="connect one sound",
        )
    return Clip(frames, fps, waveform[0].float().cpu(), int(audio["sample_rate"]), prompt)


def score_takes(
    loaded: LoadedJudges, clips: Sequence[Any], report: JudgeReport
) -> list[tuple[Score, ...]]:
    """What the judges say of several clips; each is a function, so that one is open at a time."""
    scores: list[tuple[Score, ...]] = []
    with on_device(loaded):
        for number, open_clip in enumerate(clips, 1):
            report.begin(f"take {number}/{len(clips)}")
            scores.append(ask(loaded, open_clip(), report))
    return scores
