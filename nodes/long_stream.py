"""The inputs of streams that go on for longer than a clip."""

from __future__ import annotations

from comfy_api.latest import io

from .sockets import ADVANCED

MOST_BLOCKS = 34
"""What the transformer has positions for."""

MOST_OPENING = 5
"""Video latents; a whole block has 6."""


def long_stream_inputs() -> list[io.Input]:
    """What a stream remembers, and who may tell it what to say; stands last."""
    return [
        io.Int.Input(
            "window_blocks",
            default=0,
            min=0,
            max=MOST_BLOCKS,
            optional=True,
            tooltip=(
                "How many blocks of a second the stream remembers. 0: all of them, up to 34 "
                "seconds, and 5 where seconds is 0. With a window memory and speed stay the same "
                "for ever, and from its end on the picture runs at 25 fps, in step with the sound."
            ),
            extra_dict=ADVANCED,
        ),
        io.Int.Input(
            "sink_blocks",
            default=1,
            min=0,
            max=MOST_BLOCKS - 1,
            optional=True,
            tooltip="Of the window: the first blocks of the stream, which are never forgotten.",
            extra_dict=ADVANCED,
        ),
        io.Boolean.Input(
            "constant_rate",
            default=False,
            optional=True,
            tooltip=(
                "24 fps to the end. Once the window moves, picture and sound then drift apart by "
                "40 ms a second."
            ),
            extra_dict=ADVANCED,
        ),
        io.Boolean.Input(
            "looks_back",
            default=False,
            optional=True,
            tooltip=(
                "When the prompt changes, run through what is remembered again under the new one. "
                "Costs a pass for each remembered second."
            ),
            extra_dict=ADVANCED,
        ),
        io.Clip.Input(
            "clip",
            optional=True,
            tooltip=(
                "Connect the text encoder to tell the stream what to say while it runs: a line "
                "appears under the player."
            ),
        ),
        io.Int.Input(
            "opening_latents",
            default=0,
            min=0,
            max=MOST_OPENING,
            optional=True,
            tooltip=(
                "Begin with a shorter block of so many video latents, so that the first frames "
                "are there earlier: 3 is half a block. 0: whole blocks, as the model was trained. "
                "Not with a window."
            ),
            extra_dict=ADVANCED,
        ),
    ]
