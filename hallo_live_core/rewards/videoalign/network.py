"""VideoAlign's network: Qwen2-VL with a head that reads three tokens (spec 08 §4.5, §4.6)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...functional.precision import at_least_float32
from ..hugging_face import transformers_module
from .frames import MERGE, PAIR, PATCH

ROPE_THETA, VISION_THETA = 1_000_000.0, 10_000.0
"""Bases of the rotary frequencies of the language model and of the vision tower."""

EPS = 1e-6
"""Of the language model's norms."""


@dataclass(frozen=True, slots=True)
class VideoAlignConfig:
    """Sizes of Qwen2-VL-2B with VideoReward's vocabulary."""

    vocab_size: int = 151_660
    dim: int = 1536
    ffn_dim: int = 8960
    num_layers: int = 28
    num_heads: int = 12
    num_kv_heads: int = 2
    rope_theta: float = ROPE_THETA
    eps: float = EPS
    vision_dim: int = 1280
    vision_ffn_dim: int = 5120
    vision_layers: int = 32
    vision_heads: int = 16


class VideoAlign(nn.Module):
    """Patches and token ids in, one raw number per reward token out."""

    def __init__(
        self,
        config: VideoAlignConfig,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.visual = _vision_tower(config, device=device, dtype=dtype)
        self.language_model = _language_model(config, device=device, dtype=dtype)
        self.rm_head = nn.Linear(config.dim, 1, bias=False, device=device, dtype=dtype)
        self.make_frequencies()
        self.eval().requires_grad_(False)

    def make_frequencies(self) -> None:
        """Compute the rotary frequencies: no file holds them, a meta device cannot, and they must
        stay in float32 whatever the weights are in."""
        for name, buffer in list(self.named_buffers()):
            theta = VISION_THETA if name.startswith("visual.") else self.config.rope_theta
            device = torch.device("cpu") if buffer.is_meta else buffer.device
            steps = torch.arange(buffer.numel(), dtype=torch.float32, device=device)
            owner, _, leaf = name.rpartition(".")
            setattr(self.get_submodule(owner), leaf, 1.0 / theta ** (steps / buffer.numel()))

    @torch.no_grad()
    def see(self, patches: Tensor, grids: Tensor) -> Tensor:
        """Patches of all clips [p, 1176] and their grids [b, 3] -> visual tokens [v, dim]."""
        weight = self.visual.get_parameter("patch_embed.proj.weight")
        out = self.visual(patches.to(weight), grid_thw=grids.to(weight.device))
        return out if isinstance(out, Tensor) else out.pooler_output  # the former before 5.0

    @torch.no_grad()
    def read(self, ids: Tensor, visual_tokens: Tensor, video_pad: int) -> Tensor:
        """Token ids [b, l], padded on the right -> hidden states [b, l, dim] after the last norm.

        Positions are plain, 0, 1, 2, ... on all three rotary sections, for visual tokens too:
        VideoAlign was trained so, and the library's own positions give other rewards
        (spec 08 §4.5). Attention is causal, so that padding on the right changes nothing before.
        """
        embed = self.language_model.get_submodule("embed_tokens")
        ids = ids.to(visual_tokens.device)
        embeddings = embed(ids)
        embeddings = embeddings.masked_scatter(
            (ids == video_pad)[..., None], visual_tokens.to(embeddings.dtype)
        )
        positions = torch.arange(ids.shape[1], device=ids.device).expand(3, *ids.shape)
        out = self.language_model(
            inputs_embeds=embeddings, position_ids=positions, use_cache=False, return_dict=True
        )
        return out.last_hidden_state

    @torch.no_grad()
    def judge(self, hidden: Tensor, positions: Tensor) -> Tensor:
        """Hidden states [b, l, dim] and where to look [b, k] -> raw rewards [b, k], float32."""
        return reward_head(hidden, positions, self.rm_head.weight)


def reward_head(hidden: Tensor, positions: Tensor, weight: Tensor) -> Tensor:
    """The head at some positions, in float32 or finer, whatever autocast says."""
    rows = torch.arange(len(hidden), device=hidden.device)[:, None]
    picked = hidden[rows, positions.to(hidden.device)]
    precise = at_least_float32(torch.promote_types(hidden.dtype, weight.dtype))
    with torch.autocast(hidden.device.type, enabled=False):
        return functional.linear(picked.to(precise), weight.to(precise)).squeeze(-1)


def _vision_tower(
    config: VideoAlignConfig, *, device: torch.device | str | None, dtype: torch.dtype | None
) -> nn.Module:
    qwen = transformers_module("models.qwen2_vl.modeling_qwen2_vl", "video")
    sizes = qwen.Qwen2VLVisionConfig(
        depth=config.vision_layers,
        embed_dim=config.vision_dim,
        num_heads=config.vision_heads,
        mlp_ratio=config.vision_ffn_dim // config.vision_dim,
        hidden_size=config.dim,
        patch_size=PATCH,
        spatial_merge_size=MERGE,
        temporal_patch_size=PAIR,
    )
    with torch.device(device or "cpu"):
        tower = qwen.Qwen2VisionTransformerPretrainedModel(sizes)
    return nn.Module.to(tower, dtype=dtype)


def _language_model(
    config: VideoAlignConfig, *, device: torch.device | str | None, dtype: torch.dtype | None
) -> nn.Module:
    qwen = transformers_module("models.qwen2_vl.modeling_qwen2_vl", "video")
    # before 4.52 the text model had these names
    sizes_of = getattr(qwen, "Qwen2VLTextConfig", qwen.Qwen2VLConfig)
    model_of = getattr(qwen, "Qwen2VLTextModel", qwen.Qwen2VLModel)
    half_head = config.dim // config.num_heads // 2
    sizes = sizes_of(
        vocab_size=config.vocab_size,
        hidden_size=config.dim,
        intermediate_size=config.ffn_dim,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        rms_norm_eps=config.eps,
        rope_theta=config.rope_theta,
        # all sections get the same positions, so that their sizes do not matter
        rope_scaling={"type": "mrope", "mrope_section": [half_head, 0, 0]},
        use_cache=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.device(device or "cpu"):
        model = model_of(sizes)
    return nn.Module.to(model, dtype=dtype)
