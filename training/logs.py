"""What a run says of itself: a JSON-lines file always, TensorBoard and wandb where asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from hallo_live_core.errors import HalloLiveError

LOG_FILE = "log.jsonl"
SHOWN = ("loss", "grad_norm")
"""What stands beside the progress bar, of every network."""


class Sink(Protocol):
    """Takes the numbers of a step."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of a step."""
        ...

    def close(self) -> None:
        """Finish; no numbers follow."""
        ...


class JsonLines:
    """One JSON object per line, on disk at once."""

    def __init__(self, folder: Path, _name: str) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / LOG_FILE).open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise HalloLiveError(
                f"The run cannot write to {folder}",
                found=error.strerror,
                fix="name another run.folder",
            ) from error

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """See `Sink`."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")

    def close(self) -> None:
        """See `Sink`."""
        self._file.close()


class TensorBoard:
    """Scalars for TensorBoard, which must be installed."""

    def __init__(self, folder: Path, _name: str) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise _missing("tensorboard") from error
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """See `Sink`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """See `Sink`."""
        self._writer.close()


class WeightsAndBiases:
    """Scalars for wandb, which must be installed; its environment variables apply."""

    def __init__(self, folder: Path, name: str) -> None:
        try:
            import wandb
        except ImportError as error:
            raise _missing("wandb") from error
        self._run: Any = wandb.init(project="hallo-live", name=name, dir=str(folder))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """See `Sink`."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """See `Sink`."""
        self._run.finish()


SINKS: dict[str, Callable[[Path, str], Sink]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
}


class Log:
    """All sinks of a run and its progress bar; `silent` (processes but the first) has none."""

    def __init__(
        self, folder: Path, extra: Sequence[str], *, first: int, last: int, silent: bool
    ) -> None:
        sinks = [] if silent else [*(SINKS[name] for name in extra), JsonLines]
        self._sinks = [sink(folder, folder.name) for sink in sinks]
        self._bar = tqdm(total=last, initial=first, desc=folder.name, disable=silent, leave=False)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        for sink in self._sinks:
            sink.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """The numbers of a step."""
        for sink in self._sinks:
            sink.write(step, values)
        main = {n: value for n, value in values.items() if n.rpartition("/")[2] in SHOWN}
        if main:
            shown = ", ".join(f"{name} {value:.4g}" for name, value in main.items())
            self._bar.set_postfix_str(shown, refresh=False)

    def advance(self) -> None:
        """A step is done."""
        self._bar.update()


def _missing(package: str) -> HalloLiveError:
    return HalloLiveError(
        f"This recipe logs to {package}, which is not installed",
        fix=f"pip install {package}, or take it out of run.log_to",
    )
