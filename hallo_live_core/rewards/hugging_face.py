"""The optional package that brings two of the judges' networks."""

from __future__ import annotations

import importlib
from types import ModuleType

from ..errors import HalloLiveError


def transformers_module(name: str, judge: str) -> ModuleType:
    """The module ``transformers.<name>``, imported only when a judge is built.

    Raises:
        HalloLiveError: transformers is not installed, or too old to have it.
    """
    try:
        return importlib.import_module(f"transformers.{name}")
    except ImportError as error:
        raise HalloLiveError(
            f"The {judge} judge needs the package transformers, 4.50 or newer",
            found=str(error),
            fix='pip install "hallo-live[rewards]"',
        ) from error
