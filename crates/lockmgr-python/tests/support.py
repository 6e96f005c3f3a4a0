"""What the tests share: processes that play a part, and the kernel's word for who waits.

Nothing here sleeps to make sure of something: it looks until what it waits for has come, with a bound that only a
test that fails ever reaches.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BOUND = 60.0


def until(what: Callable[[], Any], say: str = "it") -> Any:
    """Looks until `what` returns something true, and returns that."""
    end = time.monotonic() + BOUND
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < end, f"{say} did not come"
        time.sleep(0.002)


def requests(path: str | os.PathLike[str]) -> int:
    """How many requests for a lock on the file the kernel has queued."""
    try:
        number = os.stat(path).st_ino
    except FileNotFoundError:
        return 0
    # MAJOR:MINOR:INODE, whose device is not always the one that stat knows.
    lines = Path("/proc/locks").read_text().splitlines()
    return sum("->" in line and f":{number} " in line for line in lines)


def until_blocked(path: str | os.PathLike[str], count: int = 1) -> None:
    """Looks until so many requests are queued in the kernel."""
    until(lambda: requests(path) >= count, f"a request that waits for {path}")


class Process:
    """A Python program of its own, to which one speaks in lines."""

    def __init__(self, program: str, *arguments: object, **options: Any) -> None:
        words = [sys.executable, "-c", PRELUDE + textwrap.dedent(program), *map(str, arguments)]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options)
        self.pid = self.process.pid
        self.read = b""

    def line(self) -> str:
        """Returns the next line that it prints."""
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        end = time.monotonic() + BOUND
        while b"\n" not in self.read:
            ready = select.select([fd], [], [], max(0.0, end - time.monotonic()))[0]
            assert ready, f"no line came; what did: {self.read!r}"
            piece = os.read(fd, 4096)
            assert piece, f"it has ended with {self.process.wait(BOUND)}; what came: {self.read!r}"
            self.read += piece
        line, self.read = self.read.split(b"\n", 1)
        return line.decode()

    def expect(self, wanted: str) -> None:
        line = self.line()
        assert line == wanted, f"{line!r} instead of {wanted!r}"

    def tell(self, line: str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        """Closes its input and returns its status."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(BOUND)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exception: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(BOUND)
        self.process.stdin.close()
        self.process.stdout.close()


PRELUDE = """\
import os, sys, time, signal, threading
import lockmgr

def say(*words):
    # In one piece, with the end of the line: a forked child says something at the same time.
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

"""

HOLDER = """
lock = lockmgr.Lock(sys.argv[1], **eval(sys.argv[2]))
with lock:
    say("held")
    sys.stdin.readline()
say("released")
sys.stdin.readline()
"""


@contextmanager
def holder(path: str | os.PathLike[str], **options: Any) -> Iterator[Process]:
    """Another process that holds the lock until it is told a line, or killed."""
    with Process(HOLDER, path, repr(options)) as process:
        process.expect("held")
        yield process


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


def threads_named(name: str) -> list[int]:
    """The threads of this process, Python's or not, that are called so."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        try:
            if (task / "comm").read_text().strip() == name:
                found.append(int(task.name))
        # It ends just now.
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


def until_no_waiter_threads() -> None:
    until(lambda: not threads_named("lockmgr-wait"), "the end of the waiter threads")
