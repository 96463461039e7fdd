"""Which of several takes is best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..errors import RequestError
from ..rewards.base import Score
from ..rewards.combine import as_scores, robust_z


@dataclass(frozen=True, slots=True)
class Take:
    """One candidate.

    name: shown to the user. scores: of the judges that were asked, empty when the take was given
    up. remarks: what the user should know of it.
    """

    name: str
    scores: tuple[Score, ...] = ()
    remarks: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, scores: tuple[Score, ...], remarks: tuple[str, ...] = ()) -> Take:
        """A take whose remarks are these and the judges' reasons."""
        reasons = (f"{score.judge}: {reason}" for score in scores for reason in score.reasons)
        return cls(name, scores, (*remarks, *reasons))


@dataclass(frozen=True, slots=True)
class Ranking:
    """best: position of the best take; places: 1 for the best, for every take in its order."""

    best: int
    places: tuple[int, ...]


def rank_takes(takes: Sequence[Take]) -> Ranking:
    """Order takes: first by how many judges could tell, then by what these say.

    Every judge counts alike: its values enter in standard deviations from their mean over the
    takes that it could judge. Of equal takes the earlier one wins.

    Raises:
        RequestError: there are no takes.
    """
    if not takes:
        raise RequestError("There are no takes to choose from", fix="connect or name some clips")
    judges = dict.fromkeys(score.judge for take in takes for score in take.scores)
    told = torch.zeros(len(takes), dtype=torch.int64)
    total = torch.zeros(len(takes), dtype=torch.float64)
    for judge in judges:
        values = as_scores([_value(take, judge) for take in takes])
        told += values.isfinite()
        total += robust_z(values)
    order = sorted(range(len(takes)), key=lambda i: (-int(told[i]), -float(total[i]), i))
    places = tuple(order.index(number) + 1 for number in range(len(takes)))
    return Ranking(order[0], places)


def _value(take: Take, judge: str) -> float | None:
    return next((score.value for score in take.scores if score.judge == judge), None)
