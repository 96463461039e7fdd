"""Scores as text for people: aligned columns, plain verdicts, and the scales they are held to."""

from __future__ import annotations

from collections.abc import Sequence

from ..rewards.base import Component, Score
from .panel import verdict_of
from .ranking import Take, rank_takes

HEAD = ("judge", "number", "value", "on its scale", "good from", "doubtful from", "verdict")
NUMERIC = 2, 3, 4, 5
"""Columns of HEAD that are aligned to the right."""

NOTHING = "-"


def score_table(scores: Sequence[Score]) -> str:
    """Every number of every judge with its verdict, the reasons, and where the scales are from."""
    rows = [HEAD, *(row for score in scores for row in _rows(score))]
    lines = aligned(rows, NUMERIC)
    lines += [f"{score.judge}: {reason}" for score in scores for reason in score.reasons]
    return "\n".join([*lines, *(f"scale of {line}" for line in _sources(scores))])


def take_table(takes: Sequence[Take]) -> str:
    """One line per take, in the order they were made; the best one is marked."""
    judges = tuple(dict.fromkeys(score.judge for take in takes for score in take.scores))
    ranking = rank_takes(takes)
    head = ("", "take", *(text for judge in judges for text in (judge, "")), "rank", "remarks")
    rows: list[tuple[str, ...]] = [head]
    for number, take in enumerate(takes):
        told = {score.judge: score for score in take.scores}
        cells = (text for judge in judges for text in value_and_verdict(told.get(judge)))
        mark = "*" if number == ranking.best else ""
        rows.append((mark, take.name, *cells, str(ranking.places[number]), "; ".join(take.remarks)))
    numbers = [*range(2, 2 + 2 * len(judges), 2), 2 + 2 * len(judges)]
    return "\n".join(
        [
            *aligned(rows, numbers),
            "* is the best take: most judges could tell, "
            "then the highest sum of each judge's value in standard deviations",
        ]
    )


def value_and_verdict(score: Score | None) -> tuple[str, str]:
    """A judge's value and its worst verdict as text."""
    if score is None or score.value is None:
        return NOTHING, NOTHING if score is None else "not judged"
    return f"{score.value:.2f}", verdict_of(score) or NOTHING


def aligned(rows: Sequence[Sequence[str]], numeric: Sequence[int] = ()) -> list[str]:
    """Lines of equally wide columns, two spaces between them."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if index in numeric else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _rows(score: Score) -> list[tuple[str, ...]]:
    if score.value is None:
        return [(score.judge, NOTHING, *[NOTHING] * len(NUMERIC), "not judged")]
    total = (score.judge, "score", f"{score.value:.2f}", *[""] * 3, "")
    return [total, *(_row(part) for part in score.components)]


def _row(part: Component) -> tuple[str, ...]:
    limits = ("", "") if part.scale is None else (part.scale.good, part.scale.doubtful)
    on_scale = "" if part.scale is None else f"{part.normalised:.2f}"
    shown = tuple(limit if isinstance(limit, str) else f"{limit:.2f}" for limit in limits)
    return ("", part.name, f"{part.raw:.2f}", on_scale, *shown, part.verdict or NOTHING)


def _sources(scores: Sequence[Score]) -> list[str]:
    """`names: source` for every scale that is used, each source once."""
    names: dict[str, list[str]] = {}
    for score in scores:
        for part in score.components:
            if part.scale is not None:
                names.setdefault(part.scale.source, []).append(part.name)
    return [f"{', '.join(parts)}: {source}" for source, parts in names.items()]
