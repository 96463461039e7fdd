"""Named tensors by the thousand: safetensors shards and manifests that say what is complete.

A folder holds shards and, per writer, a manifest of one JSON line per finished shard. A line is
written after its shard, so whatever a manifest names is whole. Interrupted writers start again
behind their last line; writers on several machines share a folder without talking.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Protocol

from torch import Tensor

from hallo_live_core.checkpoints.safetensors_writer import write_safetensors
from hallo_live_core.errors import HalloLiveError

SEPARATOR = "/"
READ_BYTES = 2**20
ENTRIES = {"file", "nbytes", "sha256", "samples"}
"""Of a manifest's line."""


class DataError(HalloLiveError):
    """Training data are missing, damaged, or of another shape."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One entry of a store: its tensors, and what else is known of it."""

    tensors: dict[str, Tensor]
    info: dict[str, Any]


class Samples(Protocol):
    """A store of samples, by key."""

    @property
    def keys(self) -> list[str]:
        """All keys, sorted, so that every machine counts alike."""
        ...

    def info(self, key: str, /) -> dict[str, Any]:
        """What else is known of a sample, without reading its tensors."""
        ...

    def __getitem__(self, key: str, /) -> Sample: ...


class ShardWriter:
    """Adds samples to a folder; `worker` tells the writers of one folder apart.

    Raises:
        DataError: nothing can be written there; said before there is anything to write.
    """

    def __init__(self, folder: Path, *, worker: int = 0, samples_per_shard: int = 64) -> None:
        self.folder, self.worker = Path(folder), worker
        self.samples_per_shard = samples_per_shard
        self._pending: dict[str, Sample] = {}
        self._manifest = self.folder / f"manifest-{worker:05d}.jsonl"
        _make_writable(self.folder)
        _drop_unfinished_line(self._manifest)
        self._next = sum(1 for _ in _lines(self._manifest))

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def add(self, key: str, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
        """Take a sample; it is on disk after `samples_per_shard` of them, or `flush`."""
        self._pending[key] = Sample(tensors, info)
        if len(self._pending) >= self.samples_per_shard:
            self.flush()

    def flush(self) -> None:
        """Write what is pending as one shard, then its line in the manifest."""
        if not self._pending:
            return
        path = self.folder / f"shard-{self.worker:05d}-{self._next:06d}.safetensors"
        flat = {
            key + SEPARATOR + name: tensor
            for key, sample in self._pending.items()
            for name, tensor in sample.tensors.items()
        }
        write_safetensors(path, flat, metadata={"format": "pt"})
        line = {
            "file": path.name,
            "nbytes": path.stat().st_size,
            "sha256": sha256(path),
            "samples": {
                key: {
                    "info": sample.info,
                    "shapes": {name: list(t.shape) for name, t in sample.tensors.items()},
                }
                for key, sample in self._pending.items()
            },
        }
        with self._manifest.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._next += 1
        self._pending.clear()


class ShardStore:
    """Reads a folder of shards; what is damaged is found when it is opened.

    verify: also compare checksums, which reads everything.

    Raises:
        DataError: no manifest, a shard is missing, of another size, or (verify) altered.
    """

    def __init__(self, folder: Path, *, verify: bool = False) -> None:
        self.folder = Path(folder)
        self._where: dict[str, tuple[Path, dict[str, Any]]] = {}
        manifests = sorted(self.folder.glob("manifest-*.jsonl"))
        if not manifests:
            raise DataError(
                f"{self.folder} holds no data",
                found="no manifest-*.jsonl in it",
                fix="name a folder that the phase before has written",
            )
        for manifest in manifests:
            for line in _lines(manifest):
                path = self.folder / line["file"]
                _check_shard(path, line, verify=verify)
                for key, entry in line["samples"].items():
                    self._where[key] = (path, entry)

    @property
    def keys(self) -> list[str]:
        """See `Samples`."""
        return sorted(self._where)

    def shapes(self, key: str) -> dict[str, tuple[int, ...]]:
        """Shapes of a sample's tensors, without reading them."""
        return {name: tuple(shape) for name, shape in self._where[key][1]["shapes"].items()}

    def info(self, key: str) -> dict[str, Any]:
        """See `Samples`."""
        return self._where[key][1]["info"]

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, key: str) -> bool:
        return key in self._where

    def __getitem__(self, key: str) -> Sample:
        from safetensors import SafetensorError, safe_open

        path, entry = self._where[key]
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {
                    name: file.get_tensor(key + SEPARATOR + name) for name in entry["shapes"]
                }
        except (SafetensorError, OSError) as error:
            raise DataError(f"{path} is damaged", found=error, fix="copy it again") from error
        return Sample(tensors, entry["info"])


def finished_keys(folder: Path) -> set[str]:
    """Keys that any writer has finished; of a folder that does not exist, none."""
    manifests = Path(folder).glob("manifest-*.jsonl")
    return {key for manifest in manifests for line in _lines(manifest) for key in line["samples"]}


def check_shapes(store: ShardStore, wanted: Mapping[str, tuple[int | None, ...]]) -> None:
    """Every sample must have these tensors, of these shapes; None stands for any length.

    Raises:
        DataError: one has not.
    """
    for key in store.keys:
        shapes = store.shapes(key)
        for name, shape in wanted.items():
            found = shapes.get(name)
            fits = found is not None and len(found) == len(shape)
            if not fits or any(w not in (None, f) for w, f in zip(shape, found or (), strict=True)):
                raise DataError(
                    f"{name} of sample {key} in {store.folder} does not fit the recipe",
                    found="no such tensor" if found is None else list(found),
                    fix=f"make data of shape {['any' if w is None else w for w in shape]}, "
                    "or correct the recipe's clip",
                )


def sha256(path: Path) -> str:
    """Checksum of a file, read piece by piece."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _check_shard(path: Path, line: dict[str, Any], *, verify: bool) -> None:
    if not path.is_file():
        raise DataError(
            f"The shard {path} is missing", fix="copy it again, or remove its line in the manifest"
        )
    found = path.stat().st_size
    if found != line["nbytes"]:
        raise DataError(
            f"The shard {path} is truncated or altered",
            found=f"{found:,} bytes instead of {line['nbytes']:,}",
            fix="copy it again, or delete it with its line in the manifest and make it anew",
        )
    if verify and sha256(path) != line["sha256"]:
        raise DataError(
            f"The shard {path} is altered", found="another checksum", fix="copy it again"
        )


def _make_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written to", found=error.strerror, fix="name another folder"
        ) from error


def _drop_unfinished_line(manifest: Path) -> None:
    """What a killed writer left behind its last line."""
    if manifest.exists():
        content = manifest.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(manifest, whole)


def _lines(manifest: Path) -> Iterator[dict[str, Any]]:
    """Whole lines; the last one of a writer that was killed while writing it does not count.

    Raises:
        DataError: a line is not what a `ShardWriter` writes.
    """
    if not manifest.exists():
        return
    texts = manifest.read_bytes().splitlines(keepends=True)
    for number, text in enumerate(texts, start=1):
        if not text.endswith(b"\n"):
            continue
        line = _read_line(text)
        if line is None:
            raise DataError(f"{manifest} is damaged", found=f"line {number}", fix="copy it again")
        yield line


def _read_line(text: bytes) -> dict[str, Any] | None:
    """None for what no writer has written."""
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and line.keys() >= ENTRIES else None
