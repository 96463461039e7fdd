"""At which timesteps the scores are asked, and what the exit step has to do with it (spec 06 §7).

A rollout leaves every block at one denoising step, the exit. A score time is drawn as a whole
number of 0..999 (`raw`), shifted towards noise as the schedule is, and clamped.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hallo_live_core.errors import RequestError
from hallo_live_core.functional.schedule import NoiseSchedule, shift_sigma

QUARTERS = 4
"""Bins of the log's histogram of score times."""


@dataclass(frozen=True, slots=True)
class ScoreTimeSettings:
    """How score times are drawn; the defaults are the published ones.

    from_exit: never below the step that follows the exit (`ts_schedule` of the reference).
    up_to_exit: never above the exit step itself (`ts_schedule_max`).
    margin: share of the timesteps that is cut off at both ends.
    """

    shift: float = 5.0
    lowest: int = 0
    from_exit: bool = False
    up_to_exit: bool = False
    margin: float = 0.02
    num_train_timesteps: int = 1000

    def __post_init__(self) -> None:
        if not 0 <= self.lowest < self.num_train_timesteps:
            raise RequestError(
                f"The lowest score time must lie in 0..{self.num_train_timesteps - 1}",
                found=self.lowest,
            )
        if not 0 <= self.margin < 0.5:
            raise RequestError("The margin of score times must lie in 0..0.5", found=self.margin)

    @property
    def clamp(self) -> tuple[int, int]:
        """Least and greatest timestep that a score network is told: 20 and 980."""
        count = self.num_train_timesteps
        return int(self.margin * count), int((1 - self.margin) * count)


def exit_steps(schedule: NoiseSchedule) -> tuple[float, ...]:
    """The timesteps at which a rollout may leave: all steps but a closing 0, which is no step."""
    steps = schedule.steps
    return steps[:-1] if steps[-1] == 0 else steps


def exit_interval(schedule: NoiseSchedule, exit_step: int) -> tuple[int, int]:
    """Raw times of an exit step and of the one that would follow: (750, 500) for the second of 4.

    Raw times count the entries of the table from its clean end.
    """
    entries = schedule.index(torch.tensor(exit_steps(schedule)))
    raw = [schedule.config.num_train_timesteps - int(k) for k in entries]
    return raw[exit_step], [*raw, 0][exit_step + 1]


def score_range(settings: ScoreTimeSettings, interval: tuple[int, int] | None) -> tuple[int, int]:
    """Raw score times [low, high) of a rollout with this exit interval.

    Raises:
        RequestError: the limits leave no score time.
    """
    low, high = settings.lowest, settings.num_train_timesteps
    if interval is not None:
        low = interval[1] if settings.from_exit else low
        high = interval[0] if settings.up_to_exit else high
    return _checked(low, high)


def guidance_range(
    settings: ScoreTimeSettings, interval: tuple[int, int] | None
) -> tuple[int, int]:
    """Raw times [low, high) of the guidance term of the decoupled loss.

    Raises:
        RequestError: the limits leave no time, or the blocks left at different steps.
    """
    if interval is None:
        raise RequestError(
            "The decoupled loss needs one exit step for all blocks",
            fix="set same_step_across_blocks to true, or decoupled to false",
        )
    low, _ = score_range(settings, interval)
    return _checked(low, interval[0])


def score_timesteps(raw: Tensor, settings: ScoreTimeSettings) -> Tensor:
    """Raw times, int64 [...], to what the score networks are told, float32: shifted and clamped."""
    return shifted_timesteps(raw, settings).clamp(*settings.clamp)


def time_shares(timesteps: Tensor, settings: ScoreTimeSettings) -> dict[str, Tensor]:
    """Mean of score times [b] and which share of them lies in each quarter, for the log."""
    quarter = settings.num_train_timesteps // QUARTERS
    shares = {
        f"score_times_at/{first}": ((timesteps >= first) & (timesteps < first + quarter))
        for first in range(0, QUARTERS * quarter, quarter)
    }
    means = {name: inside.float().mean() for name, inside in shares.items()}
    return {"score_time": timesteps.float().mean()} | means


def shifted_timesteps(raw: Tensor, settings: ScoreTimeSettings) -> Tensor:
    """Raw times moved towards noise, float32, before they are clamped."""
    count = settings.num_train_timesteps
    if settings.shift <= 1:
        return raw.float()
    return count * shift_sigma(raw.float() / count, settings.shift)


def _checked(low: int, high: int) -> tuple[int, int]:
    if low >= high:
        raise RequestError(
            "There is no score time between these limits",
            found=f"{low} to {high}",
            fix="lower the lowest score time",
        )
    return low, high
