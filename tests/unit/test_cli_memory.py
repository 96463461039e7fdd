import re
from pathlib import Path

import pytest
import torch

from hallo_live_core.cli import main
from hallo_live_core.cli.preflight import Choice, check_memory
from hallo_live_core.config import FULL, LIGHT
from hallo_live_core.devices import Placement
from hallo_live_core.errors import RequestError
from hallo_live_core.types import Request

CPU, GPU, OTHER = torch.device("cpu"), torch.device("cuda", 0), torch.device("cuda", 1)
SMALL = Request(seconds=1, height=32, width=64)


@pytest.fixture
def choice(tiny_models):
    return Choice(tiny_models, Placement(GPU, GPU, GPU), FULL, "wan")


def test_budget_prints_what_each_profile_takes(capsys):
    assert main(["budget", "--vram", "24"]) == 0
    shown = capsys.readouterr().out
    assert "Arithmetic, not a measurement" in shown
    lines = {line.split("  ")[0]: line.split() for line in shown.splitlines() if line}
    assert lines["weights of the transformer"][4:] == ["23.32", "12.39", "23.32", "23.32", "12.39",
                                                       "12.39"]  # fmt: skip
    left = [float(cell) for cell in lines["left of 25.77 with it"][-6:]]
    assert left[0] < 0 < left[-1]


def test_budget_reads_the_sizes_of_files(tiny_models, capsys):
    assert main(["budget", "--models", str(tiny_models), "--size", "32x64"]) == 0
    (weights,) = re.findall(r"weights of the transformer +([0-9.]+)", capsys.readouterr().out)
    assert float(weights) < 0.1


def test_budget_refuses_what_no_clip_can_be(capsys):
    assert main(["budget", "--size", "500x992"]) == 1
    assert "multiple of 32" in capsys.readouterr().err


def test_what_fits_is_let_through_and_main_memory_is_not_looked_at(choice):
    check_memory(SMALL, choice, free=lambda _: 10**9)
    on_cpu = Choice(Path("nowhere"), Placement.on("cpu"), FULL, "wan")
    check_memory(SMALL, on_cpu, free=lambda _: 0)


def test_what_does_not_fit_is_refused_with_numbers_and_two_remedies(choice):
    needed = choice.budget(SMALL).total_on(GPU)
    check_memory(SMALL, choice, free=lambda _: needed)
    with pytest.raises(RequestError) as refused:
        check_memory(SMALL, choice, free=lambda _: needed - 1)
    assert "weights included" in refused.value.problem and "GB free" in str(refused.value.found)
    assert refused.value.fix.count("saves") == 2 and "\n" not in str(refused.value)


def test_only_switches_that_are_not_set_are_proposed(tiny_models):
    frugal = Choice(tiny_models, Placement(GPU, GPU, CPU), LIGHT, "taehv")
    with pytest.raises(RequestError, match="shorter or smaller"):
        check_memory(SMALL, frugal, free=lambda _: 0)


def test_each_gpu_has_to_hold_its_own_parts_only(tiny_models):
    spread = Choice(tiny_models, Placement(GPU, OTHER, CPU), FULL, "wan")
    budget = spread.budget(SMALL)
    check_memory(SMALL, spread, free=budget.total_on)
    with pytest.raises(RequestError, match="cuda:1"):
        check_memory(SMALL, spread, free=lambda d: budget.total_on(d) - (d == OTHER))


def test_the_light_profile_makes_a_clip(tiny_models, tmp_path):
    shared = ["--models", str(tiny_models), "--device", "cpu", "--size", "32x64", "--seconds", "2"]
    words = "A woman says, <S>Hello.<E>"
    assert main(["generate", words, *shared, "--light", "-o", str(tmp_path / "light.mp4")]) == 0
    assert main(["generate", words, *shared, "--fp8-weights", "-o", str(tmp_path / "w.mp4")]) == 0
    assert (tmp_path / "light.mp4").stat().st_size and (tmp_path / "w.mp4").stat().st_size


def test_8_bit_attention_without_a_gpu_is_one_clear_line(tiny_models, tmp_path, capsys):
    arguments = ["--models", str(tiny_models), "--device", "cpu", "-o", str(tmp_path / "c.mp4")]
    assert main(["generate", "Hi <S>a<E>", *arguments, "--sage-attention"]) == 1
    assert "8-bit attention needs a CUDA GPU" in capsys.readouterr().err
