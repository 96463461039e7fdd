"""The best of several clips that exist, from any model."""

from __future__ import annotations

from functools import partial
from typing import Any

from comfy_api.latest import io

from ..hallo_live_core import Take, rank_takes, take_table
from . import host
from .judges import JudgeReport, Judges, LoadedJudges, clip_of_video, score_takes
from .score import PROMPT_TOOLTIP
from .sockets import CATEGORY

MAX_VIDEOS = 8
"""Sockets of Pick Best; each takes a list of clips as well."""


class HalloLivePickBest(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HalloLivePickBest",
            display_name="Hallo-Live Pick Best",
            category=CATEGORY,
            description=(
                "Judges several clips of the same prompt, from any model, and hands on the best. "
                "Every judge counts alike."
            ),
            inputs=[
                Judges.Input("judges", tooltip="From Hallo-Live Judge Loader."),
                io.String.Input("prompt", multiline=True, default="", tooltip=PROMPT_TOOLTIP),
                io.Video.Input("video_1", tooltip="A clip, or a list of clips."),
                *(
                    io.Video.Input(
                        f"video_{number}", optional=True, tooltip="Another clip, or list of clips."
                    )
                    for number in range(2, MAX_VIDEOS + 1)
                ),
            ],
            outputs=[
                io.Video.Output(display_name="best", tooltip="The clip with the highest rank."),
                io.Int.Output(
                    display_name="index", tooltip="Which of the clips it is; 0 is the first."
                ),
                io.String.Output(display_name="table", tooltip="What the judges say of each clip."),
            ],
            hidden=[io.Hidden.unique_id],
            is_input_list=True,
            **host.known(io.Schema, search_aliases=["best of", "reward", "rank"]),
        )

    @classmethod
    def execute(
        cls,
        judges: list[LoadedJudges],
        prompt: list[str],
        **videos: list[Any],
    ) -> io.NodeOutput:
        numbered = (videos.get(f"video_{number}") for number in range(1, MAX_VIDEOS + 1))
        clips = [video for several in numbered for video in several or [] if video is not None]
        report = JudgeReport(cls.hidden.unique_id)
        opened = [partial(clip_of_video, video, prompt[0]) for video in clips]
        scores = score_takes(judges[0], opened, report)
        takes = [Take.of(f"clip {index}", told) for index, told in enumerate(scores)]
        best = rank_takes(takes).best
        table = take_table(takes)
        report.say(table)
        return io.NodeOutput(clips[best], best, table)
