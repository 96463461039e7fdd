"""What tests of several kinds share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from hallo_live_core.checkpoints.tiny import write_tiny_models

# Tiny networks are slower on many threads than on one, far slower where cores are busy.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory) -> Path:
    """A folder with the complete set of tiny files in the published layouts. Do not write to it."""
    return write_tiny_models(tmp_path_factory.mktemp("tiny"))
