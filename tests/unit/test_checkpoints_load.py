import gc
import weakref

import pytest
import torch
from torch import nn

from hallo_live_core.checkpoints import (
    audio_decoder_from_state_dicts,
    load_transformer,
    taehv_from_state_dict,
    tiny_weights,
    transformer_from_state_dict,
    video_decoder_from_state_dict,
    video_encoder_from_state_dict,
)
from hallo_live_core.checkpoints.assemble import assemble
from hallo_live_core.checkpoints.build import text_encoder_from_state_dict
from hallo_live_core.checkpoints.identify import SIGNS, describe, identify
from hallo_live_core.errors import CheckpointError
from hallo_live_core.models.dit.fusion import DualStreamDiT
from hallo_live_core.models.dit.weights import to_published
from hallo_live_core.models.video_vae.taehv import TAEHV

from .dit_models import AS_IN_FILES as SMALL


def student(prefix="", dtype=torch.float32, shift=0.0):
    """A published state dict in which every tensor has a value of its own."""
    shapes = to_published(DualStreamDiT(SMALL, device="meta").state_dict())
    return {
        prefix + name: torch.full(tensor.shape, shift + index, dtype=dtype)
        for index, (name, tensor) in enumerate(shapes.items())
    }


def values(module):
    """The value of every tensor, under published names."""
    state = to_published(module.state_dict())
    return {name: float(tensor.flatten()[0]) for name, tensor in state.items()}


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def test_every_tensor_of_the_student_arrives_in_its_place():
    module = transformer_from_state_dict(student(), "x.pt")
    assert module.config == SMALL
    assert values(module) == {k: float(v.flatten()[0]) for k, v in student().items()}
    assert not module.training and not any(p.requires_grad for p in module.parameters())


@pytest.mark.parametrize("ema", [True, False])
def test_a_training_checkpoint_gives_the_average_or_the_raw_student(tmp_path, ema):
    wrapped = "model._fsdp_wrapped_module."
    content = {"generator": student("model."), "generator_ema": student(wrapped, shift=0.5)}
    torch.save(content, tmp_path / "model.pt")
    module = load_transformer(tmp_path / "model.pt", ema=ema)
    assert min(values(module).values()) == (0.5 if ema else 0.0)


def test_a_nested_dict_from_a_host_is_unwrapped_and_emptied():
    content = {"generator": student("model."), "critic": student("model.")}
    assert transformer_from_state_dict(content, "x.pt").config == SMALL
    assert not content


def test_dtype_none_keeps_what_is_stored_and_maps_it():
    tensors = student(dtype=torch.bfloat16)
    address = tensors["video_model.head.head.weight"].data_ptr()
    module = transformer_from_state_dict(tensors, "x.pt")
    weight = module.get_parameter("video.head.head.weight")
    assert weight.dtype == torch.bfloat16 and weight.data_ptr() == address


def test_a_dtype_is_given_to_floating_tensors_only():
    module = nn.Module()
    module.register_buffer("count", torch.zeros(1, dtype=torch.int64, device="meta"))
    module.register_buffer("scale", torch.zeros(1, device="meta"))
    tensors = {"count": torch.tensor([3]), "scale": torch.ones(1)}
    ready = assemble(module, tensors, source="x", dtype=torch.bfloat16)
    assert ready.count.dtype == torch.int64 and ready.scale.dtype == torch.bfloat16


def test_nothing_is_left_on_the_meta_device(generator):
    modules = (
        transformer_from_state_dict(student(), "x.pt"),
        video_decoder_from_state_dict(tiny_weights.video_vae(generator), "x.pth"),
        video_decoder_from_state_dict(tiny_weights.light_decoder(generator), "x.pth"),
        audio_decoder_from_state_dicts(
            tiny_weights.audio_vae(generator), tiny_weights.vocoder(generator), "x"
        ),
    )
    for module in modules:
        assert not any(t.is_meta for t in (*module.parameters(), *module.buffers()))


def test_layers_and_attention_come_from_the_caller():
    class HostLinear(nn.Linear):
        pass

    class host_ops:  # noqa: N801 - a class used as a namespace, as in ComfyUI
        Linear, LayerNorm, Conv1d, Conv3d = HostLinear, nn.LayerNorm, nn.Conv1d, nn.Conv3d

    def attention(q, k, v, mask=None):
        return v

    module = transformer_from_state_dict(student(), "x", ops=host_ops, attention=attention)
    linears = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    assert linears and all(type(layer) is HostLinear for layer in linears)
    assert module.attention is attention


class Watched(torch.Tensor):
    """Counts how many of its kind are alive whenever one of them is converted."""

    def to(self, *args, **kwargs):
        alive.append(sum(ref() is not None for ref in watched))
        return torch.Tensor.to(self.as_subclass(torch.Tensor), *args, **kwargs)


alive: list[int] = []
watched: list[weakref.ref] = []


def test_a_conversion_never_holds_two_copies_of_the_model():
    tensors = {name: tensor.as_subclass(Watched) for name, tensor in student().items()}
    watched[:] = [weakref.ref(tensor) for tensor in tensors.values()]
    alive.clear()
    module = transformer_from_state_dict(tensors, "x.pt", dtype=torch.bfloat16)
    total = len(module.state_dict())
    assert alive == list(range(total, 0, -1))
    gc.collect()
    assert not any(ref() is not None for ref in watched)


def test_missing_surplus_and_reshaped_tensors_are_all_named():
    tensors = student()
    del tensors["video_model.head.head.bias"]
    tensors["audio_model.blocks.0.extra"] = torch.ones(1)
    tensors["audio_model.head.head.bias"] = torch.ones(7)
    with pytest.raises(CheckpointError) as caught:
        transformer_from_state_dict(tensors, "mine.pt")
    message = str(caught.value)
    assert "mine.pt does not fit the DualStreamDiT" in message
    assert "missing: video.head.head.bias" in message
    assert "not expected: blocks.0.audio.extra" in message
    assert "audio.head.head.bias [7] instead of [20]" in message


def others(generator):
    return {
        "the Hallo-Live (or Ovi) dual-stream transformer": student(),
        "the Wan2.2 video VAE": tiny_weights.video_vae(generator),
        "a TAEHV light video decoder": tiny_weights.light_decoder(generator),
        "the MMAudio VAE": tiny_weights.audio_vae(generator),
        "the BigVGAN vocoder": tiny_weights.vocoder(generator),
        "the umT5 text encoder": tiny_weights.text_encoder(generator),
        "a LoRA, not a whole model": {"x.lora_A.weight": torch.ones(1)},
        "the Wan2.1 video VAE": {"decoder.upsamples.0.residual.2.weight": torch.ones(1)},
        "a single-stream Wan video transformer": {"blocks.0.self_attn.q.weight": torch.ones(1)},
        "a checkpoint of a whole image model": {"model.diffusion_model.a.weight": torch.ones(1)},
    }


LOADERS = {
    "the Hallo-Live (or Ovi) dual-stream transformer": transformer_from_state_dict,
    "the Wan2.2 video VAE": video_encoder_from_state_dict,
    "a TAEHV light video decoder": taehv_from_state_dict,
    "the MMAudio VAE": lambda sd, source: audio_decoder_from_state_dicts(sd, {"a": ONE}, source),
    "the umT5 text encoder": lambda sd, source: text_encoder_from_state_dict(sd, source, list),
}
ONE = torch.ones(1)


@pytest.mark.parametrize("expected", LOADERS)
def test_a_loader_refuses_every_other_model_and_says_what_it_is(expected, generator):
    for actual, tensors in others(generator).items():
        if actual == expected:
            continue
        with pytest.raises(CheckpointError) as caught:
            LOADERS[expected](tensors, "file.pth")
        message = str(caught.value)
        assert f"file.pth is not {expected}" in message, message
        seen = "a whole image model" if "image" in actual else actual
        assert f"it seems to be {seen}" in message, message


def test_every_model_is_identified_by_its_names(generator):
    for model, tensors in others(generator).items():
        assert identify(tensors) == model
    assert {model for model, _ in SIGNS} > set(LOADERS)


def test_an_unknown_model_is_described_by_its_first_names():
    assert describe(["a", "b", "c", "d"]) == "an unknown model with 4 tensors: a, b, c and 1 more"


def test_a_quantised_file_is_recognised():
    names = [f"encoder.block.1.layer.0.SelfAttention.q.{end}" for end in ("weight", "comfy_quant")]
    assert "quantised" in describe(names)


def test_audio_comes_from_two_files_or_from_the_merged_one(generator):
    vae, vocoder = tiny_weights.audio_vae(generator), tiny_weights.vocoder(generator)
    merged = {f"vae.{k}": v for k, v in vae.items()}
    merged |= {f"vocoder.{k}": v for k, v in vocoder.items()}
    latents = torch.randn(1, 3, 20)
    two = audio_decoder_from_state_dicts(vae, vocoder, "x")
    one = audio_decoder_from_state_dicts(merged, None, "x")
    assert torch.equal(two(latents), one(latents))
    assert not vae and not vocoder and not merged


def test_a_vae_without_its_vocoder_asks_for_it(generator):
    with pytest.raises(CheckpointError, match=r"seems to be the MMAudio VAE.*best_netG\.pt"):
        audio_decoder_from_state_dicts(tiny_weights.audio_vae(generator), None, "v1-16.pth")


def test_the_audio_decoder_is_float32_whatever_the_file_holds(generator):
    halves = [
        {k: v.bfloat16() for k, v in part(generator).items()}
        for part in (tiny_weights.audio_vae, tiny_weights.vocoder)
    ]
    module = audio_decoder_from_state_dicts(*halves, "x")
    assert {t.dtype for t in (*module.parameters(), *module.buffers())} == {torch.float32}


def test_light_decoders_named_lighttae_expect_latents_before_normalisation(generator):
    tensors = tiny_weights.light_decoder(generator)
    plain = taehv_from_state_dict(dict(tensors), "taew2_2.safetensors")
    light = taehv_from_state_dict(tensors, "lighttaew2_2.safetensors")
    assert isinstance(plain, TAEHV)
    assert plain.config.normalised_latents and not light.config.normalised_latents


def test_the_text_encoder_keeps_one_embedding_table(generator):
    encoder = text_encoder_from_state_dict(
        tiny_weights.text_encoder(generator), "t5.pth", lambda _: [1], dtype=torch.bfloat16
    )
    network = encoder.network
    assert network.encoder.embed_tokens.weight is network.shared.weight
    assert encoder.encode("").dtype == torch.bfloat16
