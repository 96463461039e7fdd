"""The sizes of a transformer as JSON in the metadata of a safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..config import StreamConfig, TransformerConfig
from ..errors import CheckpointError

KEY = "hallo_live_config"
"""Name of the entry."""


def config_to_metadata(config: TransformerConfig) -> dict[str, str]:
    """The entry for these sizes."""
    return {KEY: json.dumps(asdict(config), sort_keys=True)}


def config_from_metadata(metadata: Mapping[str, str], source: str) -> TransformerConfig | None:
    """The sizes in the metadata of a file, None if it has none.

    Raises:
        CheckpointError: the entry cannot be understood.
    """
    if KEY not in metadata:
        return None
    try:
        stored = json.loads(metadata[KEY])
        return TransformerConfig(
            video=_stream(stored.pop("video")), audio=_stream(stored.pop("audio")), **stored
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"The metadata of {source} cannot be understood",
            found=f"{KEY}: {error}",
            fix="convert the file again from the published one",
        ) from error


def _stream(stored: dict[str, Any]) -> StreamConfig:
    return StreamConfig(patch=tuple(stored.pop("patch")), **stored)
