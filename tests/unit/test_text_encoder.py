import sys

import pytest
import torch
from torch import nn

from hallo_live_core.config import TextEncoderConfig
from hallo_live_core.errors import CheckpointError, HalloLiveError, ShapeError
from hallo_live_core.models.text_encoder import weights
from hallo_live_core.models.text_encoder.umt5 import TextEncoder, build_network

SMALL = TextEncoderConfig(
    vocab_size=40, dim=16, attention_dim=24, ffn_dim=20, num_layers=2, num_heads=3, num_buckets=8
)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    network = build_network(SMALL)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return TextEncoder(network, tokenize=lambda text: [*map(int, text.split()), 1], text_len=12)


def published(network):
    return weights.to_published(network.state_dict())


def test_rows_beyond_the_prompt_are_exactly_zero(encoder):
    out = encoder.encode("5 6 7")
    assert out.shape == (1, 12, 16)
    assert out[0, :4].abs().min() > 0 and not out[0, 4:].any()


def test_unpadded_equals_padded_and_masked(encoder):
    ids = torch.tensor([[5, 6, 7, 1, 0, 0, 0, 0, 0, 0, 0, 0]])
    mask = (ids != 0).long()
    padded = encoder.network(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(encoder.encode("5 6 7")[0, :4], padded[0, :4], atol=1e-6, rtol=1e-5)


def test_prompts_of_a_batch_do_not_influence_each_other(encoder):
    both = encoder.encode(["5 6 7", "8"])
    assert torch.equal(both[:1], encoder.encode("5 6 7"))
    assert torch.equal(both[1:], encoder.encode("8"))


def test_dtype_follows_the_weights(encoder):
    encoder.network.to(torch.bfloat16)
    assert encoder.encode("3").dtype == torch.bfloat16


def test_token_ids_outside_the_table_are_refused(encoder):
    with pytest.raises(ShapeError, match=r"Token 40 is not in .* 40 rows"):
        encoder.encode("40")


def test_prompts_without_tokens_or_with_too_many_are_refused(encoder):
    with pytest.raises(ShapeError, match="1 to 12 tokens"):
        encoder([[]])
    with pytest.raises(ShapeError, match="1 to 12 tokens"):
        encoder([[3] * 13])


def test_sizes_are_read_from_published_and_from_transformers_names(encoder):
    state = encoder.network.state_dict()
    assert weights.config_from_state_dict(published(encoder.network)) == SMALL
    assert weights.config_from_state_dict(state) == SMALL


def test_the_key_table_fits_the_network_exactly(encoder):
    names = set(encoder.network.state_dict())
    assert set(weights.to_module(published(encoder.network))) == names


def test_the_key_table_fits_the_published_encoder_of_242_tensors():
    network = build_network(TextEncoderConfig(), device="meta")
    names = weights.to_published(network.state_dict())
    assert len(names) == 242
    assert weights.to_module(names).keys() == network.state_dict().keys()
    assert weights.config_from_state_dict(names) == TextEncoderConfig()


def test_renaming_twice_changes_nothing(encoder):
    once = weights.to_module(published(encoder.network))
    twice = weights.to_module(once)
    assert once.keys() == twice.keys() and all(once[k] is twice[k] for k in once)


def test_the_tokenizer_inside_comfyui_files_is_left_out(encoder):
    state = encoder.network.state_dict() | {"spiece_model": torch.zeros(3, dtype=torch.uint8)}
    assert "spiece_model" not in weights.to_module(state)


def test_an_unknown_tensor_is_refused_by_name(encoder):
    with pytest.raises(CheckpointError, match=r"blocks\.0\.attn\.z\.weight"):
        weights.to_module(published(encoder.network) | {"blocks.0.attn.z.weight": torch.ones(1)})


def test_the_embedding_is_one_table_also_after_a_move(encoder):
    network = encoder.network.to(torch.float64)
    assert network.encoder.embed_tokens.weight is network.shared.weight


def test_without_transformers_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(HalloLiveError, match=r'pip install "hallo-live\[standalone\]"'):
        build_network(SMALL)
