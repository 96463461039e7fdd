"""The nodes that sample: a stream from text to file, or latents only."""

from __future__ import annotations

from collections import deque
from contextlib import closing
from functools import partial
from typing import Any

from comfy_api.latest import io

from ..hallo_live_core import (
    KNOWN_SIZES,
    LONGEST_STREAM,
    SIZE_STEP,
    LatentBlock,
    Lines,
    Request,
    RequestError,
    plan_request,
)
from . import host, host_media
from .first_frame import first_frame_input, with_first_frame
from .latents import latent_outputs, latents_from_blocks
from .live_run import KEPT_BLOCKS, LiveRun
from .long_stream import MOST_BLOCKS, long_stream_inputs
from .refusal import accepted
from .room import ready
from .run import RunReport, as_audio, engine_of
from .script import encoded, read_positive
from .sizes import request_of, size_input
from .sockets import ADVANCED, CATEGORY, LoadedModel, LoadedVae, Model, Vae

MAX_SEED = 2**53 - 1
"""The largest number that a browser counts exactly."""

SMALLEST_SIDE, LARGEST_SIDE = 64, 2048
"""Of the picture, in pixels; beyond, memory and patience end."""

_OTHERS = ", ".join(f"{width} x {height}" for height, width in KNOWN_SIZES[1:])
SIZE_TOOLTIP = (
    "Pixels, a multiple of 32; the model was trained with 992 x 512 (width x height). "
    f"Others that the models it descends from know: {_OTHERS}."
)


def sampling_inputs(*, endless: bool = False) -> list[io.Input]:
    """What every sampler asks for, in this order. endless: the stream may go on until stopped."""
    no_end = " 0 goes on until you press Finish; see window_blocks." if endless else ""
    return [
        Model.Input("model", tooltip="From Hallo-Live Model Loader."),
        io.Conditioning.Input("positive", tooltip="From Hallo-Live Text Encode."),
        io.Float.Input(
            "seconds",
            default=5.0,
            min=0.0 if endless else 1.0,
            max=float(LONGEST_STREAM if endless else MOST_BLOCKS),
            step=1.0,
            tooltip=(
                "Length of the clip, in whole blocks of one second; the model was trained on 5. "
                f"n seconds give 24 n - 3 frames.{no_end}"
            ),
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=MAX_SEED,
            control_after_generate=True,
            tooltip="Same seed and settings, same clip.",
        ),
        _side("width", KNOWN_SIZES[0][1]),
        _side("height", KNOWN_SIZES[0][0]),
    ]


def _side(name: str, default: int) -> io.Input:
    """An input for a side of the picture, in pixels."""
    return io.Int.Input(
        name,
        default=default,
        min=SMALLEST_SIDE,
        max=LARGEST_SIDE,
        step=SIZE_STEP,
        tooltip=SIZE_TOOLTIP,
    )


def rare_sampling_inputs() -> list[io.Input]:
    """What few people change; stands last."""
    return [
        io.Int.Input(
            "lookahead",
            default=0,
            min=0,
            max=30,
            optional=True,
            tooltip=(
                "How far lips may hear ahead: audio latents (32 ms each) of the next block that "
                "are sketched with this one so that the mouth can move before the sound. "
                "0 in the published configuration; try 5 if lips lag."
            ),
            extra_dict=ADVANCED,
        ),
        io.Boolean.Input(
            "correlated_noise",
            default=False,
            optional=True,
            tooltip=(
                "Start picture and sound from the same random numbers, as the research code does. "
                "Off is cleaner; on repeats its results."
            ),
            extra_dict=ADVANCED,
        ),
    ]


class HalloLiveStreamSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HalloLiveStreamSampler",
            display_name="Hallo-Live Stream Sampler",
            category=CATEGORY,
            description=(
                "Makes a talking clip block by block and decodes each block as soon as it is "
                "clean: the first second plays here while the next one is being made. Finish "
                "ends the clip after the current block and keeps what exists."
            ),
            inputs=[
                *sampling_inputs(endless=True),
                Vae.Input("vae", tooltip="From Hallo-Live VAE Loader."),
                *rare_sampling_inputs(),
                first_frame_input(),
                *long_stream_inputs(),
                size_input(),
            ],
            outputs=[
                io.Video.Output(display_name="video", tooltip="24 fps with sound; for Save Video."),
                io.Audio.Output(
                    display_name="audio",
                    tooltip=(
                        "16 kHz mono, as long as the video. Of streams of more than a minute, this "
                        "and the latents hold the last minute; the video holds everything."
                    ),
                ),
                *latent_outputs(),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
            **host.known(io.Schema, search_aliases=["talking head", "avatar", "lip sync"]),
        )

    @classmethod
    def validate_inputs(
        cls,
        seconds: float | None = None,
        width: int | None = None,
        height: int | None = None,
        lookahead: int | None = None,
        window_blocks: int | None = None,
        sink_blocks: int | None = None,
        opening_latents: int | None = None,
    ) -> bool | str:
        if seconds is None:  # linked: only known when it arrives, and 5 is not what it will be
            return check_settings(width=width, height=height, lookahead=lookahead)
        return check_settings(
            seconds=seconds,
            width=width,
            height=height,
            lookahead=lookahead,
            window_blocks=window_blocks,
            sink_blocks=sink_blocks,
            opening_latents=opening_latents,
        )

    @classmethod
    def execute(
        cls,
        model: LoadedModel,
        positive: list[Any],
        vae: LoadedVae,
        first_frame: Any = None,
        clip: Any = None,
        **settings: Any,
    ) -> io.NodeOutput:
        request = with_first_frame(request_of(settings), first_frame, vae)
        engine = engine_of(model=model, vae=vae)
        text_dim = model.patcher.model.config.video.text_dim
        told, patchers = read_positive(positive, text_dim), (model.patcher, vae.video, vae.audio)
        lines = None if clip is None else Lines(told.prompt, told.script)
        said = told.script if lines is None else encoded(lines, clip, text_dim, patchers)
        blocks: deque[LatentBlock] = deque(maxlen=KEPT_BLOCKS)
        stream = partial(
            engine.stream, request, text=told.text, on_block=blocks.append, next_said=said
        )
        clock = engine.clock_for(request)
        run = LiveRun(RunReport(cls.hidden.unique_id, engine, clock), clock)
        with ready(engine, request, patchers):
            sound = run.make(stream, cls.hidden, lines)
        return io.NodeOutput(
            host_media.as_video(run.path),
            as_audio(sound, clock),
            *latents_from_blocks(list(blocks)),
            ui={"video": [host_media.clip_for_view(run.path)], "hallolive": [run.numbers]},
        )


class HalloLiveSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HalloLiveSampler",
            display_name="Hallo-Live Sampler",
            category=CATEGORY,
            description="Makes the latents of a talking clip; decode them in a second step.",
            inputs=[
                *sampling_inputs(),
                *rare_sampling_inputs(),
                first_frame_input(),
                Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="From Hallo-Live VAE Loader; only for a picture as first_frame.",
                ),
                size_input(),
            ],
            outputs=latent_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(
        cls,
        seconds: float | None = None,
        width: int | None = None,
        height: int | None = None,
        lookahead: int | None = None,
    ) -> bool | str:
        return check_settings(seconds=seconds, width=width, height=height, lookahead=lookahead)

    @classmethod
    def execute(
        cls,
        model: LoadedModel,
        positive: list[Any],
        first_frame: Any = None,
        vae: LoadedVae | None = None,
        **settings: Any,
    ) -> io.NodeOutput:
        request = with_first_frame(with_end(request_of(settings)), first_frame, vae)
        engine = engine_of(model=model)
        told = read_positive(positive, model.patcher.model.config.video.text_dim)
        report = RunReport(cls.hidden.unique_id, engine)
        stream = partial(engine.sample, request, text=told.text, next_said=told.script)
        with (
            ready(engine, request, [model.patcher]),
            closing(stream(on_progress=report.advance)) as stream,
        ):
            return io.NodeOutput(*latents_from_blocks(list(stream)))


def with_end(request: Request) -> Request:
    """A request for a clip that ends by itself.

    Raises:
        RequestError: it asks for a stream without end.
    """
    if request.seconds == 0:
        raise RequestError(
            "Only the Stream Sampler makes a stream without end",
            found="0 seconds",
            fix="give the script's last line its seconds, or choose a length",
        )
    return request


def check_settings(**wanted: Any) -> bool | str:
    """True, or why these settings cannot work. Linked ones are None, and checked when they come."""
    known = {name: value for name, value in wanted.items() if value is not None}
    return accepted(lambda: plan_request(Request(**known)))
