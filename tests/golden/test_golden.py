"""Every golden file is checked by the function that its `kind` names; an unknown kind fails."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path

import pytest

from .facts import Facts
from .harness import DEFAULT_ROOT, RESULTS, Golden, golden_files, golden_root

STRICT = (DEFAULT_ROOT / "core", DEFAULT_ROOT / "vae")
"""Folders whose checks must heed every entry of a file: no size or switch may be hard-coded here.

Of other files only every result must be looked at: they may carry notes that we do not know.
"""

TABLES = {"audio_mel_stats", "audio_overlap_measurements"}


def _load_checks() -> dict[str, Callable[[Golden], None]]:
    """Collect `CHECKS` of every module `checks_*.py` beside this file."""
    found: dict[str, Callable[[Golden], None]] = {}
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if module.name.startswith("checks_"):
            checks = importlib.import_module(f"{__package__}.{module.name}").CHECKS
            assert not found.keys() & checks.keys(), "two checks for one kind"
            found |= checks
    return found


CHECKS = _load_checks()


@pytest.mark.parametrize(
    "golden", [pytest.param(g, id=f"{g.path.parent.name}/{g.path.stem}") for g in golden_files()]
)
def test_golden(golden: Golden):
    if golden.kind in TABLES:
        assert golden.meta.get("mean") or golden.meta.get("rows")
        return
    assert golden.kind in CHECKS, f"no check for kind {golden.kind!r}"
    try:
        CHECKS[golden.kind](golden)
    except Exception as error:
        unread = ", ".join(golden.meta.passed_over())
        raise AssertionError(f"{error!r}; entries that were not read: {unread}") from error
    strict = golden.path.parent in STRICT
    if golden.path.with_suffix(".safetensors").exists():
        assert not golden.overlooked(("",) if strict else RESULTS)
    assert not (strict and golden.meta.passed_over())


def test_an_entry_of_a_file_that_no_check_reads_is_noticed():
    facts = Facts({"kind": "x", "notes": "", "config": {"dim": 4, "new": 1}, "switch": True})
    assert facts["config"]["dim"] == 4
    assert facts.passed_over() == ["config.new", "switch"]


def test_there_are_golden_files():
    assert golden_files(), f"no golden files under {golden_root()}"
