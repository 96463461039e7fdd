"""The reference's LMDB layout of trajectories, both ways (spec 06 §2).

Raw float16 rows under `video_latents_<i>_data` and `audio_latents_<i>_data`, UTF-8 prompts under
`prompts_<i>_data`, shapes as ASCII decimals under `<name>_shape`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hallo_live_core.errors import HalloLiveError

from .shards import DataError, Sample, Samples

NAMES = {"video": "video_latents", "audio": "audio_latents"}
PROMPTS = "prompts"
FLOAT16 = 2
"""Bytes of a stored value."""

MAP_BYTES_SPARE = 2**26
"""Room for the tree of the database beside its values."""


class LmdbPairs:
    """Reads an environment; keys are row numbers. Sizes of all rows are looked at when it opens.

    Raises:
        DataError: the environment is damaged, a row is missing or truncated, or of another shape.
        HalloLiveError: lmdb is not installed.
    """

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.path, self._shapes = Path(path), dict(shapes)
        lmdb = _lmdb()
        try:
            self._environment = lmdb.open(str(path), readonly=True, lock=False, readahead=False)
        except lmdb.Error as error:
            raise DataError(
                f"{path} cannot be opened as LMDB", found=error, fix="copy data.mdb again"
            ) from error
        counts = set()
        for name, stored in NAMES.items():
            count, *shape = self._shape(stored)
            counts.add(count)
            if tuple(shape) != self._shapes[name]:
                raise DataError(
                    f"{stored} in {path} do not fit the recipe",
                    found=shape,
                    fix=f"make data of shape {list(self._shapes[name])}, or correct the clip",
                )
        if len(counts) != 1:
            raise DataError(f"{path} has unequal numbers of rows", found=sorted(counts))
        self._count = counts.pop()
        self._check_rows()

    @property
    def keys(self) -> list[str]:
        """See `Samples`."""
        return [f"{i:09d}" for i in range(self._count)]

    def info(self, key: str) -> dict[str, Any]:
        """See `Samples`."""
        return {"prompt": self._get(f"{PROMPTS}_{int(key)}_data").decode()}

    def __getitem__(self, key: str) -> Sample:
        tensors = {}
        for name, stored in NAMES.items():
            data = self._get(f"{stored}_{int(key)}_data")
            values = np.frombuffer(data, dtype=np.float16).reshape(self._shapes[name])
            tensors[name] = torch.from_numpy(values.astype(np.float32))
        return Sample(tensors, self.info(key))

    def _check_rows(self) -> None:
        """Sizes only: what a row holds stays on disk."""
        with self._environment.begin(buffers=True) as transaction:
            for row in range(self._count):
                for name, stored in NAMES.items():
                    value = transaction.get(f"{stored}_{row}_data".encode())
                    found, wanted = len(value or b""), FLOAT16 * math.prod(self._shapes[name])
                    if found != wanted:
                        raise DataError(
                            f"Row {row} of {stored} in {self.path} is missing or truncated",
                            found=f"{found:,} bytes instead of {wanted:,}",
                            fix="copy the environment again",
                        )

    def _shape(self, name: str) -> list[int]:
        return [int(size) for size in self._get(f"{name}_shape").decode("ascii").split()]

    def _get(self, key: str) -> bytes:
        with self._environment.begin() as transaction:
            value = transaction.get(key.encode())
        if value is None:
            raise DataError(f"{self.path} holds no trajectories", found=f"no entry {key}")
        return bytes(value)


def write_lmdb(samples: Samples, path: Path) -> int:
    """Write trajectories in the reference's layout; of equal prompts the first. Returns the rows.

    Raises:
        DataError: samples differ in shape, or there are none.
        HalloLiveError: lmdb is not installed.
    """
    lmdb = _lmdb()
    firsts: dict[str, str] = {}
    for key in samples.keys:
        firsts.setdefault(str(samples.info(key)["prompt"]), key)
    if not firsts:
        raise DataError("There are no trajectories to write")
    first = samples[next(iter(firsts.values()))].tensors
    shapes = {name: tuple(first[name].shape) for name in NAMES}
    nbytes = FLOAT16 * sum(math.prod(shape) for shape in shapes.values()) * len(firsts)
    Path(path).mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(path), map_size=2 * nbytes + MAP_BYTES_SPARE) as environment:
        for row, (prompt, key) in enumerate(firsts.items()):
            with environment.begin(write=True) as transaction:
                _put_row(transaction, row, samples[key], shapes)
                transaction.put(f"{PROMPTS}_{row}_data".encode(), prompt.encode())
        with environment.begin(write=True) as transaction:
            for name, stored in NAMES.items():
                text = " ".join(map(str, (len(firsts), *shapes[name])))
                transaction.put(f"{stored}_shape".encode(), text.encode("ascii"))
            transaction.put(f"{PROMPTS}_shape".encode(), str(len(firsts)).encode("ascii"))
    return len(firsts)


def _put_row(
    transaction: Any,  # noqa: ANN401 - lmdb has no types
    row: int,
    sample: Sample,
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    for name, stored in NAMES.items():
        tensor = sample.tensors[name]
        if tuple(tensor.shape) != shapes[name]:
            raise DataError("Trajectories differ in shape", found=f"{list(tensor.shape)}, {name}")
        transaction.put(f"{stored}_{row}_data".encode(), tensor.half().numpy().tobytes())


def _lmdb() -> Any:  # noqa: ANN401 - lmdb has no types
    try:
        import lmdb
    except ImportError as error:
        raise HalloLiveError(
            "Reading or writing the reference's trajectories needs the package lmdb",
            fix="pip install lmdb, or use folders of shards",
        ) from error
    return lmdb
