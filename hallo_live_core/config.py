"""Sizes of every network and the settings of the stream, as frozen dataclasses.

A loader fills these from the shapes in a weight file; the presets are the published models.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .errors import HalloLiveError

HEAD_DIM = 128
"""Width of one attention head in every published transformer (spec 01 §2); not stored in files."""

TEXT_LENGTH = 512
"""Rows of the text embedding, zero rows beyond the prompt (spec 05 §4)."""

SIZE_STEP = 32
"""Pixels: 16 of the video VAE times the transformer's patch of 2 (spec 03 §2)."""

KNOWN_SIZES = ((512, 992), (992, 512), (704, 704), (448, 1152), (1152, 448))
"""Height and width in pixels: what the model was trained with, then the others of Ovi's list, after
the snapping of its teacher (spec 02 §7). Any other multiple of SIZE_STEP can be asked for."""


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """One stream of the transformer (spec 01 §2).

    `patch` is (t, h, w) for video, (t,) for audio.
    """

    in_channels: int
    dim: int
    ffn_dim: int
    num_heads: int
    patch: tuple[int, ...]
    freq_dim: int = 256
    text_dim: int = 4096
    text_len: int = TEXT_LENGTH
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.dim % self.num_heads:
            raise HalloLiveError(
                f"A stream of width {self.dim} cannot be split into {self.num_heads} heads",
                fix="make the width a multiple of the number of heads",
            )

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.dim // self.num_heads


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """The dual-stream transformer: student, teacher and critic share it (spec 01 §2)."""

    video: StreamConfig
    audio: StreamConfig
    num_layers: int
    audio_rope_scale: float = 0.2
    rope_rows: int = 1024

    def __post_init__(self) -> None:
        if self.video.head_dim != self.audio.head_dim:
            raise HalloLiveError(
                "Both streams need heads of the same width, since their rotations meet",
                found=f"video {self.video.head_dim}, audio {self.audio.head_dim}",
            )


def _published(dim: int, ffn_dim: int) -> TransformerConfig:
    shared = {"dim": dim, "ffn_dim": ffn_dim, "num_heads": dim // HEAD_DIM}
    return TransformerConfig(
        video=StreamConfig(in_channels=48, patch=(1, 2, 2), **shared),
        audio=StreamConfig(in_channels=20, patch=(1,), **shared),
        num_layers=30,
    )


HALLO_5B = _published(3072, 14_336)
"""The published model: 11.66 B parameters in both streams."""

HALLO_1_3B = _published(1536, 8_960)
"""A config without published weights: 3.25 B parameters."""


@dataclass(frozen=True, slots=True)
class BlockSizes:
    """How a clip is cut into blocks (spec 02 §2). `lookahead` counts audio latents (L >= 0)."""

    video_latents: int = 6
    audio_latents: int = 30
    lookahead: int = 0


@dataclass(frozen=True, slots=True)
class ScheduleConfig:
    """The student's noise schedule and denoising steps (spec 02 §1)."""

    shift: float = 5.0
    num_train_timesteps: int = 1000
    steps: tuple[int, ...] = (1000, 750, 500, 250)
    context_timestep: float = 0.0


@dataclass(frozen=True, slots=True)
class VideoVAEConfig:
    """Wan2.2 video VAE (spec 03 §1, §4). The decoder has one more residual block per level."""

    z_dim: int = 48
    encoder_dim: int = 160
    decoder_dim: int = 256
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)


@dataclass(frozen=True, slots=True)
class AudioVAEConfig:
    """MMAudio 16 kHz VAE (spec 04 §4)."""

    latent_dim: int = 20
    mel_bins: int = 80
    hidden_dim: int = 384
    multipliers: tuple[int, ...] = (1, 2, 4)
    num_res_blocks: int = 2


@dataclass(frozen=True, slots=True)
class VocoderConfig:
    """BigVGAN at 16 kHz (spec 04 §5). Strides are half the kernels of `upsample_kernels`."""

    mel_bins: int = 80
    channels: int = 1536
    upsample_kernels: tuple[int, ...] = (8, 8, 4, 4, 4, 4)
    resblock_kernels: tuple[int, ...] = (3, 7, 11)
    dilations: tuple[int, ...] = (1, 3, 5)


@dataclass(frozen=True, slots=True)
class TextEncoderConfig:
    """umT5 encoder (spec 05 §3)."""

    vocab_size: int = 256_384
    dim: int = 4096
    attention_dim: int = 4096
    ffn_dim: int = 10_240
    num_layers: int = 24
    num_heads: int = 64
    num_buckets: int = 32
    max_distance: int = 128
    eps: float = 1e-6


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """Everything that fixes how a stream is generated, besides the request."""

    blocks: BlockSizes = field(default_factory=BlockSizes)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    fp8_cache: bool = False
    """The caches keep the past in 8 bits: half the memory, and a little of its precision."""


@dataclass(frozen=True, slots=True)
class Acceleration:
    """How the transformer's work is carried out: what is computed stays the same, up to rounding.

    attention: a kernel's name (`models.dit.kernels`). compile_blocks: each layer becomes one
    compiled graph per block of the clip. audio_beside: on a GPU, the audio stream's kernels run
    beside the video's. graphs: on a GPU, each pass is recorded once and then replayed.
    """

    attention: str = "auto"
    compile_blocks: bool = False
    audio_beside: bool = False
    graphs: bool = False


@dataclass(frozen=True, slots=True)
class Profile:
    """What the transformer may give up for less memory or time. All of it changes the clip.

    fp8_weights: the matrices inside the layers stay in 8 bits, a scale per row. fp8_cache: see
    `StreamSettings`. sage_attention: 8-bit attention of the package sageattention.
    """

    fp8_weights: bool = False
    fp8_cache: bool = False
    sage_attention: bool = False


FULL = Profile()
"""What the weights were published for."""

LIGHT = Profile(fp8_weights=True, fp8_cache=True)
"""What fits a card of 24 GB, together with the light decoder."""
