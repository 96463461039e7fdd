"""The only code that knows ComfyUI: nodes translate between its sockets and `hallo_live_core`."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .decode import HalloLiveDecode
from .load import HalloLiveModelLoader, HalloLiveTextEncoderLoader, HalloLiveVAELoader
from .prompt import HalloLiveTextEncode
from .sample import HalloLiveSampler, HalloLiveStreamSampler


class HalloLiveExtension(ComfyExtension):
    """The list of nodes. Ids and input names are forever; new inputs go to the end."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            HalloLiveModelLoader,
            HalloLiveVAELoader,
            HalloLiveTextEncoderLoader,
            HalloLiveTextEncode,
            HalloLiveStreamSampler,
            HalloLiveSampler,
            HalloLiveDecode,
        ]


async def comfy_entrypoint() -> HalloLiveExtension:
    """Called by ComfyUI once, when it loads the pack."""
    return HalloLiveExtension()
