"""The umT5 encoder: prompts in, one fixed-length embedding each out (spec 05 §3, §4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ...config import TEXT_LENGTH, TextEncoderConfig
from ...errors import HalloLiveError, ShapeError


def build_network(
    config: TextEncoderConfig,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """An empty `transformers.UMT5EncoderModel` of these sizes.

    Raises:
        HalloLiveError: transformers is not installed.
    """
    try:
        from transformers import UMT5Config, UMT5EncoderModel
    except ImportError as error:
        raise HalloLiveError(
            "The text encoder needs the package transformers",
            found=str(error),
            fix='pip install "hallo-live[standalone]"',
        ) from error
    sizes = UMT5Config(
        vocab_size=config.vocab_size,
        d_model=config.dim,
        d_kv=config.attention_dim // config.num_heads,
        d_ff=config.ffn_dim,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        relative_attention_num_buckets=config.num_buckets,
        relative_attention_max_distance=config.max_distance,
        feed_forward_proj="gated-gelu",
        layer_norm_epsilon=config.eps,
        dropout_rate=0.0,
        use_cache=False,
    )
    with torch.device(device or "cpu"):
        network = UMT5EncoderModel(sizes)
    network.encoder.embed_tokens = network.shared  # one table, also after moves between devices
    return nn.Module.to(network, dtype=dtype).eval().requires_grad_(False)


def num_parameters(config: TextEncoderConfig) -> int:
    """Parameters of a network of these sizes, which is known without making one."""
    attention = 4 * config.dim * config.attention_dim + config.num_buckets * config.num_heads
    gated = 3 * config.dim * config.ffn_dim
    layer = attention + gated + 2 * config.dim
    return config.vocab_size * config.dim + config.num_layers * layer + config.dim


class TextEncoder(nn.Module):
    """Encodes prompts one by one, unpadded, and fills up with zero rows.

    Padded rows never influence the valid ones, so this equals the padded reference at a third of
    the work (spec 05 §4). `network` is a `transformers.UMT5EncoderModel`, `tokenize` cleans,
    cuts and ends a prompt.
    """

    def __init__(
        self,
        network: nn.Module,
        tokenize: Callable[[str], list[int]],
        *,
        text_len: int = TEXT_LENGTH,
    ) -> None:
        super().__init__()
        self.network = network
        self.tokenize = tokenize
        self.text_len = text_len

    def encode(self, prompts: str | Sequence[str]) -> Tensor:
        """[b, text_len, dim] embeddings in the network's dtype, on its device."""
        prompts = [prompts] if isinstance(prompts, str) else prompts
        return self([self.tokenize(prompt) for prompt in prompts])

    @torch.no_grad()
    def forward(self, token_ids: Sequence[Sequence[int]]) -> Tensor:
        """Embed token ids (with their end token) as [b, text_len, dim], zero beyond each prompt."""
        weight = self.network.get_parameter("shared.weight")
        out = weight.new_zeros(len(token_ids), self.text_len, weight.shape[1])
        for row, ids in zip(out, token_ids, strict=True):
            self._check(ids, vocab_size=weight.shape[0])
            hidden = self.network(input_ids=torch.tensor([ids], device=weight.device))
            row[: len(ids)] = hidden.last_hidden_state[0]
        return out

    def _check(self, ids: Sequence[int], *, vocab_size: int) -> None:
        if not 0 < len(ids) <= self.text_len:
            raise ShapeError(f"A prompt has 1 to {self.text_len} tokens", found=len(ids))
        if not 0 <= min(ids) <= max(ids) < vocab_size:
            raise ShapeError(
                f"Token {max(ids)} is not in the text encoder's table of {vocab_size} rows",
                fix="use the tokenizer that belongs to this text encoder",
            )
