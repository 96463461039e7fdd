"""Students side by side: a table for programs, a sheet of pictures, a page for people."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from hallo_live_core.errors import HalloLiveError
from hallo_live_core.judging.report import (
    STYLE,
    Judged,
    pictures_html,
    plain,
    scales_html,
    score_columns,
    verdicts_html,
    write_rows,
)

CSV_NAME, SHEET_NAME, PAGE_NAME = "scores.csv", "contact_sheet.png", "report.html"

CELL, LABEL, GAP = (240, 180), 16, 6
"""Pixels of the contact sheet: size of a picture, height of a line of text, space between."""

SIDE_BY_SIDE = """
body{max-width:none}section{border-top:1px solid #8888;padding:1rem 0}
.row{display:flex;gap:1.5rem;overflow-x:auto}.row>div{flex:0 0 auto;max-width:30rem}
.row img{max-height:9rem}
"""

Found = Mapping[str, Sequence[Judged]]
"""By student: its clips in the order of the jobs."""


class Job(NamedTuple):
    """One clip of every student."""

    prompt: str
    seed: int


def write_comparison(
    folder: Path, found: Found, jobs: Sequence[Job], absent: Mapping[str, str]
) -> None:
    """Write table, sheet and page into `folder`; absent: judges that were not asked, and why.

    Raises:
        HalloLiveError: a file cannot be written, or Pillow is missing.
    """
    try:
        write_rows(folder / CSV_NAME, list(_rows(found, jobs)))
        page = comparison_html(folder, found, jobs, absent)
        (folder / PAGE_NAME).write_text(page, encoding="utf-8")
        (folder / SHEET_NAME).write_bytes(contact_sheet(found, jobs))
    except OSError as error:
        raise HalloLiveError(
            f"The report cannot be written into {folder}",
            found=error,
            fix="check the folder and the free space",
        ) from error


def _rows(found: Found, jobs: Sequence[Job]) -> list[dict[str, Any]]:
    return [
        {
            "student": student,
            "prompt": job.prompt,
            "seed": job.seed,
            "file": entry.path.name,
            "seconds": plain(entry.seconds),
            "error": entry.error,
        }
        | score_columns(entry)
        for student, entries in found.items()
        for job, entry in zip(jobs, entries, strict=True)
    ]


# -- the sheet ------------------------------------------------------------------------------------


def contact_sheet(found: Found, jobs: Sequence[Job]) -> bytes:
    """A PNG: a row per prompt and seed, a column per student, the middle picture of each clip.

    Raises:
        HalloLiveError: Pillow is missing.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise HalloLiveError(
            "The contact sheet needs the package pillow", fix='pip install "hallo-live[train]"'
        ) from error
    width, height = CELL[0] + GAP, CELL[1] + LABEL + GAP
    sheet = Image.new("RGB", (GAP + width * len(found), GAP + LABEL + height * len(jobs)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, (student, entries) in enumerate(found.items()):
        left = GAP + column * width
        draw.text((left, GAP // 2), _ascii(student), fill="black")
        for row, (job, entry) in enumerate(zip(jobs, entries, strict=True)):
            top = GAP + LABEL + row * height
            label = f"{job.seed} {job.prompt}" if not entry.error else f"failed: {entry.error}"
            draw.text((left, top), _ascii(label), fill="red" if entry.error else "black")
            if entry.thumbnails:
                middle = entry.thumbnails[len(entry.thumbnails) // 2]
                picture = Image.open(io.BytesIO(middle))
                picture.thumbnail(CELL)
                sheet.paste(picture, (left, top + LABEL))
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def _ascii(text: str) -> str:
    """What every font can draw, and no more of it than fits a column."""
    return text.encode("ascii", "replace").decode()[: CELL[0] // 6].replace("\n", " ")


# -- the page -------------------------------------------------------------------------------------


def comparison_html(
    folder: Path, found: Found, jobs: Sequence[Job], absent: Mapping[str, str]
) -> str:
    """One page with its pictures inside and links to the clips; all texts are escaped."""
    told = [entry for entries in found.values() for entry in entries if not entry.error]
    missing = "".join(
        f"<li>{escape(f'{name} was not asked: {reason}')}" for name, reason in absent.items()
    )
    sections = "".join(
        f"<section><h2>{escape(job.prompt)}</h2><p class=quiet>seed {job.seed}</p>"
        f"<div class=row>{''.join(_cell(folder, s, entries[i]) for s, entries in found.items())}"
        "</div></section>"
        for i, job in enumerate(jobs)
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Students</title>"
        f"<style>{STYLE}{SIDE_BY_SIDE}</style>"
        f"<h1>{len(found)} students, {len(jobs)} clips each</h1>"
        f"{_summary(found)}<ul class=quiet>{missing}</ul>{sections}{scales_html(told)}</html>\n"
    )


def _cell(folder: Path, student: str, entry: Judged) -> str:
    if entry.error:
        return f"<div><h3>{escape(student)}</h3><p class=bad>{escape(entry.error)}</p></div>"
    link = escape(entry.path.relative_to(folder).as_posix(), quote=True)
    return (
        f'<div><h3>{escape(student)}</h3><a href="{link}">{pictures_html(entry)}</a>'
        f"{verdicts_html(entry)}</div>"
    )


def _summary(found: Found) -> str:
    """Mean value of every judge over the clips that it could tell, per student."""
    judges = dict.fromkeys(s.judge for entries in found.values() for e in entries for s in e.scores)
    head = "".join(f"<th>{escape(judge)}<th>told" for judge in judges)
    rows = "".join(
        f"<tr><th>{escape(student)}<td class=n>{sum(not e.error for e in entries)}"
        + "".join(_mean_cell(entries, judge) for judge in judges)
        for student, entries in found.items()
    )
    return f"<table><tr><th>student<th>clips{head}{rows}</table>"


def _mean_cell(entries: Sequence[Judged], judge: str) -> str:
    values = [
        score.value
        for entry in entries
        for score in entry.scores
        if score.judge == judge and score.value is not None
    ]
    mean = f"{sum(values) / len(values):.2f}" if values else "-"
    return f"<td class=n>{mean}<td class=n>{len(values)}"
