"""Wan2.2 video VAE against reference tensors, in float64 and in float32."""

from __future__ import annotations

from itertools import accumulate, pairwise

import torch

from hallo_live_core.config import VideoVAEConfig
from hallo_live_core.models.video_vae.decoder import WanVideoDecoder
from hallo_live_core.models.video_vae.encoder import WanVideoEncoder

from .harness import Golden, assert_max_abs

TOLERANCE = 2e-5


def config_of(golden: Golden) -> VideoVAEConfig:
    stored = golden.meta["config"]
    downsample = stored["temporal_downsample"]
    assert stored.get("temporal_upsample", downsample[::-1]) == downsample[::-1]
    blocks = stored["num_res_blocks"] + 1
    assert stored.get("decoder_res_blocks_per_level", blocks) == blocks
    return VideoVAEConfig(
        z_dim=stored["z_dim"],
        encoder_dim=stored.get("enc_dim", 4),
        decoder_dim=stored.get("dec_dim", 4),
        multipliers=tuple(stored["dim_mult"]),
        num_res_blocks=stored["num_res_blocks"],
        temporal_downsample=tuple(downsample),
    )


def check_decode(golden: Golden):
    for dtype in (torch.float64, torch.float32):
        decoder = WanVideoDecoder(config_of(golden), dtype=dtype)
        decoder.load_state_dict(golden.group("sd"))
        with torch.no_grad():
            for name, case in golden.meta["cases"].items():
                _check_decode_case(decoder, golden, case, f"case {name}, {dtype}")


def _check_decode_case(decoder: WanVideoDecoder, golden: Golden, case: dict, where: str):
    latents = golden[case["in"]].transpose(1, 2)
    expected = golden[case["out"]].transpose(1, 2)
    whole, _ = decoder(latents, _start(decoder, latents))
    assert whole.shape[1] == case.get("frames", whole.shape[1])
    assert_max_abs(whole, expected, f"{where}: whole", TOLERANCE)
    clamped, _ = decoder.decode(latents, _start(decoder, latents))
    assert torch.equal(clamped, whole.clamp(-1, 1))

    state, streamed = _start(decoder, latents), []
    for begin, end in pairwise(accumulate(case["stream_blocks_in_latents"], initial=0)):
        video, state = decoder(latents[:, begin:end], state)
        streamed.append(video)
    assert [v.shape[1] for v in streamed] == case["stream_block_frames"]
    assert torch.equal(torch.cat(streamed, dim=1), whole), f"{where}: streamed is not whole"

    together, _ = decoder(latents, _start(decoder, latents), latents_at_once=latents.shape[1])
    assert_max_abs(together, expected, f"{where}: several latents at once", TOLERANCE)


def check_decode_taps(golden: Golden):
    """Outputs of single modules, latent by latent, of the case that they were taken from."""
    taps = golden.group("tap")
    if not taps:
        return
    decoder = WanVideoDecoder(config_of(golden), dtype=torch.float64)
    decoder.load_state_dict(golden.group("sd"))
    network = decoder.decoder
    modules = {"conv2": decoder.conv2, "conv1": network.conv1, "decoder": network}
    modules |= {f"middle{i}": module for i, module in enumerate(network.middle)}
    modules |= {f"up{i}": module for i, module in enumerate(network.upsamples)}
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in modules}
    for name, module in modules.items():
        module.register_forward_hook(lambda _m, _i, out, seen=seen[name]: seen.append(out.clone()))
    shape = taps["conv2.all"].shape
    *_, case = (c for c in golden.meta["cases"].values() if golden[c["in"]].shape == shape)
    latents = golden[case["in"]].transpose(1, 2)
    with torch.no_grad():
        decoder(latents, _start(decoder, latents))
    for name, expected in taps.items():
        module, _, which = name.partition(".")
        outputs = seen[module]
        actual = torch.cat(outputs, 2) if which == "all" else outputs[int(which[len("latent") :])]
        assert_max_abs(actual, expected, f"tap {name}", TOLERANCE)


def check_state_shapes(golden: Golden):
    listed = [
        tuple(shape) for shape in golden.meta.get("state_after_last_block_slots", ()) if shape
    ]
    if listed:
        batch, _, _, height, width = listed[0]
        state = WanVideoDecoder(config_of(golden)).initial_state(batch, height, width)
        assert [tuple(past.shape) for past in state.convolutions.past] == listed


def check_decoding(golden: Golden):
    check_state_shapes(golden)
    check_decode(golden)
    check_decode_taps(golden)


def check_encode(golden: Golden):
    for dtype in (torch.float64, torch.float32):
        encoder = WanVideoEncoder(config_of(golden), dtype=dtype)
        encoder.load_state_dict(golden.group("sd"))
        for name, case in golden.meta["cases"].items():
            video = golden[f"in.x_{name}"].transpose(1, 2)
            with torch.no_grad():
                encoded = encoder.encode(video)
            for kind, actual in (("z", encoded.normalised), ("zraw", encoded.raw)):
                expected = golden[f"out.{kind}_{name}"].transpose(1, 2)
                assert_max_abs(actual, expected, f"{kind} of {name}, {dtype}", TOLERANCE)
            assert encoded.raw.shape[1] == case["latents"]
            used = 1 + encoder.frames_per_latent * (case["latents"] - 1)
            assert case.get("frames_used", used) == used


def _start(decoder: WanVideoDecoder, latents: torch.Tensor):
    return decoder.initial_state(latents.shape[0], *latents.shape[-2:])


CHECKS = {"video_vae_decode": check_decoding, "video_vae_encode": check_encode}
