"""The video decoder against a straightforward one: same pictures, and a number for the speed."""

import json

import torch

from benchmarks import bench_video_vae
from benchmarks.reference.video_decoder import ReferenceDecoder
from hallo_live_core.config import VideoVAEConfig
from hallo_live_core.models.video_vae.decoder import WanVideoDecoder


def test_the_straightforward_decoder_makes_our_pictures():
    torch.manual_seed(1)
    config = VideoVAEConfig(decoder_dim=4, num_res_blocks=1)
    decoder = WanVideoDecoder(config, dtype=torch.float64).requires_grad_(False)
    latents = torch.randn(2, 4, 48, 2, 3, dtype=torch.float64)
    expected, _ = decoder.decode(latents, decoder.initial_state(2, 2, 3))
    reference = ReferenceDecoder(config, decoder.state_dict())
    actual = torch.cat([reference.decode(latent) for latent in latents.split(1, dim=1)], dim=1)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_the_benchmark_runs_at_its_smallest(tmp_path, capsys):
    file = tmp_path / "decoder.json"
    smallest = ("--width", "4", "--latents", "2x2", "--rounds", "2", "--json", str(file))
    rows = bench_video_vae.main([*smallest])
    assert [*rows] == ["straightforward", "plain", "tuned"]
    assert all(row["difference"] < 1e-5 and len(row["seconds"]) == 2 for row in rows.values())
    assert json.loads(file.read_text())["rows"]["tuned"]["ratio"] == rows["tuned"]["ratio"] > 0
    assert "| tuned |" in capsys.readouterr().out
