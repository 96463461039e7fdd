"""One clip, judged: numbers, a table, a plot."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import torch
from comfy_api.latest import io, ui

from ..hallo_live_core import JUDGES, Clip, RequestError, score_table
from . import host
from .judges import (
    JudgeReport,
    Judges,
    LoadedJudges,
    ask,
    clip_of_tensors,
    clip_of_video,
    on_device,
)
from .plot import sync_plot
from .sockets import CATEGORY

MAX_DENOMINATOR = 1001
"""Of frame rates such as 24000/1001."""

PROMPT_TOOLTIP = (
    "What the clip was to show, for the video judge; connect the prompt output of the text encode "
    "node. Empty: it is not asked whether the picture fits."
)


class HalloLiveScore(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HalloLiveScore",
            display_name="Hallo-Live Score",
            category=CATEGORY,
            description=(
                "Judges a talking clip from any model: whether lips and speech fit, how the sound "
                "is, how the picture is and whether it shows the prompt. Connect a video, or "
                "images with audio."
            ),
            inputs=[
                Judges.Input("judges", tooltip="From Hallo-Live Judge Loader."),
                io.String.Input("prompt", multiline=True, default="", tooltip=PROMPT_TOOLTIP),
                io.Video.Input("video", optional=True, tooltip="The clip, with its sound."),
                io.Image.Input(
                    "images", optional=True, tooltip="All frames of a clip, instead of a video."
                ),
                io.Audio.Input(
                    "audio", optional=True, tooltip="The sound that belongs to the images."
                ),
                io.Float.Input(
                    "fps",
                    default=24.0,
                    min=1.0,
                    max=240.0,
                    step=0.001,
                    optional=True,
                    tooltip="Frames per second of the images; a video brings its own.",
                ),
            ],
            outputs=[
                *(
                    io.Float.Output(
                        display_name=f"{name}_score",
                        tooltip="Higher is better. nan if not judged; the table says why.",
                    )
                    for name in JUDGES
                ),
                io.String.Output(
                    display_name="table",
                    tooltip="All numbers, each with a verdict and the scale it is held to.",
                ),
                io.Image.Output(
                    display_name="plot",
                    tooltip=(
                        "Distance of lips and sound over their offset, a line per face: the deeper "
                        "the dip and the nearer to 0, the better."
                    ),
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
            **host.known(io.Schema, search_aliases=["reward", "lip sync", "syncnet", "quality"]),
        )

    @classmethod
    def execute(
        cls,
        judges: LoadedJudges,
        prompt: str,
        video: Any = None,
        images: torch.Tensor | None = None,
        audio: dict[str, Any] | None = None,
        fps: float = 24.0,
    ) -> io.NodeOutput:
        clip = _clip(prompt, video, images, audio, fps)
        report = JudgeReport(cls.hidden.unique_id)
        with on_device(judges):
            scores = ask(judges, clip, report)
        told = {score.judge: score.value for score in scores}
        table = score_table(scores)
        report.say(table)
        plot = host.to_socket(sync_plot(scores))
        values = [told.get(name) for name in JUDGES]
        numbers = [math.nan if value is None else value for value in values]
        return io.NodeOutput(*numbers, table, plot, ui=ui.PreviewImage(plot, cls=cls))


def _clip(
    prompt: str,
    video: Any,
    images: torch.Tensor | None,
    audio: dict[str, Any] | None,
    fps: float,
) -> Clip:
    if (video is None) == (images is None):
        raise RequestError(
            "There must be exactly one clip to score",
            found="none" if video is None else "a video and images",
            fix="connect either video, or images and audio",
        )
    if images is None:
        return clip_of_video(video, prompt)
    rate = Fraction(fps).limit_denominator(MAX_DENOMINATOR)
    return clip_of_tensors(images, audio, rate, prompt)
