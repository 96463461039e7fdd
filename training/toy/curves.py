"""The curves of `train-tiny` as a picture, where matplotlib is installed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..logs import LOG_FILE

SHOWN = {
    "loss of what is trained": ("student/loss",),
    "loss of the critic": ("critic/loss",),
    "reward of rollouts": ("student/reward/high", "critic/reward/high"),
}
"""Panels, and the numbers of a log that they show: of each run the first that it has."""

WINDOW = 5
"""Steps that a point of a curve is the mean of."""


def read_curve(run: Path, names: Sequence[str]) -> tuple[list[int], list[float]]:
    """Steps and values of a number in a run's log; of a run that was cut the latest values."""
    lines = [json.loads(line) for line in (run / LOG_FILE).read_text().splitlines()]
    name = next((name for name in names if any(name in line for line in lines)), names[0])
    values = {int(line["step"]): float(line[name]) for line in lines if name in line}
    steps = sorted(values)
    smooth = [
        sum(values[s] for s in steps[max(0, i - WINDOW + 1) : i + 1]) / min(i + 1, WINDOW)
        for i in range(len(steps))
    ]
    return steps, smooth


def draw_curves(folder: Path, runs: Sequence[str], target: Path) -> bool:
    """Draw the curves of these runs; False where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(12, 4), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(1, len(SHOWN)), SHOWN.items(), strict=True):
        for run in runs:
            steps, values = read_curve(folder / run, names)
            if steps:
                axes.plot(steps, values, label=run)
        axes.set(title=title, xlabel="step", yscale="log" if "loss" in title else "linear")
        if axes.lines:
            axes.legend()
    figure.savefig(target)
    return True
