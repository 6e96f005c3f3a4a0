"""The programs in examples/python do what they say."""

from __future__ import annotations

import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path

from support import Process, until_blocked

EXAMPLES = Path(__file__).resolve().parents[3] / "examples" / "python"


def test_the_classic_demonstration() -> None:
    out = subprocess.run([sys.executable, EXAMPLES / "workers.py"], capture_output=True, text=True, check=True).stdout
    signs = out.split()
    assert len(signs) == 18
    for entered, left in zip(signs[::2], signs[1::2], strict=True):
        assert re.fullmatch(r"\+\[\d\]", entered)
        assert left == entered.replace("+", "-")
    assert sorted(signs[::2]) == sorted(f"+[{number}]" for number in range(3) for _ in range(3))


TERMINAL = """
import runpy
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def terminal(lock_file: Path) -> Process:
    return Process(TERMINAL, EXAMPLES / "two_terminals.py", lock_file)


def test_two_terminals(path: Path) -> None:
    mine = "It is mine. Press Enter to give it back."
    with terminal(path) as first, terminal(path.with_name("other")) as apart:
        first.expect(mine)
        apart.expect(mine)
        with terminal(path) as second, terminal(path) as third:
            for waiter in (second, third):
                assert waiter.line().startswith(f"Held by pid {first.pid} (")
            until_blocked(path, 2)
            third.signal(signal.SIGINT)
            third.expect("Never mind.")
            assert third.end() == 130
            first.tell()
            first.expect("Given back.")
            assert first.end() == 0
            second.expect(mine)
            with terminal(path) as last:
                assert last.line().startswith(f"Held by pid {second.pid} (")
                until_blocked(path)
                second.signal(signal.SIGKILL)
                last.expect(mine)
                last.tell()
                last.expect("Given back.")


def test_they_can_be_imported() -> None:
    """As multiprocessing does it in the workers of spawn."""
    for example in EXAMPLES.glob("*.py"):
        assert "main" in runpy.run_path(str(example), run_name="not main")
