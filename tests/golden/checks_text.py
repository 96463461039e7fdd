"""The umT5 encoder against the reference's tensors, text cleaning against its strings (spec 05)."""

from __future__ import annotations

from dataclasses import replace

import torch

from hallo_live_core.models.text_encoder import weights
from hallo_live_core.models.text_encoder.cleaning import clean_text
from hallo_live_core.models.text_encoder.umt5 import TextEncoder, build_network

from .harness import Golden, assert_max_abs, assert_rel_l2

FLOAT32_TOLERANCE = 1e-5
BF16_TOLERANCE = 2e-2


def check_umt5_encoder(golden: Golden) -> None:
    tensors = golden.group("sd")
    stated = golden.meta["config"]
    config = replace(  # what no tensor tells
        weights.config_from_state_dict(tensors),
        max_distance=stated["max_distance"],
        eps=stated["eps"],
    )
    assert not stated["shared_pos"]
    for ours, theirs in (
        ("vocab_size", "vocab"),
        ("attention_dim", "dim_attn"),
        ("ffn_dim", "dim_ffn"),
    ):
        assert getattr(config, ours) == stated[theirs]
    for name in ("dim", "num_heads", "num_layers", "num_buckets"):
        assert getattr(config, name) == stated[name]
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        network = build_network(config, dtype=dtype)
        network.load_state_dict(weights.to_module(tensors))
        for case, facts in golden.meta["cases"].items():
            _check_case(golden, network, case, facts, dtype)


def _check_case(golden: Golden, network, case: str, facts: dict, dtype: torch.dtype) -> None:
    lengths = facts["lengths"]
    assert golden[f"in.mask_{case}"].sum(dim=1).tolist() == lengths
    padded = golden[f"in.ids_{case}"].tolist()
    ids = [row[:length] for row, length in zip(padded, lengths, strict=True)]
    encoder = TextEncoder(network, tokenize=lambda _: [], text_len=facts["padded_to"])
    context = encoder(ids)
    for row, length in zip(context, lengths, strict=True):
        assert not row[length:].any()
    if dtype is torch.bfloat16:
        for name in ("context_bf16", "context"):
            assert_rel_l2(context, golden[f"out.{name}_{case}"], name, BF16_TOLERANCE)
        return
    assert_max_abs(context, golden[f"out.context_{case}"], f"context {case}", FLOAT32_TOLERANCE)
    for row, hidden, length in zip(context, golden[f"out.hidden_{case}"], lengths, strict=True):
        assert_max_abs(row[:length], hidden[:length], f"hidden {case}", FLOAT32_TOLERANCE)


def check_text_clean(golden: Golden) -> None:
    for case in golden.meta["cases"]:
        assert clean_text(case["in"]) == case["out"]


CHECKS = {"umt5_encoder": check_umt5_encoder, "text_clean": check_text_clean}
