"""A clip in the node: the player that shows a stream while it is made, and then the file."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from . import host, host_media
from .sockets import CATEGORY


class HalloLivePlayer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HalloLivePlayer",
            display_name="Hallo-Live Player",
            category=CATEGORY,
            description=(
                "A second screen, as large as you like: plays the stream of the sampler it is "
                "connected to while the clip is being made, and then the finished clip. Plays any "
                "other video as well."
            ),
            inputs=[
                io.Video.Input("video", tooltip="From a stream sampler, or any other video."),
            ],
            outputs=[],
            is_output_node=True,
            **host.known(io.Schema, search_aliases=["preview video", "watch", "live"]),
        )

    @classmethod
    def execute(cls, video: Any) -> io.NodeOutput:
        return io.NodeOutput(ui={"video": [host_media.video_for_view(video)]})
