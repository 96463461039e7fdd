"""Published names of AudioBox Aesthetics and ours: transformers' WavLM, own heads (spec 08 §3)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ...errors import CheckpointError
from ..key_table import count, inverted, renamed
from .network import AudioBoxConfig, HeadConfig

MODEL = "AudioBox Aesthetics"

LAYER, OUR_LAYER = "wavlm_model.encoder.layers.#", "wavlm.encoder.layers.#"
CONVS, OUR_CONVS = (
    "wavlm_model.feature_extractor.conv_layers",
    "wavlm.feature_extractor.conv_layers",
)
POSITION, OUR_POSITION = "wavlm_model.encoder.pos_conv.0", "wavlm.encoder.pos_conv_embed.conv"

TABLE = (
    ("wavlm_model.mask_emb", "wavlm.masked_spec_embed"),
    (f"{CONVS}.#.0.weight", f"{OUR_CONVS}.#.conv.weight"),
    (f"{CONVS}.0.2.*", f"{OUR_CONVS}.0.layer_norm.*"),
    ("wavlm_model.layer_norm.*", "wavlm.feature_projection.layer_norm.*"),
    ("wavlm_model.post_extract_proj.*", "wavlm.feature_projection.projection.*"),
    (f"{POSITION}.bias", f"{OUR_POSITION}.bias"),
    (f"{POSITION}.weight_g", f"{OUR_POSITION}.parametrizations.weight.original0"),
    (f"{POSITION}.weight_v", f"{OUR_POSITION}.parametrizations.weight.original1"),
    ("wavlm_model.encoder.layer_norm.*", "wavlm.encoder.layer_norm.*"),
    (f"{LAYER}.self_attn.*_proj.*", f"{OUR_LAYER}.attention.*_proj.*"),
    (f"{LAYER}.self_attn.grep_a", f"{OUR_LAYER}.attention.gru_rel_pos_const"),
    (f"{LAYER}.self_attn.grep_linear.*", f"{OUR_LAYER}.attention.gru_rel_pos_linear.*"),
    (
        f"{LAYER}.self_attn.relative_attention_bias.weight",
        f"{OUR_LAYER}.attention.rel_attn_embed.weight",
    ),
    (f"{LAYER}.self_attn_layer_norm.*", f"{OUR_LAYER}.layer_norm.*"),
    (f"{LAYER}.fc1.*", f"{OUR_LAYER}.feed_forward.intermediate_dense.*"),
    (f"{LAYER}.fc2.*", f"{OUR_LAYER}.feed_forward.output_dense.*"),
    (f"{LAYER}.final_layer_norm.*", f"{OUR_LAYER}.final_layer_norm.*"),
    ("layer_weights.*", "heads.layer_weights.*"),
    ("proj_layer.*.#.*", "heads.proj_layer.*.#.*"),
)
"""Published name and ours: WavLM's as in transformers, the heads' as published."""


def to_module(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under our names; no tensor is copied.

    Raises:
        CheckpointError: one of them does not belong to the model.
    """
    return renamed(tensors, TABLE, MODEL)


def to_published(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published names for tensors under ours; no tensor is copied."""
    return renamed(tensors, inverted(TABLE), MODEL)


def config_from_state_dict(tensors: Mapping[str, Tensor]) -> AudioBoxConfig:
    """Sizes of the model whose published tensors these are.

    Raises:
        CheckpointError: this is another model.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    convs = count(f"{CONVS}.#.0.", shapes)
    conv = [f"{CONVS}.{i}.0.weight" for i in range(convs)]
    layer = LAYER.replace("#", "0")
    try:
        dim, per_group, kernel = shapes[f"{POSITION}.weight_v"]
        buckets, num_heads = shapes[f"{layer}.self_attn.relative_attention_bias.weight"]
        return AudioBoxConfig(
            dim=dim,
            ffn_dim=shapes[f"{layer}.fc1.weight"][0],
            num_layers=count(LAYER, shapes),
            num_heads=num_heads,
            conv_dims=tuple(shapes[name][0] for name in conv),
            conv_kernels=tuple(shapes[name][2] for name in conv),
            position_kernel=kernel,
            position_groups=dim // per_group,
            num_buckets=buckets,
            heads=head_config_from_state_dict(tensors),
        )
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(f"This is not {MODEL}", found=f"no usable {error}") from error


def head_config_from_state_dict(tensors: Mapping[str, Tensor]) -> HeadConfig:
    """Sizes of the heads among published tensors.

    Raises:
        CheckpointError: there are none.
    """
    axes = tuple(sorted(k.split(".")[1] for k in tensors if k.startswith("layer_weights.")))
    if not axes:
        raise CheckpointError(f"This is not {MODEL}", found="no layer_weights")
    linears = sorted(
        (int(name.split(".")[2]), tuple(tensor.shape))
        for name, tensor in tensors.items()
        if name.startswith(f"proj_layer.{axes[0]}.") and tensor.ndim == 2
    )
    return HeadConfig(
        dim=linears[0][1][1],
        num_states=tensors[f"layer_weights.{axes[0]}"].shape[0],
        axes=axes,
        widths=tuple(shape[0] for _, shape in linears),
    )
