"""The node that changes the transformer by a LoRA."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ..hallo_live_core import check_lora, load_lora
from . import host
from .host_weights import weight_shapes, with_lora
from .sockets import CATEGORY, LoadedModel, Model

LORAS = ("loras",)
WANTED = "a LoRA of Hallo-Live"
MAX_STRENGTH = 10.0


class HalloLiveLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HalloLiveLora",
            display_name="Hallo-Live LoRA",
            category=CATEGORY,
            description=(
                "Changes the transformer by a LoRA file. The model that comes in stays as it is: "
                "remove the node, or set strength 0, and the change is gone."
            ),
            inputs=[
                Model.Input("model", tooltip="From Hallo-Live Model Loader, or another LoRA."),
                io.Combo.Input(
                    "lora_name",
                    options=host.list_files(LORAS, wanted=WANTED, usual="hallo"),
                    tooltip="A LoRA of Hallo-Live or Ovi in models/loras.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-MAX_STRENGTH,
                    max=MAX_STRENGTH,
                    step=0.01,
                    tooltip="How much of the change: 0 nothing, 1 as trained.",
                ),
            ],
            outputs=[Model.Output(display_name="model", tooltip="For a Hallo-Live sampler.")],
            **host.known(io.Schema, search_aliases=["lora", "adapter", "style"]),
        )

    @classmethod
    def execute(cls, model: LoadedModel, lora_name: str, strength: float) -> io.NodeOutput:
        if strength == 0:
            return io.NodeOutput(model)
        path = host.find_file(LORAS, lora_name, wanted=WANTED)
        lora = load_lora(path)
        check_lora(lora, weight_shapes(model.patcher), path.name)
        return io.NodeOutput(replace(model, patcher=with_lora(model.patcher, lora, strength)))
