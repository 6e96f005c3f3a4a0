"""Fixtures of all tests."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

# asyncio.timeout and asyncio.Runner came with 3.11; what they try is the same for all.
collect_ignore = ["test_asyncio.py"] if sys.version_info < (3, 11) else []

# A run in the background of a shell script, or under nohup, is started with some signals ignored, and hands that on to
# the programs that the tests start. Two are ignored by Python itself.
for _number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_SETMASK, ())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A lock file of this test's own."""
    return tmp_path / "a.lock"
