import sys
from types import SimpleNamespace

import pytest
import torch

from hallo_live_core.errors import HalloLiveError, RequestError
from hallo_live_core.models.dit.sage import sage_attention
from hallo_live_core.models.dit.visibility import sdpa

from .dit_models import normal

CUDA = torch.device("cuda")


def test_without_the_package_one_line_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "sageattention", None)
    with pytest.raises(HalloLiveError, match="sageattention") as caught:
        sage_attention(CUDA)
    assert "Fix:" in str(caught.value) and "\n" not in str(caught.value)


def test_without_a_gpu_it_is_refused():
    with pytest.raises(RequestError, match="CUDA"):
        sage_attention(torch.device("cpu"))


def test_the_package_gets_heads_before_tokens_and_masks_stay_exact(monkeypatch):
    """The package itself does not run here; this is its documented call."""
    calls = []

    def sageattn(q, k, v, *, tensor_layout, is_causal):
        calls.append((tuple(q.shape), tensor_layout, is_causal))
        return sdpa(q, k, v)

    monkeypatch.setitem(sys.modules, "sageattention", SimpleNamespace(sageattn=sageattn))
    attend = sage_attention(CUDA)
    q, k, v = normal(1, 2, 3, 8), normal(1, 2, 5, 8, seed=1), normal(1, 2, 5, 8, seed=2)
    assert torch.equal(attend(q, k, v), sdpa(q, k, v))
    assert calls == [((1, 2, 3, 8), "HND", False)]
    mask = torch.tensor([True, True, False, True, True])[None, None, None]
    assert torch.equal(attend(q, k, v, mask), sdpa(q, k, v, mask)) and len(calls) == 1
