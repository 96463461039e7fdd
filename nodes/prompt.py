"""From words to conditioning, and from conditioning to what the transformer reads."""

from __future__ import annotations

import logging
from typing import Any

from comfy_api.latest import io

from ..hallo_live_core import (
    TEXT_LENGTH,
    PromptError,
    TextContext,
    check_prompt,
    clean_text,
    compose_prompt,
    speech_overrun,
)
from . import host, host_watch
from .refusal import accepted
from .sockets import ADVANCED, CATEGORY

logger = logging.getLogger(__name__)

TOKENIZER_KEY = "umt5xxl"
"""Under this name the host's Wan text encoders give their tokens."""

PAD, END = 0, 1
"""Token ids of umT5."""

PROMPT_KEY = "hallolive_prompt"
"""Under this name a CONDITIONING carries the words that it was made of."""

WRONG_CLIP_FIX = "load a umT5 with CLIPLoader (type wan) or with Hallo-Live Text Encoder Loader"


class HalloLiveTextEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HalloLiveTextEncode",
            display_name="Hallo-Live Text Encode",
            category=CATEGORY,
            description=(
                "Puts scene, speech and sound into one prompt with the tags the model knows, "
                "tells whether the speech fits the clip, and encodes it. Brackets stay brackets."
            ),
            inputs=[
                io.Clip.Input("clip", tooltip="umT5-xxl: CLIPLoader with type wan."),
                io.String.Input(
                    "scene",
                    multiline=True,
                    placeholder="scene: who is seen, where, how they move",
                    default="A woman in a green sweater looks into the camera in a bright kitchen.",
                    tooltip="Who is seen, where, how they move: plain text, one or two sentences.",
                ),
                io.String.Input(
                    "speech",
                    multiline=True,
                    placeholder="speech: what is said, one line per utterance",
                    default="Hello! Everything you see and hear is being made right now.",
                    tooltip=(
                        "What is said, one line per utterance, about 2.7 words per second of clip. "
                        "Leave it empty for a clip without speech."
                    ),
                ),
                io.String.Input(
                    "voice",
                    multiline=True,
                    placeholder="voice: how it sounds",
                    default="A warm, clear female voice, close to the microphone",
                    tooltip="How the voice sounds: gender, age, mood, distance.",
                ),
                io.String.Input(
                    "ambience",
                    multiline=True,
                    placeholder="ambience: what else is heard",
                    default="quiet room",
                    tooltip="What else is heard: room, street, music. A few words.",
                ),
                io.Float.Input(
                    "seconds",
                    default=5.0,
                    min=1.0,
                    max=60.0,
                    step=1.0,
                    tooltip="Length of the clip in seconds, only to tell whether the speech fits.",
                ),
                io.String.Input(
                    "raw_prompt",
                    multiline=True,
                    placeholder="or a finished prompt: ... <S>...<E> <AUDCAP>...<ENDAUDCAP>",
                    optional=True,
                    default="",
                    tooltip=(
                        "A finished prompt with <S>speech<E> and <AUDCAP>sound<ENDAUDCAP>. "
                        "If it is not empty, the four fields above are ignored."
                    ),
                    extra_dict=ADVANCED,
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="positive", tooltip="For a Hallo-Live sampler; 512 rows."
                ),
                io.String.Output(display_name="prompt", tooltip="The prompt that was encoded."),
            ],
            hidden=[io.Hidden.unique_id],
            **host.known(io.Schema, search_aliases=["talking head prompt", "speech prompt"]),
        )

    @classmethod
    def validate_inputs(
        cls,
        scene: str | None = None,
        speech: str | None = None,
        voice: str | None = None,
        ambience: str | None = None,
        raw_prompt: str | None = None,
    ) -> bool | str:
        if raw_prompt is None or (not raw_prompt and None in (scene, speech, voice, ambience)):
            return True  # a linked text is only known when it arrives
        parts = (scene or "", speech or "", voice or "", ambience or "", raw_prompt)
        return accepted(lambda: _compose(*parts))

    @classmethod
    def execute(
        cls,
        clip: Any,
        scene: str,
        speech: str,
        voice: str,
        ambience: str,
        seconds: float,
        raw_prompt: str = "",
    ) -> io.NodeOutput:
        prompt = _compose(scene, speech, voice, ambience, raw_prompt)
        positive, num_tokens = encode(clip, prompt)
        remarks = [f"{num_tokens} of {TEXT_LENGTH} tokens"]
        if num_tokens > TEXT_LENGTH:
            remarks.append("the end of the prompt, where the sound stands, is cut off: shorten it")
        if overrun := speech_overrun(prompt, seconds):
            remarks.append(overrun)
        for remark in remarks[1:]:
            logger.warning("Hallo-Live Text Encode: %s", remark)
        host_watch.ProgressReport(cls.hidden.unique_id).say("\n".join(remarks))
        return io.NodeOutput(positive, prompt)


def encode(clip: Any, prompt: str) -> tuple[list[Any], int]:
    """A CONDITIONING that knows its prompt, and how many tokens that has.

    Raises:
        PromptError: the CLIP is no umT5.
    """
    tokens, num_tokens = _tokenize(clip, prompt)
    entries = clip.encode_from_tokens_scheduled(tokens)
    return [[rows, {**more, PROMPT_KEY: prompt}] for rows, more in entries], num_tokens


def read_conditioning(conditioning: list[Any], text_dim: int) -> TextContext:
    """The one text embedding of a CONDITIONING, in the length the transformer was trained with.

    Raises:
        PromptError: several entries, or another text encoder's width.
    """
    if len(conditioning) != 1:
        raise PromptError(
            "Combined or averaged prompts make no sense for a stream",
            found=f"{len(conditioning)} entries in the conditioning",
            fix="connect one text encode node directly",
        )
    rows = conditioning[0][0][:1, :TEXT_LENGTH]
    if rows.shape[-1] != text_dim:
        raise PromptError(
            "This conditioning comes from another text encoder than the model was trained with",
            found=f"width {rows.shape[-1]}, the model reads {text_dim}",
            fix=WRONG_CLIP_FIX,
        )
    padded = rows.new_zeros(1, TEXT_LENGTH, text_dim)
    padded[:, : rows.shape[1]] = rows
    return TextContext.shared(padded)


def _compose(scene: str, speech: str, voice: str, ambience: str, raw_prompt: str) -> str:
    if raw_prompt.strip():
        check_prompt(raw_prompt)
        return clean_text(raw_prompt)
    return clean_text(
        compose_prompt(scene=scene, speech=speech.splitlines(), voice=voice, ambience=ambience)
    )


def _tokenize(clip: Any, prompt: str) -> tuple[dict[str, Any], int]:
    """Host tokens cut to the trained length as in training, and how many the prompt really has."""
    tokens = clip.tokenize(prompt, disable_weights=True)
    if set(tokens) != {TOKENIZER_KEY}:
        raise PromptError(
            "This CLIP is not umT5", found=f"a text encoder of {sorted(tokens)}", fix=WRONG_CLIP_FIX
        )
    (ids,) = tokens[TOKENIZER_KEY]
    length = next(i for i, (token, _) in enumerate(ids) if token == END) + 1
    if length > TEXT_LENGTH:
        ids = [*ids[: TEXT_LENGTH - 1], (END, 1.0)]
    return {TOKENIZER_KEY: [ids]}, length
