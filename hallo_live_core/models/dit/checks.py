"""What a call is refused for, before any work begins."""

from __future__ import annotations

from torch import Tensor

from ...config import BlockSizes, StreamConfig, TransformerConfig
from ...errors import RequestError, ShapeError
from ...functional.blocks import ClipPlan
from ...state.session import Text, TimeRuns


def check_latents(config: TransformerConfig, video: Tensor, audio: Tensor) -> None:
    """Latents must fit the networks and each other.

    Raises:
        ShapeError: wrong axes, channels, size, batch, dtype or device.
    """
    _check_axes("Video", video, "[b, f, c, h, w]", 2, config.video)
    _check_axes("Audio", audio, "[b, a, c]", 2, config.audio)
    _, rows, columns = config.video.patch
    if video.shape[3] % rows or video.shape[4] % columns:
        raise ShapeError(
            "Video latents cannot be cut into patches",
            found=list(video.shape),
            fix=f"use a height that is a multiple of {rows} and a width that is one of {columns}",
        )
    _check_pair("Audio latents", audio, video)
    if audio.dtype != video.dtype:
        raise ShapeError(
            "Picture and sound need one dtype", found=f"{video.dtype} and {audio.dtype}"
        )


def check_text(text: Text, video: Tensor) -> None:
    """A prompt must come in the batch and on the device of the latents.

    Raises:
        ShapeError: another batch or device.
    """
    _check_pair("The video prompt", text.video, video)
    _check_pair("The audio prompt", text.audio, video)


def check_session(config: TransformerConfig, tokens_per_latent: int, video: Tensor) -> None:
    """Video latents must be as large as those that the session was opened for.

    Raises:
        ShapeError: they have more or fewer tokens.
    """
    _, rows, columns = config.video.patch
    tokens = (video.shape[3] // rows) * (video.shape[4] // columns)
    if tokens != tokens_per_latent:
        raise ShapeError(
            "The session was opened for video latents of another size",
            found=f"{tokens} tokens per latent instead of {tokens_per_latent}",
        )


def check_timesteps(timesteps: Tensor, latents: Tensor, axes: int) -> None:
    """Timesteps must match the first `axes` axes of the latents: [b] or [b, latents].

    Raises:
        ShapeError: their shape is another one.
    """
    if timesteps.shape != latents.shape[:axes]:
        raise ShapeError(
            "Timesteps and latents do not match",
            found=f"{list(timesteps.shape)} for latents {list(latents.shape)}",
            fix=f"use {list(latents.shape[:axes])}",
        )


def check_runs(runs: TimeRuns, latents: Tensor) -> None:
    """Runs of timesteps must cover the latents.

    Raises:
        ShapeError: they cover fewer or more.
    """
    covered = sum(count for _, count in runs)
    if covered != latents.shape[1]:
        raise ShapeError(
            "Timesteps and latents do not match",
            found=f"timesteps for {covered} latents, {latents.shape[1]} latents",
        )


def check_blocks(sizes: BlockSizes, video: Tensor, audio: Tensor) -> None:
    """A clip seen at once has as many blocks of picture as of sound; the last may be incomplete.

    Raises:
        RequestError: the numbers of blocks differ, or the sizes make no blocks (spec 01 §6.2).
    """
    pictures = -(-video.shape[1] // max(1, sizes.video_latents))
    sounds = -(-audio.shape[1] // max(1, sizes.audio_latents))
    if pictures != sounds:
        raise RequestError(
            "Picture and sound do not make the same number of blocks",
            found=f"{pictures} and {sounds} of {video.shape[1]} video and {audio.shape[1]} audio"
            " latents",
            fix=f"give {sizes.audio_latents} audio latents to {sizes.video_latents} video latents",
        )
    ClipPlan(sizes, pictures)  # refuses sizes that make no blocks


def check_layer(skip_layer: int | None, num_layers: int) -> None:
    """A layer to skip must exist.

    Raises:
        ShapeError: the network has no layer of that number.
    """
    if skip_layer is not None and not 0 <= skip_layer < num_layers:
        raise ShapeError(
            "The layer to skip does not exist",
            found=skip_layer,
            fix=f"use 0 to {num_layers - 1}, or None to skip none",
        )


def _check_axes(name: str, latents: Tensor, axes: str, channel: int, config: StreamConfig) -> None:
    if latents.ndim != axes.count(",") + 1 or latents.shape[channel] != config.in_channels:
        raise ShapeError(
            f"{name} latents must be {axes} with {config.in_channels} channels",
            found=list(latents.shape),
        )


def _check_pair(name: str, tensor: Tensor, video: Tensor) -> None:
    if tensor.shape[0] != video.shape[0]:
        raise ShapeError(
            f"{name} and the video latents have different batch sizes",
            found=f"{tensor.shape[0]} and {video.shape[0]}",
        )
    if tensor.device != video.device:
        raise ShapeError(
            f"{name} and the video latents are on different devices",
            found=f"{tensor.device} and {video.device}",
        )
