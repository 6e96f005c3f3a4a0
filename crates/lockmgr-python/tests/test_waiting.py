"""Waits are the kernel's: the GIL is free meanwhile, signals are handled at once, nothing is spent."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lockmgr import FileLock, Lock, LockSet, Semaphore
from support import Process, holder, until, until_blocked

WAITS = """
kind, path = sys.argv[1:3]
def handle(number, frame):
    say("handled", number)
signal.signal(signal.SIGUSR1, handle)
def tell():
    say("waiting")
if kind == "endless":
    wait = lockmgr.Lock(path).acquire
elif kind == "timed":
    wait = lambda: lockmgr.Lock(path).acquire(1000)
elif kind == "fair":
    wait = lockmgr.Lock(path, fair=True).acquire
elif kind == "ofd":
    wait = lambda: lockmgr.Lock(path, mechanism="ofd").acquire(1000)
elif kind == "set":
    wait = lockmgr.LockSet(lockmgr.Lock(path), lockmgr.Lock(path + "2")).acquire
elif kind == "mgr":
    wait = lambda: lockmgr.LockMgr(path).acquire_lock(wait=True, timeout=1000) or say("not acquired")
try:
    wait()
    say("acquired")
except KeyboardInterrupt:
    say("interrupted")
"""


@pytest.mark.parametrize("kind", ["endless", "timed", "fair", "ofd", "set", "mgr"])
def test_signal_handlers_run_during_a_wait_which_then_goes_on(path: Path, kind: str) -> None:
    with holder(path, mechanism="ofd" if kind == "ofd" else "flock") as other, Process(WAITS, kind, path) as waiter:
        until_blocked(path)
        for _ in range(3):
            waiter.signal(signal.SIGUSR1)
            waiter.expect(f"handled {signal.SIGUSR1}")
            until_blocked(path)
        other.tell()
        waiter.expect("acquired")


@pytest.mark.parametrize("kind", ["endless", "timed", "fair", "ofd", "set", "mgr"])
def test_ctrl_c_ends_a_wait_at_once(path: Path, kind: str) -> None:
    with holder(path, mechanism="ofd" if kind == "ofd" else "flock"), Process(WAITS, kind, path) as waiter:
        until_blocked(path)
        waiter.signal(signal.SIGINT)
        waiter.expect("interrupted")
        assert waiter.end() == 0


def test_ctrl_c_ends_a_wait_for_ones_turn_and_for_slots(path: Path) -> None:
    program = """
        kind, path = sys.argv[1:]
        if kind == "turn":
            lock = lockmgr.Lock(path)
        else:
            lock = lockmgr.Semaphore(path, 1)
        threading.Thread(target=lock.acquire).start()
        while not lock.locked():
            time.sleep(0.001)
        # Once more when it has begun to wait: a signal before that ends nothing but the loop.
        for number in range(3):
            try:
                say("waiting")
                lock.acquire()
            except KeyboardInterrupt:
                say("interrupted")
        lock.release()
        with lock.acquire(timeout=0):
            say("free")
    """
    for kind in ("turn", "slots"):
        with Process(program, kind, path) as waiter:
            for _ in range(3):
                waiter.expect("waiting")
                until(lambda: asleep(waiter.pid))
                waiter.signal(signal.SIGINT)
                waiter.expect("interrupted")
            waiter.expect("free")
            assert waiter.end() == 0


def asleep(pid: int) -> bool:
    """Whether the main thread of the process is in a call that waits: flock, futex, fcntl, poll, ppoll."""
    try:
        words = Path(f"/proc/{pid}/syscall").read_text().split()
    except OSError:
        pytest.skip("SKIPPED: the system calls of one's own children may not be looked at")
    # By their numbers, which differ; the tests of the library have them from libc.
    calls = {"x86_64": {"73", "202", "72", "7", "271"}, "aarch64": {"32", "98", "25", "73"}}
    known = calls.get(os.uname().machine)
    if known is None:
        pytest.skip(f"SKIPPED: the numbers of the system calls of {os.uname().machine} are not known here")
    return words[0] in known


@contextmanager
def pestered(handle: Callable[[int, object], None]) -> Iterator[None]:
    """This process gets a signal every few milliseconds. (Not SIGALRM, which belongs to pytest-timeout.)"""
    before = signal.signal(signal.SIGUSR1, handle)
    over = threading.Event()

    def pester() -> None:
        while not over.wait(0.01):
            os.kill(os.getpid(), signal.SIGUSR1)

    thread = threading.Thread(target=pester)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGUSR1, before)


def test_a_handler_that_raises_ends_the_wait_with_its_exception(path: Path) -> None:
    class Raised(Exception):
        pass

    waiting = False

    def handle(number: int, frame: object) -> None:
        nonlocal waiting
        if waiting:
            # Once.
            waiting = False
            raise Raised

    lock = Lock(path)
    with holder(path) as other, pestered(handle):
        with pytest.raises(Raised):
            waiting = True
            lock.acquire()
        assert not lock.locked()
        other.tell()
        lock.acquire(60)
        lock.release()


@pytest.mark.parametrize("kind", ["lock", "reentrant", "semaphore", "set", "file lock"])
@pytest.mark.parametrize("where", ["thread", "task"])
def test_nothing_is_held_after_a_with_wherever_ctrl_c_arrives(path: Path, kind: str, where: str) -> None:
    """A handler may run wherever Python code does: here whenever any of it begins."""
    kinds: dict[str, Callable[[], Any]] = {
        "lock": lambda: Lock(path),
        "reentrant": lambda: Lock(path, reentrant=True),
        "semaphore": lambda: Semaphore(path, 1),
        "set": lambda: LockSet(Lock(path)),
        "file lock": lambda: FileLock(path),
    }
    lock = kinds[kind]()

    def once(beginnings: int) -> bool:
        """Whether the last of so many was reached."""
        left = beginnings

        def interrupt(*_: object) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt

        try:
            sys.settrace(interrupt)
            with lock:
                pass
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        return left <= 0

    def work() -> None:
        beginnings = 1
        while once(beginnings):
            assert not (lock.is_locked if kind == "file lock" else lock.locked()), beginnings
            beginnings += 1
        kinds[kind]().acquire(timeout=0)

    async def task() -> None:
        work()

    if where == "thread":
        work()
    else:
        asyncio.run(task())


def test_signals_take_nothing_from_the_timeout(path: Path) -> None:
    handled = 0

    def handle(number: int, frame: object) -> None:
        nonlocal handled
        handled += 1

    with holder(path), pestered(handle):
        since = time.monotonic()
        with pytest.raises(TimeoutError):
            Lock(path).acquire(0.3)
        passed = time.monotonic() - since
    assert passed >= 0.3
    assert handled > 1


def test_a_wait_in_another_thread_leaves_signals_to_the_main_thread(path: Path) -> None:
    program = """
        lock = lockmgr.Lock(sys.argv[1])
        waiter = threading.Thread(target=lock.acquire)
        waiter.start()
        try:
            say("sleeping")
            while True:
                time.sleep(1000)
        except KeyboardInterrupt:
            say("interrupted")
        waiter.join()
        say("acquired", lock.locked())
    """
    with holder(path) as other, Process(program, path) as waiter:
        waiter.expect("sleeping")
        until_blocked(path)
        waiter.signal(signal.SIGINT)
        waiter.expect("interrupted")
        other.tell()
        waiter.expect("acquired True")


def test_the_gil_is_free_while_a_thread_waits(path: Path) -> None:
    """Were it not, nobody could release what it waits for."""
    lock, other = Lock(path), Lock(path)
    for waiting in (lock, other):
        for timeout in (None, 60):
            lock.acquire()
            waiter = threading.Thread(target=waiting.acquire, args=(timeout,))
            waiter.start()
            # A wait for one's turn is not the kernel's to show.
            if waiting is other:
                until_blocked(path)
            lock.release()
            waiter.join()
            waiting.release()


def test_the_gil_is_kept_while_the_lock_is_free(path: Path) -> None:
    """A thread that only ever gives the GIL back when asked to gets no say, unless the lock gives it away."""
    lock = Lock(path)
    with lock:
        pass
    started, stop = threading.Event(), False
    turns = 0

    def count() -> None:
        nonlocal turns
        started.set()
        while not stop:
            turns += 1

    def cycles() -> bool:
        """Whether the other thread got a turn during some cycles of a free lock."""
        # Now it has the GIL, and gets it again when this thread gives it away, or after the interval.
        time.sleep(0.001)
        before = turns
        # So often that the other thread, which has to wake up first, meets a moment without the GIL if there is one.
        for _ in range(3000):
            with lock:
                pass
            with lock.acquire(timeout=1):
                pass
        return turns != before

    interval = sys.getswitchinterval()
    counter = threading.Thread(target=count)
    counter.start()
    started.wait()
    try:
        sys.setswitchinterval(0.5)
        # A request from before may be under way, and on a busy machine the interval may pass meanwhile.
        assert not all(cycles() for _ in range(4))
    finally:
        sys.setswitchinterval(interval)
        stop = True
        counter.join()


def switches(pid: int) -> int:
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if line.startswith(("voluntary_ctxt_switches", "nonvoluntary_ctxt_switches")):
                total += int(line.split()[1])
    return total


@pytest.mark.parametrize("kind", ["endless", "timed"])
def test_a_waiter_does_not_wake_up(path: Path, kind: str) -> None:
    with holder(path), Process(WAITS, kind, path) as waiter:
        until_blocked(path)
        until(lambda: rested(waiter.pid), "rest")
        before = switches(waiter.pid)
        time.sleep(1)
        assert switches(waiter.pid) == before


def rested(pid: int) -> bool:
    before = switches(pid)
    time.sleep(0.05)
    return switches(pid) == before
