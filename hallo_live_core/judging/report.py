"""What the judges said, for programs (JSON, CSV) and as one page with pictures (HTML)."""

from __future__ import annotations

import base64
import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from fractions import Fraction
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..rewards.base import Clip, Component, Score
from ..rewards.sync.judge import SyncDetails
from ..rewards.sync.score import SyncCurve
from .panel import verdict_of
from .pictures import thumbnail
from .ranking import Take, rank_takes
from .tables import value_and_verdict

THUMBNAILS, THUMBNAIL_SIDE = 3, 240
"""Pictures per clip (start, middle, end) and their longest side in pixels."""

PLOT_WIDTH, PLOT_HEIGHT = 240, 90
"""Pixels of a drawn sync curve."""

DECIMALS = 6
"""Of numbers in JSON and CSV."""

STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1rem}
article{border-top:1px solid #8888;padding:1rem 0}
table{border-collapse:collapse;margin:.5rem 0}
td,th{padding:.15rem .7rem;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}
.good{color:#1a7f37}.doubtful{color:#9a6700}.bad{color:#cf222e}
.quiet{opacity:.75;font-size:.9em} img{margin-right:.3rem} polyline{fill:none;stroke:#5470c6}
"""


@dataclass(frozen=True, slots=True)
class Judged:
    """A file and what was said of it; or, in `error`, why nothing could be.

    thumbnails: JPEG files.
    """

    path: Path
    prompt: str = ""
    seconds: float = 0.0
    fps: Fraction = Fraction(0)
    scores: tuple[Score, ...] = ()
    thumbnails: tuple[bytes, ...] = ()
    error: str = ""

    @property
    def take(self) -> Take:
        """As a candidate among others."""
        return Take.of(self.path.name, self.scores)


def judged(
    path: Path, clip: Clip, scores: tuple[Score, ...], jpeg: Callable[[np.ndarray], bytes]
) -> Judged:
    """The scores of a clip with what a report needs of it.

    jpeg: a picture, uint8 [h, w, 3] with even sides, as a JPEG file.
    """
    moments = torch.linspace(0, len(clip.frames) - 1, min(THUMBNAILS, len(clip.frames))).long()
    pictures = tuple(
        jpeg(thumbnail(frame, THUMBNAIL_SIDE).numpy()) for frame in clip.frames[moments]
    )
    return Judged(path, clip.prompt, clip.seconds, clip.fps, scores, pictures)


# -- JSON and CSV -----------------------------------------------------------------------------


def as_json(entries: Sequence[Judged]) -> list[dict[str, Any]]:
    """Everything that is known of every clip, in plain numbers, texts, lists and dicts."""
    places = iter(_places(entries))
    return [
        {"file": str(entry.path), "error": entry.error}
        if entry.error
        else {
            "file": str(entry.path),
            "rank": next(places),
            "prompt": entry.prompt,
            "seconds": plain(entry.seconds),
            "fps": plain(float(entry.fps)),
            "judges": {score.judge: _score_json(score) for score in entry.scores},
        }
        for entry in entries
    ]


def plain(value: Any) -> Any:  # noqa: ANN401 - whatever a judge puts into its details
    """A value as JSON can hold it; numbers that are none become null."""
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, float):
        return round(value, DECIMALS) if math.isfinite(value) else None
    return value


def write_csv(path: Path, entries: Sequence[Judged]) -> None:
    """One row per clip: place, values, verdicts, every component, reasons.

    Raises:
        OSError: the file cannot be written.
    """
    write_rows(path, list(_csv_rows(entries)))


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows that may have different columns as one CSV.

    Raises:
        OSError: the file cannot be written.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _csv_rows(entries: Sequence[Judged]) -> Iterator[dict[str, Any]]:
    places = iter(_places(entries))
    for entry in entries:
        row: dict[str, Any] = {"file": entry.path.name}
        if entry.error:
            yield row | {"error": entry.error}
            continue
        row |= {"rank": next(places), "prompt": entry.prompt, "seconds": plain(entry.seconds)}
        yield row | score_columns(entry)


def score_columns(entry: Judged) -> dict[str, Any]:
    """What each judge said: value, verdict, components, reasons."""
    row: dict[str, Any] = {}
    for score in entry.scores:
        row[score.judge] = plain(score.value)
        row[f"{score.judge} verdict"] = verdict_of(score) or ""
        row |= {f"{score.judge} {part.name}": plain(part.raw) for part in score.components}
        row[f"{score.judge} reasons"] = "; ".join(score.reasons)
    return row


def _score_json(score: Score) -> dict[str, Any]:
    return {
        "value": plain(score.value),
        "verdict": verdict_of(score),
        "components": [plain(part) | {"verdict": part.verdict} for part in score.components],
        "reasons": list(score.reasons),
        "details": plain(score.details),
    }


def _places(entries: Sequence[Judged]) -> tuple[int, ...]:
    """The place of every clip that could be judged."""
    takes = [entry.take for entry in entries if not entry.error]
    return rank_takes(takes).places if takes else ()


# -- HTML -------------------------------------------------------------------------------------


def write_html(path: Path, entries: Sequence[Judged]) -> None:
    """One page that needs no other file; all texts are escaped. Best clip first.

    Raises:
        OSError: the file cannot be written.
    """
    told = [entry for entry in entries if not entry.error]
    by_place = sorted(zip(_places(entries), told, strict=True), key=lambda pair: pair[0])
    parts = [_clip_html(entry, place) for place, entry in by_place]
    parts += [
        f"<article><h2>{escape(entry.path.name)}</h2><p class=bad>{escape(entry.error)}</p>"
        "</article>"
        for entry in entries
        if entry.error
    ]
    page = (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Scores</title>"
        f"<style>{STYLE}</style><h1>{len(entries)} clips</h1>{''.join(parts)}"
        f"{scales_html(told)}</html>\n"
    )
    path.write_text(page, encoding="utf-8")


def _clip_html(entry: Judged, place: int) -> str:
    return (
        f"<article><h2>{place}. {escape(entry.path.name)}</h2>{pictures_html(entry)}"
        f"<p class=quiet>{entry.seconds:.2f} s, {float(entry.fps):g} fps. {escape(entry.prompt)}"
        f"</p>{verdicts_html(entry)}</article>"
    )


def pictures_html(entry: Judged) -> str:
    """The pictures of a clip, inside the page."""
    return "".join(
        f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(picture).decode()}">'
        for picture in entry.thumbnails
    )


def verdicts_html(entry: Judged) -> str:
    """Tables, curves and reasons of all judges."""
    rows = "".join(_rows_html(score) for score in entry.scores)
    reasons = "".join(
        f"<li>{escape(f'{score.judge}: {reason}')}"
        for score in entry.scores
        for reason in score.reasons
    )
    curves = "".join(
        _curve_html(face.curve)
        for score in entry.scores
        if isinstance(score.details, SyncDetails)
        for face in score.details.faces
    )
    return f"<table>{rows}</table>{curves}<ul class=quiet>{reasons}</ul>"


def _rows_html(score: Score) -> str:
    value, verdict = value_and_verdict(score)
    head = f"<tr><th>{escape(score.judge)}<td class=n>{value}<td {_class(verdict)}>{verdict}"
    return head + "".join(_row_html(part) for part in score.components)


def _row_html(part: Component) -> str:
    verdict = part.verdict or ""
    return (
        f"<tr class=quiet><td>{escape(part.name)}<td class=n>{part.raw:.2f}"
        f"<td {_class(verdict)}>{verdict}"
    )


def _class(verdict: str) -> str:
    return f'class="{verdict.replace(" ", "-")}"'


def _curve_html(curve: SyncCurve) -> str:
    """Distance over offset as a line; the lowest point is where lips and sound fit best."""
    low, high = min(curve.distances), max(curve.distances)
    span = max(high - low, 1e-9)
    last = len(curve.distances) - 1
    points = " ".join(
        f"{PLOT_WIDTH * (last - j) / last:.1f},{PLOT_HEIGHT * (high - distance) / span:.1f}"
        for j, distance in enumerate(curve.distances)
    )
    return (
        f'<svg width="{PLOT_WIDTH}" height="{PLOT_HEIGHT}" role="img">'
        f"<title>sync distance from offset {min(curve.offsets)} to {max(curve.offsets)}, "
        f"best {curve.offset}</title>"
        f'<polyline points="{points}"/></svg>'
    )


def scales_html(entries: Sequence[Judged]) -> str:
    """What the verdicts are held to."""
    scales = {
        (score.judge, part.name): part.scale
        for entry in entries
        for score in entry.scores
        for part in score.components
        if part.scale is not None
    }
    lines = [
        f"<li>{escape(f'{judge} {name}')}: good from {scale.good:g}, doubtful from "
        f"{scale.doubtful:g}. {escape(scale.source)}"
        for (judge, name), scale in scales.items()
    ]
    return f"<h2>Scales</h2><ul>{''.join(lines)}</ul>"
