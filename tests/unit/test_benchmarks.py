"""The benchmarks run, at their smallest, and the two ways to make a clip agree."""

import json
import warnings
from functools import partial

import pytest
import torch
from torch.profiler import ProfilerActivity

from benchmarks import __main__ as suite
from benchmarks import bench_cpu, bench_parts, bench_stream, parity, stream_probe
from benchmarks.measure import fill_random, machine, percentile, table
from benchmarks.stream_engine import Sizes, random_engine
from benchmarks.stream_probe import BUFFER_SECONDS, Clip, Probe
from hallo_live_core import Placement, Request
from hallo_live_core.checkpoints import tiny_weights
from hallo_live_core.config import FULL, HALLO_5B, LIGHT, Acceleration
from hallo_live_core.errors import RequestError
from hallo_live_core.models.dit import sdpa
from hallo_live_core.models.video_vae.layers import ChannelNorm

CPU = torch.device("cpu")


def tiny_engine(on, decoder="wan", gives_up=FULL):
    sizes = Sizes(
        tiny_weights.TRANSFORMER,
        tiny_weights.VIDEO_VAE,
        tiny_weights.LIGHT_DECODER,
        tiny_weights.AUDIO_VAE,
        tiny_weights.VOCODER,
        tiny_weights.TEXT_ENCODER,
    )
    return random_engine(on, decoder, Acceleration(), gives_up, sizes)


def test_the_loop_makes_the_clip_that_the_specification_describes(tmp_path, capsys):
    file = tmp_path / "loop.json"
    smallest = ("--size", "tiny", "--dtype", "float64", "--rounds", "1", "--json", str(file))
    result = bench_cpu.main([*smallest])
    distances = [d for block in result["parity"] for d in block]
    assert len(distances) == 4
    assert max(distances) < 1e-6  # of the spec's float32 timesteps and renoising
    assert len(result["seconds"]["plain"]) == len(result["seconds"]["ours"]) == 2
    assert json.loads(file.read_text())["ratio"] == result["ratio"] > 0
    assert "parity" in capsys.readouterr().out


def test_every_kernel_of_a_stream_is_measured(capsys):
    rows = bench_parts.main(["--device", "cpu", "--size", "least", "--repeats", "1"])
    assert {row["group"] for row in rows} == {
        *("gemm", "attention", "conv3d", "norm+silu", "padded copy")
    }
    assert sum("video, block" in row["kernel"] and "math" in row["kernel"] for row in rows) == 5
    assert sum(row["group"] == "conv3d" for row in rows) == 2 * 4
    assert all(row["ms"] > 0 for row in rows)
    assert capsys.readouterr().out.count("\n| ") == len(rows) + 2  # and the two lines of the head


def test_full_size_kernels_have_the_published_shapes():
    at = bench_parts.Place(torch.device("meta"), torch.bfloat16, bench_parts.SIZES["full"])
    gemms = [case.name for case in bench_parts.gemms(at)]
    assert "video, q k v in one: 2976 x 3072 to 9216" in gemms
    assert "video, MLP, second: 2976 x 14336 to 3072" in gemms
    convolutions = [case for case in bench_parts.convolutions(at) if "last" in case.name]
    assert [case.name.split(", ", 1)[0] for case in convolutions] == [
        *("level 0: 1024 channels", "level 1: 1024 channels"),
        *("level 2: 512 channels", "level 3: 256 channels"),
    ]
    assert "4 x 256 x 496" in convolutions[-1].name


def test_a_package_that_cannot_be_loaded_is_named_and_left_out(monkeypatch, capsys):
    def broken(name, _):
        raise RequestError(f"The package of {name} cannot be loaded")

    monkeypatch.setattr(bench_parts, "choose_attention", broken)
    monkeypatch.setattr(bench_parts.Abilities, "runs", lambda *_: True)
    assert set(bench_parts.attention_kernels(CPU)) == set(bench_parts.BACKENDS)
    assert "package of fa3 cannot be loaded" in capsys.readouterr().out


def test_on_a_gpu_the_fused_norm_is_measured_beside_the_plain_one(monkeypatch):
    monkeypatch.setattr(bench_parts, "find_norm_kernel", lambda _: lambda *_: None)
    monkeypatch.setattr(bench_parts.Place, "random", lambda _, *size: torch.empty(size))
    monkeypatch.setattr(bench_parts, "ChannelNorm", lambda channels, **_: ChannelNorm(channels))
    at = bench_parts.Place(torch.device("cuda"), torch.float32, bench_parts.SIZES["least"])
    groups = [case.group for case in bench_parts.elementwise(at)]
    assert groups == ["norm+silu", "norm+silu, one kernel", "padded copy"] * 4


@pytest.mark.parametrize("where", [(), ("--split", "sequence", "--device", "cpu,cpu:1")])
def test_a_whole_stream_is_measured(where, tmp_path, capsys):
    file = tmp_path / "stream.json"
    least = ("--pixels", "32x64", "--seconds", "2", "--clips", "1", "--prompts", "1")
    shared = ("--device", "cpu", *least, "--warm-up", "0", "--json", str(file))
    result = bench_stream.main([*shared, *where])
    assert result["speed"]["frames"] == 45
    assert 0 < result["speed"]["fps_prompt_to_end"] < result["speed"]["fps_hand_out"] * 2
    assert all(value > 0 for value in result["parts"].values())
    assert 0 < result["speed"]["parts_of_wall"] <= 1.01
    assert [len(passes) for passes in result["passes_ms"]] == [5, 4]  # no context pass at the end
    assert len(result["parity"]) == 2 and max(d for pair in result["parity"] for d in pair) < 1e-4
    assert json.loads(file.read_text())["parts"] == result["parts"]
    head, _, row = capsys.readouterr().out.splitlines()[:3]
    assert head.count("|") == row.count("|")


class FakeGPU:
    """What a GPU would answer about itself, while a CPU does the work and waits now and then."""

    def __init__(self, monkeypatch):
        self.modes, reserved = [], iter(range(10**9, 2 * 10**9, 10**6))
        answers = {
            "memory_stats": lambda _: {"num_alloc_retries": 0},
            "reset_peak_memory_stats": lambda _: None,
            "set_sync_debug_mode": self.modes.append,
            "max_memory_allocated": lambda _: 41_500_000_000,
            "max_memory_reserved": lambda _: 43_000_000_000,
            "memory_reserved": lambda _: next(reserved),
        }
        for name, answer in answers.items():
            monkeypatch.setattr(torch.cuda, name, answer)
        gpu = torch.device("cuda", 0)
        for module in (bench_stream, stream_probe):
            monkeypatch.setattr(module, "gpus_of", lambda _: [gpu])
        profile = partial(torch.profiler.profile, activities=[ProfilerActivity.CPU])
        monkeypatch.setattr(torch.profiler, "profile", lambda activities: profile())
        monkeypatch.setattr(torch.autograd.DeviceType, "CUDA", torch.autograd.DeviceType.CPU)
        mark = stream_probe.mark

        def waiting_mark(device):
            if self.modes[-1:] == ["warn"]:
                warnings.warn("called a synchronizing CUDA operation", stacklevel=2)
            return mark(device)

        monkeypatch.setattr(stream_probe, "mark", waiting_mark)


def test_the_row_of_a_gpu_has_its_memory_and_its_waits(monkeypatch, capsys):
    gpu = FakeGPU(monkeypatch)
    least = ("--pixels", "32x64", "--seconds", "3", "--clips", "1", "--prompts", "1")
    result = bench_stream.main(["--device", "cpu", *least, "--warm-up", "0"])
    assert gpu.modes == ["warn", "default"]
    used = result["device"]
    assert used["peak_gb"] == {"cuda:0": [41.5, 43.0]} and used["alloc_retries"] == 0
    assert used["growth_mb"] == 4.0  # a megabyte a pass, after the second of three blocks
    assert 0 < used["host_waits_steady"] < used["host_waits"]
    assert all("stream_probe.py" in place for place in used["host_waits_steady_at"])
    cells = capsys.readouterr().out
    assert f"| 41.5 / 43.0 | {used['host_waits_steady']}, 4.0 |" in cells


@pytest.mark.filterwarnings("ignore:.*Profiler clears events")  # one cycle is all there is
def test_kernels_are_counted_and_the_time_in_which_one_runs(monkeypatch, capsys):
    FakeGPU(monkeypatch)
    watched = stream_probe.Watched(tiny_engine(Placement.on("cpu")))
    request = Request(prompt="He says <S>hello.<E>", seconds=1, height=32, width=64)
    found = bench_stream.profiled(watched, request)
    assert found["kernels"] > found["kernels_per_pass"] > 0 and 0 < found["busy_share"] <= 1
    assert "aten::" in capsys.readouterr().out  # the table of the longest


def test_parity_finds_a_network_that_answers_differently():
    engine = tiny_engine(Placement.on("cpu"))
    request = Request(prompt="He says <S>hello.<E>", seconds=1, height=32, width=64)
    assert parity.parity(engine, request) == [(0.0, 0.0)]
    engine._transformer.attention = lambda q, k, v, mask=None: sdpa(q, k, 1.1 * v, mask)
    ((video, audio),) = parity.parity(engine, request)
    assert video > 1e-3 and audio > 1e-3


@pytest.mark.parametrize(("decoder", "gives_up"), [("wan", FULL), ("taehv", LIGHT)])
def test_an_engine_of_random_weights_streams(decoder, gives_up):
    """As at full size, where nothing but the sizes differs."""
    engine = tiny_engine(Placement.on("cpu").shared_with(["cpu:1"]), decoder, gives_up)
    request = Request(prompt="He says <S>hello.<E>", seconds=1, height=32, width=64)
    assert sum(len(chunk.frames) for chunk in engine.stream(request)) == 21
    narrow = {p.dtype for p in engine._transformer.models[1].parameters()}
    assert (torch.float8_e4m3fn in narrow) is gives_up.fp8_weights
    assert Sizes().transformer == HALLO_5B


def test_a_chunk_that_comes_after_its_moment_is_late():
    clip = Clip(
        probe=Probe(Placement.on("cpu")),
        first_frame=1.0,
        first_block=2.0,
        first_sound=1.0,
        last_frame=2.0,
        frames=9,
        arrivals=[(1.0, 0.0), (1.1, 1 / 24), (1.5, 5 / 24)],
    )
    late = clip.lateness()
    assert late[0] == pytest.approx(-BUFFER_SECONDS)
    assert [value > 0 for value in late] == [False, False, True]
    assert late[2] == pytest.approx(0.5 - BUFFER_SECONDS - 5 / 24)
    assert clip.hand_out_fps == 8.0 and clip.total_fps == 4.5


@pytest.mark.parametrize(
    ("intervals", "length"), [([], 0), ([(0, 2), (1, 3)], 3), ([(5, 6), (0, 4), (1, 2)], 5)]
)
def test_time_in_which_several_kernels_run_counts_once(intervals, length):
    assert bench_stream.covered(intervals) == length


def test_percentiles_are_values_that_occurred():
    values = [float(n) for n in range(20, 0, -1)]
    assert percentile(values, 0.5) == 10.0 and percentile(values, 0.95) == 19.0
    assert percentile([3.0], 0.95) == 3.0


def test_random_weights_are_never_all_zero():
    module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
    assert all(p.abs().max() > 0 for p in fill_random(module).parameters())


def test_the_suite_runs_what_the_machine_can():
    assert set(suite.runs(0)) == {"loop", "kernels", "video_decoder", "stream"}
    assert not any("cuda" in word for run in suite.runs(0).values() for word in run)
    assert "cuda:1" not in " ".join(w for run in suite.runs(1).values() for w in run)
    assert {"stream_beside", "stream_split"} <= set(suite.runs(2))
    parsers = {"bench_stream": bench_stream.parsed}
    for module, *arguments in (*suite.runs(0).values(), *suite.runs(2).values()):
        if module in parsers:
            parsers[module](arguments)


def test_rows_are_published_behind_those_of_their_table():
    document = "# Title\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\nThe end.\n"
    printed = "a table:\n| a | b |\n| --- | --- |\n| 3 | 4 |\n\n| c |\n| --- |\n| 5 |\n"
    expected = "# Title\n\n| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\n\nThe end.\n"
    assert suite.publish(printed, document) == expected


def test_benchmarks_md_has_the_tables_that_are_printed():
    head = "| " + " | ".join(bench_stream.HEAD) + " |"
    rows = [line for line in suite.PUBLISHED.read_text().splitlines() if line.startswith("|")]
    assert head in rows
    columns = {row.count("|") for row in rows[rows.index(head) : rows.index(head) + 3]}
    assert columns == {head.count("|")}


def test_a_row_names_date_commit_and_machine():
    facts = machine(CPU)
    assert {"date", "commit", "cpu", "threads", "torch"} <= set(facts)
    assert table(["a", "b"], [[1, 2]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
