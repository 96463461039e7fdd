"""Distribution matching where the answer is known, because networks are formulas.

Every number of a clip is drawn from one mixture of normal distributions. A network answers as one
would that knows this mixture perfectly. The student is `place + spread * noise`. All losses are the
real ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from hallo_live_core.config import ScheduleConfig
from hallo_live_core.functional.schedule import NoiseSchedule
from hallo_live_core.rewards.combine import LossScales, robust_scales, robust_z
from hallo_live_core.types import TextContext
from training.draws import ScoreDraw
from training.losses.critic import critic_loss
from training.losses.dmd import DMDSettings, ask_scores, dmd_loss, stream_gradients
from training.schedules import ScoreTimeSettings
from training.types import Latents, Prompts, StreamWeights

BATCH = 64
SIZES = ((BATCH, 1, 1, 2, 4), (BATCH, 1, 8))
SCHEDULE = NoiseSchedule(ScheduleConfig())
TIMES = ScoreTimeSettings(shift=1.0)
ALIKE = StreamWeights(video=0.5, audio=0.5)
PLAIN = DMDSettings(video_guidance=1.0, audio_guidance=1.0)
NOTHING = TextContext(torch.zeros(BATCH, 1, 1), torch.zeros(BATCH, 1, 1))
PROMPTS = Prompts(NOTHING, NOTHING)


class Known(nn.Module):
    """The flow that is expected of clips from equal shares of N(place, spread^2)."""

    def __init__(self, *places: float, spread: float) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.tensor(places, dtype=torch.float64))
        self.log_spread = nn.Parameter(torch.tensor(math.log(spread), dtype=torch.float64))

    def forward(self, video: Tensor, audio: Tensor, how) -> tuple[Tensor, Tensor]:
        sigma = (how.timesteps / 1000).double()
        return self._flow(video, sigma), self._flow(audio, sigma)

    def _flow(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        sigma = sigma.reshape(-1, *(1,) * (noisy.ndim - 1))
        variance, clean = self.log_spread.mul(2).exp(), 1 - sigma
        total = clean**2 * variance + sigma**2
        apart = noisy.unsqueeze(-1) - clean.unsqueeze(-1) * self.places
        share = (-apart.square() / (2 * total.unsqueeze(-1))).softmax(dim=-1)
        nearest = self.places + (clean * variance / total).unsqueeze(-1) * apart
        return (noisy - (share * nearest).sum(-1)) / sigma


@dataclass
class Student:
    place: float
    spread: float

    def clips(self, noise: Latents) -> Latents:
        return Latents(*(self.place + self.spread * n for n in noise))

    def learn(self, gradient: Latents, noise: Latents, rate: float, *, spread: bool) -> None:
        self.place -= rate * float(sum(g.sum() for g in gradient))
        if spread:
            change = sum((g * n).sum() for g, n in zip(gradient, noise, strict=True))
            self.spread -= rate * float(change)


def draws(step: int) -> tuple[Latents, ScoreDraw]:
    """Noise of the student, and what is drawn to ask the scores."""
    generator = torch.Generator().manual_seed(step)

    def noise() -> Latents:
        wide = {"generator": generator, "dtype": torch.float64}
        return Latents(*(torch.randn(size, **wide) for size in SIZES))

    return noise(), ScoreDraw(torch.randint(20, 980, (BATCH,), generator=generator), noise())


def scores_of(clips: Latents, teacher: Known, critic: Known, draw: ScoreDraw):
    return ask_scores(teacher, critic, clips, PROMPTS, draw, schedule=SCHEDULE, times=TIMES)


def train(
    student: Student, teacher: Known, *, steps: int, weigh=None, spread=True, tilt=0.0
) -> Student:
    """The critic is perfect: it is what the student is, or that times exp(-tilt * value)."""
    for step in range(steps):
        noise, draw = draws(step)
        clips = student.clips(noise)
        critic = Known(student.place - tilt * student.spread**2, spread=student.spread)
        gradients = stream_gradients(clips, scores_of(clips, teacher, critic, draw), PLAIN)
        loss = dmd_loss(gradients, ALIKE, None if weigh is None else weigh(clips))
        student.learn(loss.gradient, noise, 0.2, spread=spread)
    return student


def prefers_high(clips: Latents) -> LossScales:
    """Robust factors of the clips' own values."""
    z = [robust_z(x.flatten(1).mean(dim=1)) for x in clips]
    return robust_scales(beta=1.0, video_z=z[0], audio_z=z[1])


def test_the_gradient_points_away_from_where_the_teacher_is():
    noise, draw = draws(0)
    above = Student(2.0, 0.5)
    scores = scores_of(above.clips(noise), Known(-1.0, spread=0.5), Known(2.0, spread=0.5), draw)
    for found in stream_gradients(above.clips(noise), scores, PLAIN):
        assert (found.raw > 0).all() and (found.normalised > 0).all()


def test_a_student_that_is_the_teacher_has_nothing_to_learn_whatever_the_rewards():
    noise, draw = draws(0)
    clips = Student(0.5, 0.7).clips(noise)
    same = Known(0.5, spread=0.7)
    gradients = stream_gradients(clips, scores_of(clips, same, same, draw), PLAIN)
    loss = dmd_loss(gradients, ALIKE, prefers_high(clips))
    assert all(g.abs().max() == 0 for g in loss.gradient)


def test_place_and_spread_become_the_teachers():
    student = train(Student(2.0, 1.5), Known(-1.0, spread=0.5), steps=200)
    assert student.place == pytest.approx(-1.0, abs=0.05)
    assert student.spread == pytest.approx(0.5, abs=0.05)


def test_guidance_goes_beyond_the_teacher_away_from_the_negative_prompt():
    noise, draw = draws(0)
    clips = Student(0.0, 0.5).clips(noise)
    towards, away = Known(1.0, spread=0.5), Known(-1.0, spread=0.5)
    scores = scores_of(clips, towards, towards, draw)
    scores = scores._replace(away=scores_of(clips, away, away, draw).towards)
    found = stream_gradients(clips, scores, DMDSettings(2.0, 2.0))
    for gradient, c, u in zip(found, scores.towards, scores.away, strict=True):
        torch.testing.assert_close(gradient.raw, -(c - u))
        assert (gradient.raw < 0).all()


def learned_critic(student: Student, *, tilt: float) -> Known:
    """A critic that has seen the student's clips, each counted exp(-tilt * sum of its values)."""
    critic = Known(-1.0, spread=1.0)
    optimizer = torch.optim.Adam(critic.parameters(), lr=0.08)
    for step in range(200):
        noise, draw = draws(step)
        clips = student.clips(noise)
        counts = LossScales(*((-tilt * x.flatten(1).sum(dim=1)).exp() for x in clips))
        how = {"schedule": SCHEDULE, "times": TIMES, "weights": ALIKE}
        loss = critic_loss(critic, clips, NOTHING, draw, **how, scales=counts if tilt else None)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    return critic


def test_the_critic_finds_out_what_the_student_makes():
    critic = learned_critic(Student(2.0, 0.5), tilt=0.0)
    assert float(critic.places.detach()) == pytest.approx(2.0, abs=0.1)
    assert math.exp(float(critic.log_spread.detach())) == pytest.approx(0.5, abs=0.1)


def test_a_critic_of_counted_clips_finds_what_is_made_as_often_as_it_counts():
    critic = learned_critic(Student(0.0, 0.5), tilt=1.0)
    assert float(critic.places.detach()) == pytest.approx(-(0.5**2), abs=0.1)


def test_rewards_in_the_critic_take_the_student_to_the_teacher_times_the_exponential():
    student = train(Student(0.0, 1.0), Known(1.0, spread=0.5), steps=200, tilt=2.0)
    assert student.place == pytest.approx(1.0 + 2.0 * 0.5**2, abs=0.05)
    assert student.spread == pytest.approx(0.5, abs=0.05)


def test_weights_by_reward_do_not_move_a_student_that_can_be_the_teacher():
    plain, weighed = (
        train(Student(0.0, 1.0), Known(1.0, spread=0.5), steps=200, weigh=weigh)
        for weigh in (None, prefers_high)
    )
    assert weighed.place == pytest.approx(plain.place, abs=0.05)
    assert weighed.spread == pytest.approx(plain.spread, abs=0.05)


def test_weights_by_reward_move_a_student_that_cannot_be_the_teacher():
    modes = Known(-1.5, 1.5, spread=0.5)
    plain, weighed = (
        train(Student(0.0, 0.5), modes, steps=200, weigh=weigh, spread=False)
        for weigh in (None, prefers_high)
    )
    assert abs(plain.place) < 0.1
    assert weighed.place > 0.3
