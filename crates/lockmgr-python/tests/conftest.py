"""Fixtures of all tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# asyncio.timeout and asyncio.Runner came with 3.11; what they try is the same for all.
collect_ignore = ["test_asyncio.py"] if sys.version_info < (3, 11) else []


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A lock file of this test's own."""
    return tmp_path / "a.lock"
