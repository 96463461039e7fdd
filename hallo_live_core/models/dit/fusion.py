"""The dual-stream transformer: picture and sound meet in every layer (spec 01).

One class serves student, teacher and critic. What differs is what each token may see and how
timesteps are given, and that is a value (`passes`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...config import TransformerConfig
from ...functional.rope import RotaryTables, rotary_tables
from ...state.session import TextCache, TimeTable
from ...types import TextContext
from .attention import Ops
from .calls import Call, past, prepare
from .checks import check_latents
from .lanes import IN_TURN, Lanes
from .modality import AudioModality, VideoModality
from .passes import CachedPass, MaskedPass, TeacherPass
from .stream import LayerInput, StreamBlock
from .visibility import Attention, Cached, Views, sdpa

Flows = tuple[Tensor, Tensor]
"""Predicted flow (noise - clean) of picture [b, f, c, h, w] and sound [b, a, c]."""


class FusionBlock(nn.Module):
    """One layer of both streams. They read each other between self-attention and feed-forward."""

    def __init__(
        self,
        config: TransformerConfig,
        *,
        ops: Ops,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        video, audio = config.video, config.audio
        self.video = StreamBlock(video, audio.dim, ops=ops, device=device, dtype=dtype)
        self.audio = StreamBlock(audio, video.dim, ops=ops, device=device, dtype=dtype)

    def forward(
        self,
        video: Tensor,
        audio: Tensor,
        for_video: LayerInput,
        for_audio: LayerInput,
        views: Views,
        lanes: Lanes = IN_TURN,
    ) -> tuple[Tensor, Tensor]:
        """video, audio: tokens [b, l, dim] of each stream; returns them after this layer.

        lanes: how the audio's half of the work runs, which is independent of the video's between
        the two meetings.
        """
        with lanes.beside():
            audio_mod = self.audio.modulate(for_audio)
            audio = self.audio.look(audio, audio_mod, for_audio.rotary, views.audio_self)
            heard = self.video.cross_attn.fusion_keys(audio, for_audio.rotary)
        video_mod = self.video.modulate(for_video)
        video = self.video.look(video, video_mod, for_video.rotary, views.video_self)
        seen = self.audio.cross_attn.fusion_keys(video, for_video.rotary)
        lanes.meet()
        with lanes.beside():
            audio = self.audio.meet(audio, for_audio, seen, views.audio_to_video)
            audio = self.audio.think(audio, audio_mod)
        video = self.video.meet(video, for_video, heard, views.video_to_audio)
        video = self.video.think(video, video_mod)
        lanes.meet()
        return video, audio

    def settle(
        self, video: Tensor, for_video: LayerInput, video_self: Cached, audio_to_video: Cached
    ) -> None:
        """Only what fills the caches, for the last layer: nothing reads its tokens afterwards."""
        video_mod = self.video.modulate(for_video)
        video = self.video.look(video, video_mod, for_video.rotary, video_self)
        audio_to_video.remember(*self.audio.cross_attn.fusion_keys(video, for_video.rotary))


class DualStreamDiT(nn.Module):
    """Noisy latents of picture and sound in, flow (noise - clean) of both out.

    ops: namespace of layers (`attention.Ops`). attention: replaces PyTorch's own
    (`visibility.Attention`). Attributes `attention` and `lanes` may be changed between calls.
    Wrappers that shard weights must know both entry points, `forward` and `settle`, of this module
    and of its blocks.
    """

    def __init__(
        self,
        config: TransformerConfig,
        *,
        ops: Any = nn,  # noqa: ANN401 - a module or a class with the layers that `Ops` names
        attention: Attention = sdpa,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.attention = attention
        self.lanes: Lanes = IN_TURN
        where = None if device is None else torch.device(device)
        self.video = VideoModality(config.video, ops=ops, device=where, dtype=dtype)
        self.audio = AudioModality(config.audio, ops=ops, device=where, dtype=dtype)
        layers = [
            FusionBlock(config, ops=ops, device=where, dtype=dtype)
            for _ in range(config.num_layers)
        ]
        self.blocks = nn.ModuleList(layers)

    def forward(
        self, video: Tensor, audio: Tensor, how: MaskedPass | CachedPass | TeacherPass
    ) -> Flows:
        """video: [b, f, c, h, w]; audio: [b, a, c]; both of one dtype, on one device.

        Raises:
            ShapeError: latents, prompt, timesteps or layer do not fit.
            RequestError: picture and sound have different numbers of blocks.
            PositionError: a position beyond the rotary tables or the cache.
        """
        check_latents(self.config, video, audio)
        call = prepare(self, video, audio, how)
        x, y = self.video.tokens(video), self.audio.tokens(audio, call.valid_audio)
        x, y = self._run(call.layers, x, y, call)
        return self.video.flow(x, call.video.times, video), self.audio.flow(y, call.audio.times)

    def settle(self, video: Tensor, audio: Tensor, how: CachedPass) -> None:
        """The clean-context pass: fills the caches of `how.state`, no more (spec 02 §3)."""
        check_latents(self.config, video, audio)
        call = prepare(self, video, audio, how)
        *layers, last = call.layers
        x, _ = self._run(layers, self.video.tokens(video), self.audio.tokens(audio), call)
        self.layers[last].settle(x, call.video.layer(last), *past(self.attention, how, last))

    @property
    def layers(self) -> list[FusionBlock]:
        """The blocks, by their type."""
        return cast("list[FusionBlock]", list(self.blocks))

    def embed_text(self, text: TextContext, *, keys: bool = True) -> TextCache:
        """Take a prompt into the network once; with `keys`, also its keys and values per layer."""
        video, audio = self.video.embed_text(text.video), self.audio.embed_text(text.audio)
        if not keys:
            return TextCache(video, audio)
        return TextCache(
            video,
            audio,
            tuple(layer.video.cross_attn.text_keys(video) for layer in self.layers),
            tuple(layer.audio.cross_attn.text_keys(audio) for layer in self.layers),
        )

    def embed_times(
        self, timesteps: tuple[float, ...], *, device: torch.device, dtype: torch.dtype
    ) -> tuple[TimeTable, TimeTable]:
        """Embed the few timesteps that a stream will use, once: for picture and for sound."""
        row = torch.tensor([timesteps], dtype=torch.float64)
        video = self.video.embed_times(row, device=device, dtype=dtype)
        audio = self.audio.embed_times(row, device=device, dtype=dtype)
        return TimeTable(timesteps, video), TimeTable(timesteps, audio)

    def rotary(
        self,
        size: tuple[int, int, int],
        num_audio: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> RotaryTables:
        """Rotary tables of a clip of (frames, height, width) video and num_audio audio latents.

        Raises:
            PositionError: more latents than the network has positions for.
        """
        grid = (
            size[0],
            size[1] // self.config.video.patch[1],
            size[2] // self.config.video.patch[2],
        )
        return rotary_tables(
            self.config, grid=grid, audio_latents=num_audio, device=device, dtype=dtype
        )

    def _run(
        self, layers: Iterable[int], video: Tensor, audio: Tensor, call: Call
    ) -> tuple[Tensor, Tensor]:
        for i in layers:
            video, audio = self.blocks[i](
                video, audio, call.video.layer(i), call.audio.layer(i), call.views(i), self.lanes
            )
        return video, audio
