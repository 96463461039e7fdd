"""The choice of an attention kernel, on machines that are not here, and what runs on this one."""

import threading
from contextlib import contextmanager

import pytest
import torch
from torch.nn.attention import SDPBackend

from hallo_live_core.devices import Placement, parse_device
from hallo_live_core.errors import RequestError
from hallo_live_core.models.dit import kernels, sdpa
from hallo_live_core.models.dit.kernels import (
    Abilities,
    choose_attention,
    cudnn_first,
    flash,
    one_by_one,
)

from .dit_models import CPU, normal

CUDNN = kernels.CUDNN_PREFERRED
BOTH = frozenset({"flash_attn", "flash_attn_interface"})
NONE = frozenset[str]()
GPU = torch.device("cuda")


def qkv(queries=6, keys=40, dtype=torch.float32):
    return tuple(
        normal(2, 3, length, 8, seed=seed).to(dtype)
        for seed, length in enumerate((queries, keys, keys))
    )


@pytest.mark.parametrize(
    ("capability", "packages", "kernel"),
    [
        (None, BOTH, "sdpa"),
        ((7, 5), BOTH, "sdpa"),
        ((8, 0), BOTH, "sdpa"),
        ((8, 6), NONE, "sdpa"),
        ((8, 9), NONE, "cudnn"),
        ((8, 9), BOTH, "cudnn"),
        ((9, 0), BOTH, "fa3"),
        ((9, 0), frozenset({"flash_attn"}), "cudnn"),
        ((9, 0), NONE, "cudnn"),
        ((10, 0), BOTH, "cudnn"),
        ((12, 0), NONE, "cudnn"),
    ],
)
def test_auto_follows_capability_and_packages(capability, packages, kernel):
    assert Abilities(capability, packages, CUDNN).best == kernel
    assert Abilities(capability, packages, CUDNN).runs(kernel)


@pytest.mark.parametrize(("version", "kernel"), [(0, "sdpa"), (91002, "sdpa"), (91900, "cudnn")])
def test_an_old_cudnn_is_only_used_by_who_asks_for_it(version, kernel):
    abilities = Abilities((9, 0), NONE, version)
    assert abilities.best == kernel and abilities.runs("cudnn")


@pytest.mark.parametrize(
    ("name", "capability", "packages"),
    [
        ("fa3", (8, 9), BOTH),
        ("fa3", (9, 0), NONE),
        ("fa2", (7, 5), BOTH),
        ("fa2", (9, 0), NONE),
        ("cudnn", None, BOTH),
        ("cudnn", (7, 5), BOTH),
    ],
)
def test_what_cannot_run_is_refused_and_says_what_auto_would_be(name, capability, packages):
    abilities = Abilities(capability, packages)
    with pytest.raises(RequestError, match=f"{name} cannot run.*auto, which is {abilities.best}"):
        choose_attention(name, GPU, abilities)


def test_a_name_that_does_not_exist_is_refused():
    with pytest.raises(RequestError, match=r"Unknown attention.*fa4.*cudnn"):
        choose_attention("fa4", CPU)


def test_here_it_is_pytorchs_own():
    assert choose_attention("auto", CPU) is sdpa
    assert choose_attention("sdpa", CPU) is sdpa


def test_a_gpu_of_amd_is_not_taken_for_one_of_nvidia(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 4))
    assert Abilities.of(GPU).capability == (9, 4)
    monkeypatch.setattr(torch.version, "hip", "6.2")
    assert Abilities.of(GPU).best == "sdpa"


def test_cudnn_is_asked_first_wherever_it_is_the_best():
    assert choose_attention("auto", GPU, Abilities((12, 0), NONE, CUDNN)) is cudnn_first


def broken(monkeypatch):
    def fail(name):
        raise ImportError(f"{name}: undefined symbol")

    monkeypatch.setattr(kernels, "import_module", fail)


def test_auto_does_without_a_package_that_is_broken_and_says_so(monkeypatch, caplog):
    broken(monkeypatch)
    assert choose_attention("auto", GPU, Abilities((9, 0), BOTH, CUDNN)) is cudnn_first
    assert "flash_attn_interface cannot be loaded, cudnn will do" in caplog.text
    assert "undefined symbol" in caplog.text


def test_a_broken_package_that_was_asked_for_is_refused(monkeypatch):
    broken(monkeypatch)
    with pytest.raises(RequestError, match=r"flash_attn cannot be loaded.*undefined.*install"):
        choose_attention("fa2", GPU, Abilities((9, 0), BOTH, CUDNN))


@pytest.mark.parametrize("queries", [1, 30, 40])
@pytest.mark.parametrize("masked", [False, True])
def test_an_order_of_kernels_changes_no_result(queries, masked):
    tensors = qkv(queries)
    mask = torch.arange(40).reshape(1, 1, 1, 40) < 25 if masked else None
    torch.testing.assert_close(cudnn_first(*tensors, mask), sdpa(*tensors, mask))


def test_few_queries_over_many_keys_get_the_kernel_that_splits_keys(monkeypatch):
    orders = []

    class Kernel:
        def __init__(self, order, set_priority):
            assert set_priority
            orders.append(order)

        def __enter__(self):
            pass

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(kernels, "sdpa_kernel", Kernel)
    for queries, keys in ((150, 14_880), (30, 2976), (2976, 14_880), (2976, 150)):
        cudnn_first(*(torch.empty(1, 24, n, 128, device="meta") for n in (queries, keys, keys)))
    flash_first = [order[0] is SDPBackend.FLASH_ATTENTION for order in orders]
    assert flash_first == [True, True, False, False]
    assert all(set(order) == set(orders[0]) for order in orders)


def test_threads_do_not_change_the_order_of_kernels_under_each_other(monkeypatch):
    """It is one for the whole process; ranks of a split transformer share a lock."""
    lock, held = threading.Lock(), []

    @contextmanager
    def order(*_, **__):
        held.append(lock.locked())
        yield

    monkeypatch.setattr(kernels, "sdpa_kernel", order)
    tensors = qkv()
    expected = sdpa(*tensors)
    assert torch.equal(one_by_one(cudnn_first, lock)(*tensors), expected)
    assert held == [True] and not lock.locked()
    assert one_by_one(sdpa, lock) is sdpa


def recorded(calls, *, with_sums=False):
    """A stand-in for a package's function: [b, l, n, d], half precision, no mask."""

    def flash_attn_func(q, k, v):
        calls.append(tuple(q.shape))
        assert q.dtype in (torch.bfloat16, torch.float16)
        out = sdpa(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)
        return (out, out.sum(-1)) if with_sums else out

    return flash_attn_func


@pytest.mark.parametrize("with_sums", [False, True])
def test_a_package_gets_its_layout_and_gives_ours(with_sums):
    tensors, calls = qkv(dtype=torch.bfloat16), []
    found = flash(recorded(calls, with_sums=with_sums))(*tensors)
    assert calls == [(2, 6, 3, 8)]
    assert torch.equal(found, sdpa(*tensors))


def test_a_package_that_splits_keys_only_when_told_to_is_told():
    told = []

    def flash_attn_func(q, k, v, num_splits=1):
        told.append(num_splits)
        return q

    flash(flash_attn_func)(*qkv(dtype=torch.bfloat16))
    assert told == [0]


@pytest.mark.parametrize("masked", [False, True])
def test_what_a_package_does_not_know_goes_to_pytorch(masked):
    calls = []
    tensors = qkv(dtype=torch.bfloat16 if masked else torch.float32)
    mask = torch.ones(2, 1, 1, 40, dtype=torch.bool) if masked else None
    assert torch.equal(flash(recorded(calls))(*tensors, mask), sdpa(*tensors, mask))
    assert calls == []


def test_two_names_of_one_gpu_are_one_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert parse_device("cuda") == parse_device("cuda:0") == torch.device("cuda", 0)
    assert not Placement.on("cuda", decoder="cuda:0").decodes_beside
    with pytest.raises(RequestError, match="different devices"):
        Placement.on("cuda").shared_with(["cuda:0"])
