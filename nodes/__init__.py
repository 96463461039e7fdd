"""The only code that knows ComfyUI: nodes translate between its sockets and `hallo_live_core`."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import host_watch
from .best import HalloLiveBestOf
from .decode import HalloLiveDecode
from .judges import HalloLiveJudgeLoader
from .live import HalloLivePlayer
from .live_route import register
from .load import HalloLiveModelLoader, HalloLiveTextEncoderLoader, HalloLiveVAELoader
from .lora import HalloLiveLora
from .pick import HalloLivePickBest
from .prompt import HalloLiveTextEncode
from .sample import HalloLiveSampler, HalloLiveStreamSampler
from .score import HalloLiveScore
from .script import HalloLiveScript


class HalloLiveExtension(ComfyExtension):
    """The list of nodes. Ids and input names are forever; new inputs go to the end."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        if (server := host_watch.server()) is not None:
            register(server)
        return [
            HalloLiveModelLoader,
            HalloLiveVAELoader,
            HalloLiveTextEncoderLoader,
            HalloLiveTextEncode,
            HalloLiveStreamSampler,
            HalloLiveSampler,
            HalloLiveDecode,
            HalloLivePlayer,
            HalloLiveJudgeLoader,
            HalloLiveScore,
            HalloLivePickBest,
            HalloLiveBestOf,
            HalloLiveLora,
            HalloLiveScript,
        ]


async def comfy_entrypoint() -> HalloLiveExtension:
    """Called by ComfyUI once, when it loads the pack."""
    return HalloLiveExtension()
