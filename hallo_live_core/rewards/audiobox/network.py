"""AudioBox Aesthetics: WavLM and four small heads on all of its layers (spec 08 §3)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..hugging_face import transformers_module
from .windows import valid_frames

STRIDES = (5, 2, 2, 2, 2, 2, 2)
"""Of WavLM's convolutions; weights do not tell."""

MAX_DISTANCE = 800
"""Frames at which the relative position buckets end."""

EPS = 1e-5
"""Of all layer norms."""


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """Sizes of the heads; `axes` in the order of their outputs.

    widths: outputs of the linear layers of a head. num_states: how many of WavLM's layer outputs
    are weighed, the input of its first layer included.
    """

    dim: int = 768
    num_states: int = 13
    axes: tuple[str, ...] = ("CE", "CU", "PC", "PQ")
    widths: tuple[int, ...] = (768, 768, 768, 768, 1)


@dataclass(frozen=True, slots=True)
class AudioBoxConfig:
    """Sizes of WavLM-base-plus and the heads."""

    dim: int = 768
    ffn_dim: int = 3072
    num_layers: int = 12
    num_heads: int = 12
    conv_dims: tuple[int, ...] = (512,) * 7
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    position_kernel: int = 128
    position_groups: int = 16
    num_buckets: int = 320
    heads: HeadConfig = HeadConfig()


class AestheticHeads(nn.Module):
    """One number per axis from all layers: weighted sum, mean over frames, unit length, MLP.

    Always computes in float32 or finer, whatever autocast says.
    """

    def __init__(
        self,
        config: HeadConfig,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.layer_weights = nn.ParameterDict(
            {
                axis: nn.Parameter(torch.zeros(config.num_states, device=device, dtype=dtype))
                for axis in config.axes
            }
        )
        self.proj_layer = nn.ModuleDict(
            {
                axis: _mlp(config.dim, config.widths, device=device, dtype=dtype)
                for axis in config.axes
            }
        )

    def forward(self, states: Sequence[Tensor] | Tensor, valid: Tensor) -> Tensor:
        """Layer outputs, each [w, f, c], and bool [w, f], True for real frames -> [w, axes]."""
        states = torch.stack(tuple(states))
        counted = valid.to(states.dtype) / valid.sum(-1, keepdim=True)
        means = torch.einsum("nwfc,wf->nwc", states, counted)
        raw: list[Tensor] = []
        for axis, mlp in self.proj_layer.items():
            weights = self.layer_weights[axis].softmax(0)
            embedding = torch.einsum("nwc,n->wc", means, weights)
            raw.append(mlp(functional.normalize(embedding, dim=-1)))
        return torch.cat(raw, dim=-1)


class AudioBox(nn.Module):
    """Windows of sound in, one raw number per axis out."""

    def __init__(
        self,
        config: AudioBoxConfig,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.wavlm = build_wavlm(config, device=device, dtype=dtype)
        self.heads = AestheticHeads(config.heads, device=device, dtype=dtype)
        self.eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.heads.parameters()).device

    @torch.no_grad()
    def forward(self, windows: Tensor, valid_samples: Tensor) -> Tensor:
        """Windows [w, s], each zero padded beyond `valid_samples` [w] -> raw scores [w, axes]."""
        with torch.autocast(windows.device.type, enabled=False):
            states, valid = self.hear(windows, valid_samples)
            return self.heads(states, valid)

    @torch.no_grad()
    def hear(self, windows: Tensor, valid_samples: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """WavLM's layer outputs, num_states of [w, f, c], and which frames count, bool [w, f].

        transformers derives its frame mask from a sample mask and gets one frame fewer than the
        published model; it is therefore given the mask of as many samples as make the right
        number of frames (spec 08 §9).
        """
        window = windows.shape[-1]
        stride, reach = _stride_and_reach(self.config.conv_kernels)
        num_frames = (window - reach) // stride + 1
        frames = valid_frames(valid_samples.to(windows.device), num_frames, window)
        samples = (frames - 1) * stride + reach
        mask = torch.arange(window, device=windows.device) < samples[:, None]
        with warnings.catch_warnings():  # torch's, about how transformers calls it
            warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
            out = self.wavlm(
                windows, attention_mask=mask.long(), output_hidden_states=True, return_dict=True
            )
        valid = torch.arange(num_frames, device=windows.device) < frames[:, None]
        return out.hidden_states[: self.config.heads.num_states], valid


def build_wavlm(
    config: AudioBoxConfig,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """An empty `transformers.WavLMModel` of these sizes.

    Raises:
        HalloLiveError: transformers is not installed.
    """
    wavlm = transformers_module("models.wavlm", "audio")
    sizes = wavlm.WavLMConfig(
        hidden_size=config.dim,
        intermediate_size=config.ffn_dim,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        conv_dim=config.conv_dims,
        conv_kernel=config.conv_kernels,
        conv_stride=STRIDES[: len(config.conv_kernels)],
        num_feat_extract_layers=len(config.conv_dims),
        num_conv_pos_embeddings=config.position_kernel,
        num_conv_pos_embedding_groups=config.position_groups,
        num_buckets=config.num_buckets,
        max_bucket_distance=MAX_DISTANCE,
        layer_norm_eps=EPS,
        feat_extract_norm="group",
        do_stable_layer_norm=False,
        conv_bias=False,
    )
    with torch.device(device or "cpu"):
        network = wavlm.WavLMModel(sizes)
    return nn.Module.to(network, dtype=dtype)


def _stride_and_reach(kernels: Sequence[int]) -> tuple[int, int]:
    """Samples between two frames, and samples that one frame sees."""
    stride, reach = 1, 1
    for kernel, step in zip(kernels, STRIDES, strict=False):
        reach += (kernel - 1) * stride
        stride *= step
    return stride, reach


def _mlp(
    dim: int,
    widths: Sequence[int],
    *,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for out_dim in widths[:-1]:
        layers += [
            nn.Linear(dim, out_dim, device=device, dtype=dtype),
            nn.LayerNorm(out_dim, eps=EPS, device=device, dtype=dtype),
            nn.GELU(),
        ]
        dim = out_dim
    return nn.Sequential(*layers, nn.Linear(dim, widths[-1], device=device, dtype=dtype))
