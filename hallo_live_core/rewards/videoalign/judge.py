"""The judge of the picture: how it looks, how it moves, whether it shows what was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...types import CancelCheck
from ..base import Clip, Component, JudgeCallback, Scale, Score, Watch
from ..clip import check_clip
from .frames import num_visual_tokens, resize, sample_indices, target_size, to_patches
from .network import VideoAlign
from .prompt import (
    PAD,
    VIDEO_PAD,
    RewardTokenizer,
    as_reference,
    reward_positions,
    right_padded,
)

AXES = ("VQ", "MQ", "TA")
"""Visual quality, motion quality, text alignment, in the order of the reward tokens."""


@dataclass(frozen=True, slots=True)
class Norm:
    """Mean and spread of raw rewards over the videos they were measured on."""

    mean: float
    std: float


PUBLISHED_NORM = (Norm(3.6757, 2.2476), Norm(1.1646, 1.3811), Norm(2.8105, 2.5121))
"""Of VideoReward, in the order of `AXES` (spec 08 §4.6)."""

SCALE = Scale(
    good=0.0,
    doubtful=-1.0,
    source="VideoReward's own statistics over generated videos: "
    "good from their mean on, doubtful down to one standard deviation below",
)
"""About the normalised value."""

CLIPS_PER_PASS = 4
"""Bounds memory: about 2100 tokens per clip of five seconds."""

NO_PROMPT = "without a prompt the alignment with it (TA) is left out: the value is VQ + MQ"


@dataclass(frozen=True, slots=True)
class VideoDetails:
    """What the network was shown: frame numbers, their size, and the length of the whole text."""

    frames: tuple[int, ...]
    height: int
    width: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class _View:
    """One clip, ready for the network."""

    patches: Tensor
    grid: tuple[int, int, int]
    ids: list[int]
    details: VideoDetails


class VideoJudge:
    """VideoAlign on a clip's picture and prompt; the reward is VQ + MQ + TA, normalised.

    `reference` repeats the research code's mistake of showing the prompt as a printed list.
    """

    name = "video"

    def __init__(
        self,
        network: VideoAlign,
        tokenizer: RewardTokenizer,
        norms: Sequence[Norm] = PUBLISHED_NORM,
        *,
        reference: bool = False,
    ) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self.norms = tuple(norms)
        self.reference = reference

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """What a host moves between devices before and after scoring."""
        return (self.network,)

    def score(
        self,
        clip: Clip,
        *,
        on_progress: JudgeCallback | None = None,
        should_stop: CancelCheck | None = None,
    ) -> Score:
        """Judge the picture of a clip and how it fits the prompt; its sound plays no part.

        Raises:
            ShapeError: the clip is not one, or its picture is too narrow.
            Cancelled: `should_stop` said so.
        """
        return self.score_batch([clip], on_progress=on_progress, should_stop=should_stop)[0]

    def score_batch(
        self,
        clips: Sequence[Clip],
        *,
        on_progress: JudgeCallback | None = None,
        should_stop: CancelCheck | None = None,
    ) -> list[Score]:
        """Judge several clips of any sizes and lengths, a few at a time.

        Raises:
            ShapeError: a clip is not one, or its picture is too narrow.
            Cancelled: `should_stop` said so.
        """
        for clip in clips:
            check_clip(clip)
            target_size(*clip.frames.shape[1:3])
        watch = Watch(self.name, on_progress, should_stop)
        moving = [i for i, clip in enumerate(clips) if len(clip.frames) > 1]
        scores = [
            Score(self.name, None, reasons=("a single picture has no motion to judge",))
            for _ in clips
        ]
        watch.done("look", 0, len(moving))
        for start in range(0, len(moving), CLIPS_PER_PASS):
            batch = moving[start : start + CLIPS_PER_PASS]
            views = [self._view(clips[i]) for i in batch]
            raw = self._pass(views, watch, start, len(moving))
            for i, view, row in zip(batch, views, raw, strict=True):
                scores[i] = self._score(row, view.details, bool(clips[i].prompt.strip()))
        return scores

    def _view(self, clip: Clip) -> _View:
        indices = sample_indices(len(clip.frames), clip.fps)
        height, width = target_size(*clip.frames.shape[1:3])
        patches, grid = to_patches(resize(clip.frames[indices], (height, width)))
        prompt = as_reference(clip.prompt) if self.reference else clip.prompt
        ids = self.tokenizer(prompt, num_visual_tokens(grid))
        return _View(patches, grid, ids, VideoDetails(tuple(indices), height, width, len(ids)))

    def _pass(self, views: Sequence[_View], watch: Watch, done: int, total: int) -> Tensor:
        """Raw rewards of a few clips [b, axes], on the CPU."""
        seen = self.network.see(
            torch.cat([view.patches for view in views]), torch.tensor([view.grid for view in views])
        )
        watch.done("look", done + len(views), total)
        special = self.tokenizer.special
        ids = right_padded([view.ids for view in views], special[PAD])
        hidden = self.network.read(ids, seen, special[VIDEO_PAD])
        raw = self.network.judge(hidden, reward_positions(ids, self.tokenizer.reward_ids))
        watch.done("judge", done + len(views), total)
        return raw.cpu().double()

    def _score(self, raw: Tensor, details: VideoDetails, has_prompt: bool) -> Score:
        values = normalised(raw, self.norms)
        components = tuple(
            Component(axis, raw=one, normalised=other, scale=SCALE)
            for axis, one, other in zip(AXES, raw.tolist(), values.tolist(), strict=True)
        )
        if not has_prompt:  # causal: only the last token has seen it
            components = components[:-1]
        reward = sum(part.normalised for part in components)
        return Score(self.name, reward, components, () if has_prompt else (NO_PROMPT,), details)


def normalised(raw: Tensor, norms: Sequence[Norm]) -> Tensor:
    """Raw rewards [..., axes] in standard deviations from their mean."""
    mean = raw.new_tensor([norm.mean for norm in norms])
    std = raw.new_tensor([norm.std for norm in norms])
    return (raw - mean) / std
