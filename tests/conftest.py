"""What tests of several kinds share."""

from __future__ import annotations

from pathlib import Path

import pytest

from hallo_live_core.checkpoints.tiny import write_tiny_models


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory) -> Path:
    """A folder with the complete set of tiny files in the published layouts. Do not write to it."""
    return write_tiny_models(tmp_path_factory.mktemp("tiny"))
