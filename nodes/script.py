"""What is said when: a script as CONDITIONING, and lines that are said while a stream runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io

from ..hallo_live_core import (
    Lines,
    NextSaid,
    Script,
    ScriptLine,
    TextContext,
    clean_text,
    script_of_text,
)
from . import host
from .prompt import PROMPT_KEY, encode, read_conditioning
from .refusal import accepted
from .sockets import CATEGORY

SECONDS_KEY = "hallolive_seconds"
"""Under this name an entry of a script's CONDITIONING says how long it lasts; None: to the end."""


SCENE = (
    "A woman in a green sweater looks into the camera. <S>Hello.<E> "
    "<AUDCAP>A warm, clear female voice, quiet room.<ENDAUDCAP>"
)


class HalloLiveScript(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HalloLiveScript",
            display_name="Hallo-Live Script",
            category=CATEGORY,
            description=(
                "Several lines, one after the other, in one stream: the prompt changes at the "
                "border of a second. The published model was trained on clips of five seconds; "
                "beyond, words and lips fall apart."
            ),
            inputs=[
                io.Clip.Input("clip", tooltip="umT5-xxl: CLIPLoader with type wan."),
                io.String.Input(
                    "scene",
                    multiline=True,
                    default=SCENE,
                    tooltip=(
                        "A whole prompt, such as the prompt output of Hallo-Live Text Encode; its "
                        "speech is replaced by each line."
                    ),
                ),
                io.String.Input(
                    "lines",
                    multiline=True,
                    default="2 | Hello there!\n3 | This is one stream with a script.\nGoodbye.",
                    tooltip=(
                        "One line each: seconds | words. Without seconds a line takes as long as "
                        "its words, the last one lasts until the end. A line with <S>...<E> is a "
                        "prompt of its own, with another scene."
                    ),
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="positive", tooltip="For positive of a Hallo-Live sampler."
                ),
                io.Float.Output(
                    display_name="seconds",
                    tooltip="How long all lines last; 0: the last one has no end.",
                ),
            ],
            **host.known(io.Schema, search_aliases=["talking head script", "dialogue", "lines"]),
        )

    @classmethod
    def validate_inputs(cls, scene: str | None = None, lines: str | None = None) -> bool | str:
        if lines is None:
            return True  # a linked text is only known when it arrives
        return accepted(lambda: script_of_text(lines, SCENE if scene is None else scene))

    @classmethod
    def execute(cls, clip: Any, scene: str, lines: str) -> io.NodeOutput:
        script = script_of_text(lines, scene)
        entries: list[Any] = []
        for line in script.lines:
            ((rows, more),), _ = encode(clip, clean_text(str(line.said)))
            entries.append([rows, {**more, SECONDS_KEY: line.seconds}])
        return io.NodeOutput(entries, float(script.seconds))


@dataclass(frozen=True)
class Told:
    """What a CONDITIONING says: the first prompt, as embedding and in words, and what follows."""

    text: TextContext
    prompt: str
    script: Script | None


def read_positive(positive: list[Any], text_dim: int) -> Told:
    """A prompt, or a script.

    Raises:
        PromptError: several prompts that are no script, or another text encoder's width.
    """
    is_script = bool(positive) and all(SECONDS_KEY in more for _, more in positive)
    if not is_script:
        text = read_conditioning(positive, text_dim)
        return Told(text, positive[0][1].get(PROMPT_KEY, ""), None)
    texts = [read_conditioning([entry], text_dim) for entry in positive]
    seconds = [more[SECONDS_KEY] for _, more in positive]
    script = Script([ScriptLine(*line) for line in zip(texts, seconds, strict=True)])
    return Told(texts[0], positive[0][1].get(PROMPT_KEY, ""), script)


def encoded(lines: Lines, clip: Any, text_dim: int, patchers: Iterable[Any]) -> NextSaid:
    """`lines` with their words encoded when their turn comes.

    patchers: the models of the run, which the text encoder may have moved away.
    """

    def next_said(block: int) -> TextContext | None:
        said = lines(block)
        if not isinstance(said, str):
            return said
        positive, _ = encode(clip, clean_text(said))
        host.load_again(patchers)
        return read_conditioning(positive, text_dim)

    return next_said
