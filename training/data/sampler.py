"""Which sample comes when: a pure function of seed and position, so resuming needs one number."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Sequence
from functools import lru_cache

import torch

from hallo_live_core.functional.noise import keyed_generator

from .shards import DataError

LOGGER = logging.getLogger(__name__)
FINGERPRINT_DIGITS = 16
CACHED_EPOCHS = 2
"""Batches cross from one epoch into the next, so two orders are wanted at a time."""


class EndlessOrder:
    """Keys in an order of their own for every epoch, without end.

    Position p is the p-th sample ever drawn. `skip` are keys to leave out.

    Raises:
        DataError: nothing is left.
    """

    def __init__(self, keys: Sequence[str], *, seed: int, skip: Collection[str] = ()) -> None:
        left_out = set(skip)
        self.keys = [key for key in keys if key not in left_out]
        self.seed = seed
        if not self.keys:
            raise DataError("There is no sample to train on", found=f"{len(keys)}, all skipped")

    def __getitem__(self, position: int) -> str:
        epoch, index = divmod(position, len(self.keys))
        return self.keys[_permutation(self.seed, epoch, len(self.keys))[index]]

    @property
    def fingerprint(self) -> str:
        """What data this is an order of: number of samples and checksum of their keys."""
        digest = hashlib.sha256("\n".join(self.keys).encode()).hexdigest()[:FINGERPRINT_DIGITS]
        return f"{len(self.keys)} samples, {digest}"

    def check(self, stored: str | None) -> None:
        """Warn when a run goes on with other data than those of its checkpoint; None: not known."""
        if stored is not None and stored != self.fingerprint:
            LOGGER.warning(
                "The data are not those of the checkpoint (%s, now %s): their order is another",
                stored,
                self.fingerprint,
            )

    def batch(self, number: int, size: int) -> list[str]:
        """The keys of the `number`-th batch of `size` samples, both counted over all processes."""
        return [self[number * size + i] for i in range(size)]


@lru_cache(maxsize=CACHED_EPOCHS)
def _permutation(seed: int, epoch: int, length: int) -> list[int]:
    return torch.randperm(length, generator=keyed_generator(seed, f"epoch {epoch}")).tolist()
