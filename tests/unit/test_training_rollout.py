"""The self-rollout: the user's loop, left early, with gradient, one block's graph at a time."""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from hallo_live_core.errors import RequestError
from hallo_live_core.sampling.denoiser import Denoiser, open_session
from hallo_live_core.sampling.sampler import stream_blocks
from hallo_live_core.types import TextContext
from training.rollout import RolloutSettings, roll_out, roll_out_for_gradient
from training.types import Latents

from .dit_models import joined
from .training_models import (
    WIDE,
    assert_same_gradients,
    gradients,
    learner,
    like,
    rollout_draw,
    shape,
    text,
)

DETACHED, JOINT = RolloutSettings(), RolloutSettings(recompute=False)
STRAIGHT = RolloutSettings(history_gradient="straight_through")


class Graph:
    """Bytes that autograd holds for the backward pass, now and at most."""

    def __init__(self) -> None:
        self.held = self.peak = 0

    def keep(self, tensor: torch.Tensor) -> Saved:
        return Saved(self, tensor)

    def __enter__(self) -> Graph:
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.keep, lambda s: s.tensor)
        self.hooks.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self.hooks.__exit__(*error)


class Saved:
    def __init__(self, graph: Graph, tensor: torch.Tensor) -> None:
        self.graph, self.tensor = graph, tensor
        graph.held += tensor.nbytes
        graph.peak = max(graph.peak, graph.held)

    def __del__(self) -> None:
        self.graph.held -= self.tensor.nbytes


def run(settings: RolloutSettings, *exits: int, of=None, student=None) -> dict:
    """Gradients of a rollout to which some fixed gradient is sent."""
    of, student = of or shape(), student or learner()
    rollout = roll_out_for_gradient(
        student, text(of.clip.batch), of, rollout_draw(of, *exits), settings
    )
    rollout.backward(like(rollout.latents, 7))
    return gradients(student)


@pytest.mark.parametrize("exits", [(0,), (1,), (1, 0, 1)])
@pytest.mark.parametrize(("batch", "lookahead"), [(1, 0), (2, 3)])
def test_block_by_block_gives_the_gradients_of_the_joint_graph(exits, batch, lookahead):
    of = shape(batch=batch, lookahead=lookahead)
    assert_same_gradients(run(DETACHED, *exits, of=of), run(JOINT, *exits, of=of))


def test_block_by_block_only_one_blocks_graph_is_in_memory():
    of, student = shape(blocks=4), learner()
    with Graph() as graph:
        rollout = roll_out_for_gradient(student, text(), of, rollout_draw(of, 1), DETACHED)
        assert graph.peak == 0
        before = []
        rollout.backward(like(rollout.latents, 7), before=lambda _: before.append(graph.held))
    assert before == [0] * 4 and graph.held == 0
    assert 0 < graph.peak == max(sizes_of_blocks(of, student))


def test_the_joint_graph_holds_all_blocks():
    of, student = shape(blocks=4), learner()
    with Graph() as graph:
        rollout = roll_out_for_gradient(student, text(), of, rollout_draw(of, 1), JOINT)
    assert graph.held >= sum(sizes_of_blocks(of, student))
    rollout.backward(like(rollout.latents, 7))
    assert graph.held == 0


def sizes_of_blocks(of, student) -> list[int]:
    """Bytes of the graph of every block's exit step, each built alone."""
    state = open_session(student, text(), of.session, of.schedule, dtype=WIDE, gradient=True)
    denoiser, draw, sizes = Denoiser(student, state, of.schedule), rollout_draw(of, 1), []
    for latents in stream_blocks(denoiser, draw.noise, exits=draw.exits):
        block = of.clip.plan.blocks[latents.index]
        window = latents.audio
        with Graph() as graph:
            clean = denoiser.clean(
                block, latents.video, window, of.schedule.steps[1], gradient=True
            )
            clean = (clean.video, clean.audio[:, block.first_audio : block.end_audio])
        sizes.append(graph.held)
        del clean
    return sizes


def test_gradients_are_announced_before_every_block_and_the_last_is_told():
    of, student, told = shape(blocks=3), learner(), []
    for settings in (DETACHED, STRAIGHT):
        rollout = roll_out_for_gradient(student, text(), of, rollout_draw(of, 0), settings)
        rollout.backward(like(rollout.latents, 7), before=told.append)
    assert told == [False, False, True, True]


def test_a_scale_scales_the_gradient():
    of, found = shape(), []
    for scale in (1.0, 0.25):
        student = learner()
        rollout = roll_out_for_gradient(student, text(), of, rollout_draw(of, 0), DETACHED)
        rollout.backward(like(rollout.latents, 7), scale=scale)
        found.append(gradients(student))
    assert_same_gradients(found[1], {n: g / 4 for n, g in found[0].items()})


def test_a_batch_makes_the_clips_of_its_samples_alone():
    student, both = learner(), shape(batch=2, lookahead=2)
    whole = roll_out(student, text(2), both, rollout_draw(both, 1))
    one = shape(batch=1, lookahead=2)
    for sample in range(2):
        own = slice(sample, sample + 1)
        prompt = TextContext(text(2).video[own], text(2).audio[own])
        alone = roll_out(student, prompt, one, rollout_draw(one, 1, first=sample))
        for a, b in zip(alone, whole, strict=True):
            torch.testing.assert_close(a, b[own], rtol=1e-10, atol=1e-12)


def test_with_all_steps_a_rollout_is_what_users_get():
    of, student = shape(lookahead=2), learner()
    draw = rollout_draw(of, 1)
    state = open_session(student, text(), of.session, of.schedule, dtype=WIDE)
    users = joined(list(stream_blocks(Denoiser(student, state, of.schedule), draw.noise)))
    for settings in (DETACHED, JOINT, STRAIGHT):
        rollout = roll_out_for_gradient(student, text(), of, draw, settings)
        for found, expected in zip(rollout.latents, users, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
            assert not found.requires_grad


def test_a_rollout_without_gradient_builds_no_graph():
    of, student = shape(), learner()
    with Graph() as graph:
        clips = roll_out(student, text(), of, rollout_draw(of, 0))
    assert graph.peak == 0 and not any(x.requires_grad for x in clips)


def last_block_only(settings: RolloutSettings, stream: str) -> dict:
    """Gradients where only the last block's picture or sound is told anything."""
    of, student = shape(blocks=2), learner()
    rollout = roll_out_for_gradient(student, text(), of, rollout_draw(of, 1), settings)
    ends = Latents(*(torch.zeros_like(x) for x in rollout.latents))
    getattr(ends, stream)[:, -1] = 1.0
    rollout.backward(ends)
    return gradients(student)


@pytest.mark.parametrize("stream", ["video", "audio"])
def test_straight_through_the_last_block_also_teaches_the_first(stream):
    name = "blocks.0.video.self_attn.k.weight"
    straight, detached = (last_block_only(s, stream)[name] for s in (STRAIGHT, JOINT))
    assert (straight - detached).norm() > 1e-2 * detached.norm()


def test_a_clip_of_one_block_has_no_history_to_reach():
    of = shape(blocks=1)
    assert_same_gradients(run(STRAIGHT, 1, of=of), run(DETACHED, 1, of=of))


@pytest.mark.parametrize("exit_step", [0, 1])
def test_sound_of_earlier_blocks_gets_gradient_only_through_the_first_step(exit_step):
    of, student = shape(blocks=2), learner()
    state = open_session(
        student,
        text(),
        of.session,
        of.schedule,
        dtype=WIDE,
        gradient=True,
        history_gradient="straight_through",
    )
    denoiser, draw = Denoiser(student, state, of.schedule, gradient=True), rollout_draw(of, 1)
    blocks = list(stream_blocks(denoiser, draw.noise, exits=draw.exits))
    second, history = of.clip.plan.blocks[1], state.audio_history
    clean = denoiser.clean(
        second, blocks[1].video, blocks[1].audio, of.schedule.steps[exit_step], gradient=True
    )
    ends = clean.audio[:, second.first_audio :].sum()
    (reached,) = torch.autograd.grad(ends, history, allow_unused=True)
    assert (reached is not None) == (exit_step == 0)


@pytest.mark.parametrize("settings", [DETACHED, JOINT, STRAIGHT])
def test_layers_may_be_checkpointed(settings):
    expected, student = run(settings, 1, 0, 1), learner()
    for layer in student.layers:
        layer.forward = checkpointed(layer.forward)
    assert_same_gradients(run(settings, 1, 0, 1, student=student), expected)


def checkpointed(forward):
    return lambda *inputs: checkpoint(forward, *inputs, use_reentrant=False)


@pytest.mark.parametrize("exits", [(0, 0), (0, 0, 2), (-1, 0, 0)])
def test_exits_that_do_not_fit_are_refused(exits):
    of = shape()
    draw = rollout_draw(of, 0)
    with pytest.raises(RequestError, match=r"3 exit steps of 0\.\.1"):
        roll_out(learner(), text(), of, type(draw)(draw.noise, exits))
