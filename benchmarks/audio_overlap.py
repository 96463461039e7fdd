"""How far streamed sound is from sound decoded at once, for several settings of AudioStream.

    python -m benchmarks.audio_overlap [--models FOLDER]

Without the published files (`v1-16.pth`, `best_netG.pt` in FOLDER) the networks have published
sizes and random weights. Prints a Markdown table; takes some minutes on a CPU.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hallo_live_core.checkpoints.load import load_audio_decoder
from hallo_live_core.config import AudioVAEConfig, VocoderConfig
from hallo_live_core.decoding.audio import AudioStream
from hallo_live_core.models.audio_vae import vae_weights
from hallo_live_core.models.audio_vae.audio_decoder import AudioDecoder
from hallo_live_core.models.audio_vae.autoencoder import MMAudioVAE
from hallo_live_core.models.audio_vae.vocoder import BigVGAN

CLIP, BLOCK = 150, 30
AROUND = 512
"""Samples to each side of a hand-over that count as "at the hand-overs"."""
RESIDUAL_SCALE, LOUDNESS = 0.3, 0.3


@dataclass(frozen=True)
class Setting:
    hold_back: int
    crossfade: int
    lookahead: int = 0
    push: int = BLOCK
    context: int = 20


SETTINGS = [
    Setting(hold_back=0, crossfade=0, context=0),
    *(Setting(hold_back=h, crossfade=c) for h in (4, 8, 12) for c in (0, 512)),
    Setting(hold_back=8, crossfade=512, lookahead=10),
    Setting(hold_back=8, crossfade=512, push=5),
]


@torch.no_grad()
def random_decoder() -> AudioDecoder:
    """Published sizes; activations of about unit size in every layer, so that all of it counts."""
    torch.manual_seed(0)
    vae = MMAudioVAE(AudioVAEConfig())
    raw = {k: torch.randn_like(v) for k, v in vae.state_dict().items()}
    raw |= {
        "decoder.learnable_gain": torch.tensor(0.0),
        "data_mean": torch.full_like(vae.data_mean, -1.8),
        "data_std": torch.ones_like(vae.data_std),
    }
    vae.load_state_dict(vae_weights.to_module(raw))
    vocoder = BigVGAN(VocoderConfig())
    for name, parameter in vocoder.named_parameters():
        if name.endswith(".weight"):
            # Of a transposed convolution each output sees half of the kernel: stride kernel / 2.
            fan_in = parameter[0].numel() if "ups" not in name else 2 * parameter.shape[0]
            scale = RESIDUAL_SCALE if "resblocks" in name else 1.0
            parameter.normal_(std=scale * fan_in**-0.5)
        elif name.endswith(".bias"):
            parameter.zero_()
        else:
            parameter.copy_(torch.randn_like(parameter).mul(0.2).exp())
    decoder = AudioDecoder(vae, vocoder)
    loudness = torch.atanh(decoder(torch.randn(1, BLOCK, 20)).clamp(-0.999, 0.999)).std()
    vocoder.conv_post.weight.mul_(LOUDNESS / loudness)
    return decoder


def stream(decoder: AudioDecoder, latents: Tensor, setting: Setting) -> tuple[Tensor, list[int]]:
    """The streamed waveform [1, s], and the samples at which two renderings meet."""
    pushes = AudioStream(
        decoder,
        hold_back=setting.hold_back,
        context=setting.context,
        crossfade=setting.crossfade,
    )
    parts, ends = [], []
    for start in range(0, CLIP, setting.push):
        end = start + setting.push
        ahead = latents[:, end : end + setting.lookahead]
        parts.append(pushes.push(latents[:, start:end], ahead=ahead, last=end == CLIP))
        ends.append(sum(p.shape[1] for p in parts))
    return torch.cat(parts, dim=1), [end for end in ends if 0 < end < ends[-1]]


def row(decoder: AudioDecoder, latents: Tensor, whole: Tensor, setting: Setting) -> str:
    began = time.perf_counter()
    streamed, meets = stream(decoder, latents, setting)
    seconds = time.perf_counter() - began
    error = streamed - whole
    near = torch.zeros(whole.shape[1], dtype=torch.bool)
    for meet in meets:
        near[meet - AROUND : meet + AROUND] = True
    waiting = max(0, setting.hold_back - setting.lookahead)
    cells = [
        str(setting.push),
        f"{setting.hold_back} ({waiting * 32} ms)",
        str(setting.context),
        str(setting.lookahead),
        str(setting.crossfade or "none"),
        f"{float(error.norm() / whole.norm()):.3f}",
        f"{float(error[:, near].norm() / whole[:, near].norm()):.3f}",
        f"{seconds:.0f} s",
    ]
    return f"| {' | '.join(cells)} |"


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, help="folder with v1-16.pth and best_netG.pt")
    folder = parser.parse_args().models
    if folder is None:
        decoder = random_decoder()
    else:
        decoder = load_audio_decoder(folder / "v1-16.pth", folder / "best_netG.pt")
    latents = torch.randn(1, CLIP, 20, generator=torch.Generator().manual_seed(1))
    began = time.perf_counter()
    whole = decoder(latents)
    print(
        f"{CLIP} random latents; all at once: {time.perf_counter() - began:.0f} s, "
        f"standard deviation of the waveform {float(whole.std()):.2f}.\n"
    )
    print(
        "| latents a push | held back (waits) | context | look-ahead | cross-fade, samples "
        "| error, whole clip | error at hand-overs | time |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for setting in SETTINGS:
        print(row(decoder, latents, whole, setting), flush=True)


if __name__ == "__main__":
    main()
