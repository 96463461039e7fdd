"""Several takes of one prompt, of which the best is handed on."""

from __future__ import annotations

from functools import partial
from typing import Any

from comfy_api.latest import io, ui

from ..hallo_live_core import Take, rank_takes, read_clip, take_table
from . import host, host_media
from .first_frame import first_frame_input, with_first_frame
from .judges import JudgeReport, Judges, LoadedJudges, score_takes
from .prompt import read_conditioning
from .room import ready
from .run import as_audio, as_images, engine_of
from .sample import check_settings, rare_sampling_inputs, sampling_inputs, with_end
from .score import PROMPT_TOOLTIP
from .sizes import request_of, size_input
from .sockets import ADVANCED, CATEGORY, LoadedModel, LoadedVae, Vae
from .takes import TakeMaker

MAX_TAKES = 16


class HalloLiveBestOf(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HalloLiveBestOf",
            display_name="Hallo-Live Best Of",
            category=CATEGORY,
            description=(
                "Makes several takes of one prompt with the seeds seed, seed + 1, ... and hands on "
                "the best. A take that has failed in its first second (silent, blank, frozen, no "
                "face) is given up there, which costs a fraction of a whole one; lip sync is "
                "judged on whole takes only, since a second is too short for it."
            ),
            inputs=[
                *sampling_inputs(),
                Vae.Input("vae", tooltip="From Hallo-Live VAE Loader."),
                Judges.Input("judges", tooltip="From Hallo-Live Judge Loader."),
                io.Int.Input(
                    "takes",
                    default=4,
                    min=1,
                    max=MAX_TAKES,
                    tooltip="How many seeds to try. Time grows with it, memory does not.",
                ),
                io.String.Input("prompt", multiline=True, default="", tooltip=PROMPT_TOOLTIP),
                io.Boolean.Input(
                    "drop_early",
                    default=True,
                    tooltip="Give up a take whose first second is silent, blank or without a face.",
                    extra_dict=ADVANCED,
                ),
                *rare_sampling_inputs(),
                first_frame_input(),
                size_input(),
            ],
            outputs=[
                io.Video.Output(display_name="best", tooltip="The best take; for Save Video."),
                io.Audio.Output(display_name="audio", tooltip="Its sound, 16 kHz mono."),
                io.Int.Output(
                    display_name="best_seed",
                    tooltip="The stream sampler makes the same clip from this seed.",
                ),
                io.String.Output(display_name="table", tooltip="What the judges say of each take."),
                io.Image.Output(
                    display_name="thumbnails", tooltip="One small picture per take, in order."
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
            **host.known(io.Schema, search_aliases=["best of n", "reward", "seeds"]),
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
        vae: LoadedVae,
        judges: LoadedJudges,
        takes: int,
        prompt: str,
        drop_early: bool,
        first_frame: Any = None,
        **settings: Any,
    ) -> io.NodeOutput:
        request = with_first_frame(with_end(request_of(settings)), first_frame, vae)
        engine = engine_of(model=model, vae=vae)
        text = read_conditioning(positive, model.patcher.model.config.video.text_dim)
        maker = TakeMaker(engine, text, cls.hidden, judges.judges if drop_early else None)
        with ready(engine, request, (model.patcher, vae.video, vae.audio)):
            made = maker.make_all(request, takes)
        report = JudgeReport(cls.hidden.unique_id)
        finished = [take for take in made if not take.faults]
        opened = [partial(read_clip, take.path, prompt=prompt) for take in finished]
        scores = dict(zip(finished, score_takes(judges, opened, report), strict=True))
        judged = [Take.of(f"seed {take.seed}", scores.get(take, ()), take.remarks) for take in made]
        best = made[rank_takes(judged).best]
        table = take_table(judged)
        report.say(table)
        return io.NodeOutput(
            host_media.as_video(best.path),
            as_audio(best.sound, engine.clock),
            best.seed,
            table,
            as_images([take.picture[None] for take in made]),
            ui=ui.PreviewVideo([ui.SavedResult(best.path.name, "", io.FolderType.temp)]),
        )
