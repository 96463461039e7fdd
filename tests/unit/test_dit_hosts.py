"""What a host may bring: its own layers, its own attention, weights in another place."""

import torch
from torch import nn

from hallo_live_core.models.dit import TeacherPass, sdpa

from .dit_models import TINY, tiny_dit, tiny_latents, tiny_text

HOW = TeacherPass(tiny_text(), torch.tensor([700.0]))


def layers_of(model, kind):
    return {name for name, module in model.named_modules() if type(module) is kind}


class HostOps:
    """Layers that count as the host's own."""

    class Linear(nn.Linear):
        pass

    class LayerNorm(nn.LayerNorm):
        pass

    class Conv1d(nn.Conv1d):
        pass

    class Conv3d(nn.Conv3d):
        pass


def test_every_layer_with_a_matrix_comes_from_the_host():
    plain, hosted = tiny_dit(), tiny_dit(ops=HostOps)
    for name in ("Linear", "LayerNorm", "Conv1d", "Conv3d"):
        assert layers_of(hosted, getattr(HostOps, name)) == layers_of(plain, getattr(nn, name))
        assert not layers_of(hosted, getattr(nn, name))


def test_no_module_has_both_parameters_and_children():
    for name, module in tiny_dit().named_modules():
        own = list(module.parameters(recurse=False))
        assert not (own and list(module.children())), name


def test_weights_of_the_hosts_layers_are_never_read_directly():
    class Paged(nn.Linear):
        """Its weight is somewhere else, except while its forward runs."""

        def forward(self, x):
            return nn.functional.linear(x, self.paged_weight, self.bias)

    class Ops(HostOps):
        Linear = Paged

    plain, paged = tiny_dit(), tiny_dit(ops=Ops)
    for module in paged.modules():
        if isinstance(module, Paged):
            module.paged_weight = module.weight.data
            del module.weight
    video, audio = tiny_latents(1)
    for a, b in zip(paged(video, audio, HOW), plain(video, audio, HOW), strict=True):
        assert torch.equal(a, b)


def test_attention_may_be_replaced_at_any_time():
    model, shapes = tiny_dit(), []

    def recorded(q, k, v, mask=None):
        shapes.append((tuple(q.shape), tuple(k.shape), q.dtype == k.dtype == v.dtype, mask))
        return sdpa(q, k, v, mask)

    video, audio = tiny_latents(1)
    expected = model(video, audio, HOW)
    model.attention = recorded
    for a, b in zip(model(video, audio, HOW), expected, strict=True):
        assert torch.equal(a, b)
    assert len(shapes) == 6 * TINY.num_layers
    assert ((1, 2, 12, 12), (1, 2, 12, 12), True, None) in shapes


def test_lone_parameters_follow_the_activations_to_another_dtype():
    model = tiny_dit(dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if "modulation" in name or ".norm_" in name:
            parameter.data = parameter.data.bfloat16()
    video, audio = tiny_latents(1)
    assert all(flow.dtype == torch.float32 for flow in model(video, audio, HOW))


def test_a_network_built_without_storage_works_once_weights_are_assigned():
    model, empty = tiny_dit(), tiny_dit(device="meta")
    empty.load_state_dict(model.state_dict(), assign=True)
    assert not any(t.is_meta for t in (*empty.parameters(), *empty.buffers()))
    video, audio = tiny_latents(1)
    for a, b in zip(empty(video, audio, HOW), model(video, audio, HOW), strict=True):
        assert torch.equal(a, b)


def test_the_network_has_no_state_besides_its_weights():
    assert list(tiny_dit().buffers()) == []
