"""`ReadWriteLock` with real processes and threads."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import signal
import sys
import tempfile
import threading
import weakref
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from lockmgr import AsyncReadWriteLock, DeadlockError, FileLock, ReadWriteLock, Timeout
from support import BOUND, Process, requests, until, until_blocked

HOLDER = """
lock = lockmgr.ReadWriteLock(sys.argv[1])
getattr(lock, "acquire_" + sys.argv[2])()
say("held")
sys.stdin.readline()
lock.release()
say("released")
sys.stdin.readline()
"""


def test_readers_of_processes_are_together(path: Path) -> None:
    with Process(HOLDER, path, "read") as one, Process(HOLDER, path, "read") as two:
        one.expect("held")
        two.expect("held")
        lock = ReadWriteLock(path)
        with lock.read_lock(timeout=BOUND), pytest.raises(RuntimeError, match="upgraded"):
            lock.acquire_write(0)
        with pytest.raises(Timeout):
            lock.acquire_write(0.01)
        # One reading of the kernel's table may miss a line.
        until(lambda: {one.pid, two.pid} == {holder.pid for holder in lock.holders()}, "both of them")


def test_a_writer_is_alone(path: Path) -> None:
    with Process(HOLDER, path, "write") as writer:
        writer.expect("held")
        lock = ReadWriteLock(path)
        for acquire in (lock.acquire_read, lock.acquire_write):
            with pytest.raises(Timeout):
                acquire(0)
        writer.signal(signal.SIGKILL)
        with lock.read_lock(timeout=BOUND):
            pass


def test_readers_do_not_overtake_a_writer(path: Path) -> None:
    """A reader who comes after a writer waits behind it, though those inside are readers."""
    with Process(HOLDER, path, "read") as reader:
        reader.expect("held")
        with Process(HOLDER, path, "write") as writer:
            until_blocked(path)
            late = ReadWriteLock(path)
            came: list[str] = []

            def read() -> None:
                with late.read_lock():
                    came.append("read")

            thread = threading.Thread(target=read)
            thread.start()
            until_blocked(path, 2)
            assert not came
            reader.tell()
            writer.expect("held")
            until_blocked(path)
            assert not came
            writer.tell()
            thread.join(BOUND)
            assert came == ["read"]


def test_a_try_of_a_reader_goes_past(path: Path) -> None:
    """One attempt waits for nobody, and those inside are readers."""
    with Process(HOLDER, path, "read") as reader:
        reader.expect("held")
        with Process(HOLDER, path, "write"):
            until_blocked(path)
            lock = ReadWriteLock(path)
            with lock.read_lock(timeout=0):
                pass
            with lock.read_lock(blocking=False):
                pass


def test_threads_take_turns(path: Path, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    lock = ReadWriteLock(path)
    torn: list[str] = []

    def write() -> None:
        for _ in range(50):
            with lock.write_lock(), lock.write_lock():
                number = int(counter.read_text())
                counter.write_text("")
                counter.write_text(str(number + 1))

    def read() -> None:
        for _ in range(50):
            with lock.read_lock():
                if not counter.read_text():
                    torn.append("a reader beside a writer")

    threads = [threading.Thread(target=target) for target in (write, write, read, read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    assert counter.read_text() == "100"
    assert not torn


def test_waiting_for_oneself(path: Path) -> None:
    one, two = ReadWriteLock(path), ReadWriteLock(path, is_singleton=False)
    for held, wanted in ((one.read_lock, two.acquire_write), (one.write_lock, two.acquire_read)):
        with held():
            with pytest.raises(DeadlockError):
                wanted()
            with pytest.raises(Timeout):
                wanted(0.01)
    with one.write_lock():
        pass


def test_reading_twice_while_a_writer_waits(path: Path) -> None:
    """Through another object, past the gate, at which the writer waits for what this thread has."""
    one, two = ReadWriteLock(path), ReadWriteLock(path, is_singleton=False)
    with one.read_lock(), Process(HOLDER, path, "write") as writer:
        until_blocked(path)
        with two.read_lock(), one.read_lock():
            pass
        one.release()
        writer.expect("held")
        writer.tell()
        writer.expect("released")
        one.acquire_read()


def test_ctrl_c_ends_a_wait(path: Path) -> None:
    program = """
    lock = lockmgr.ReadWriteLock(sys.argv[1])
    say("go")
    try:
        lock.acquire_read()
    except KeyboardInterrupt:
        say("interrupted")
    """
    with ReadWriteLock(path).write_lock(), Process(program, path) as waiter:
        waiter.expect("go")
        until_blocked(path)
        waiter.signal(signal.SIGINT)
        waiter.expect("interrupted")
        until(lambda: requests(path) == 0, "the end of the request")


def test_a_forked_child_holds_nothing(path: Path) -> None:
    lock = ReadWriteLock(path)
    with lock.write_lock():
        child = os.fork()
        if child == 0:
            status = 1
            try:
                lock.release(force=True)
                lock.close()
                own = ReadWriteLock(path)
                assert own is not lock
                own.acquire_read(0)
            except Timeout:
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        with pytest.raises(Timeout):
            ReadWriteLock(path, is_singleton=False).acquire_read(0)


def test_what_nobody_refers_to_is_released(path: Path) -> None:
    lock = ReadWriteLock(path)
    lock.acquire_write()
    gone = weakref.ref(lock)
    del lock
    gc.collect()
    assert gone() is None
    ReadWriteLock(path).acquire_write(0)
    ReadWriteLock(path).close()


def test_of_what_is_gone_other_objects_keep_nothing(path: Path) -> None:
    class Ours(ReadWriteLock):
        pass

    async def main() -> None:
        for kind in (AsyncReadWriteLock, AsyncReadWriteLock):
            await kind(path).acquire_write(0)

    staying = [ReadWriteLock(path), AsyncReadWriteLock(path)]
    Ours(path).acquire_write(0)
    asyncio.run(main())
    ReadWriteLock(path, is_singleton=False).acquire_write(0)
    assert staying


def test_an_object_that_is_closed_while_it_waits(path: Path) -> None:
    lock = AsyncReadWriteLock(path)
    threads_lock = ReadWriteLock(path, is_singleton=False)
    came: list[str] = []

    def wait() -> None:
        with pytest.raises(ValueError, match="closed"):
            threads_lock.acquire_write()
        came.append("refused")

    async def main() -> None:
        with pytest.raises(ValueError, match="closed"):
            await lock.acquire_write()
        came.append("refused")

    with FileLock(path):
        threads = [threading.Thread(target=target) for target in (wait, lambda: asyncio.run(main()))]
        for thread in threads:
            thread.start()
        until_blocked(path, 2)
        threads_lock.close()
        asyncio.run(lock.close())
    for thread in threads:
        thread.join(BOUND)
    assert came == ["refused", "refused"]
    FileLock(path).acquire(0)


def test_where_there_can_be_no_gate(path: Path) -> None:
    """In a file that may not be written there is none; the lock is one all the same."""
    program = """
    if os.geteuid() == 0:
        os.seteuid(65534)
    lock = lockmgr.ReadWriteLock(sys.argv[1])
    with lock.read_lock():
        say("read")
    with lock.write_lock():
        say("written")
    """
    # Not below pytest's own directory, into which only its user may look.
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        readable = Path(directory, "a.lock")
        readable.touch(0o444)
        with Process(program, readable) as process:
            process.expect("read")
            process.expect("written")


def test_what_one_object_acquired_another_one_does_not_release(path: Path) -> None:
    """All objects of a lock file share the lock; close() and release() are for what went through this one."""
    tried = "try:\n    lockmgr.ReadWriteLock(sys.argv[1]).acquire_write(0)\nexcept lockmgr.Timeout:\n    say('busy')"

    async def main() -> None:
        one, two = AsyncReadWriteLock(path), AsyncReadWriteLock(path)
        async with one.write_lock():
            with pytest.raises(RuntimeError, match="not acquired"):
                await two.release()
            await two.release(force=True)
            await asyncio.create_task(two.close())
            with Process(tried, path) as process:
                process.expect("busy")
        async with one.read_lock():
            three = AsyncReadWriteLock(path)
            await three.acquire_read()
            await three.close()
            with Process(tried, path) as process:
                process.expect("busy")
            await AsyncReadWriteLock(path).acquire_read()
        ReadWriteLock(path, is_singleton=False).acquire_write(0)

    asyncio.run(main())


class _AtStep:
    """Raises KeyboardInterrupt at one step of lockmgr's Python code, and counts the steps."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.steps = 0

    def __enter__(self) -> None:
        # Python 3.12 looks at the first frame alone to learn whether anybody wants to know.
        sys._getframe().f_trace_opcodes = True
        sys.settrace(self.trace)

    def __exit__(self, *exception: object) -> None:
        sys.settrace(None)

    def trace(self, frame: FrameType, event: str, argument: object) -> Any:
        if "lockmgr" not in frame.f_code.co_filename or frame.f_code.co_filename == __file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            self.steps += 1
            if self.steps == self.step:
                raise KeyboardInterrupt
        return self.trace


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("mode", ["read", "write"])
def test_ctrl_c_at_any_step_leaves_nothing_held(mode: str, nested: bool, path: Path) -> None:
    """Python runs a signal's handler between any two steps of its code."""
    lock = ReadWriteLock(path)

    def cycle() -> None:
        with getattr(lock, f"{mode}_lock")():
            pass

    steps = 0
    while True:
        steps += 1
        if nested:
            lock.acquire_read() if mode == "read" else lock.acquire_write()
        at = _AtStep(steps)
        try:
            with at:
                cycle()
        except KeyboardInterrupt:
            pass
        if nested:
            with pytest.raises(Timeout):
                ReadWriteLock(path, is_singleton=False).acquire_write(0)
            lock.release()
        assert not FileLock(path).acquire(0).__exit__(), f"step {steps}"
        if at.steps < steps:
            break
    assert steps > 50


def test_a_proxy_releases_whatever_comes_in_between(path: Path) -> None:
    lock = ReadWriteLock(path)
    proxies = [lock.acquire_write(), FileLock(path.with_suffix(".other")).acquire()]
    for proxy in proxies:
        at = _AtStep(1)
        with at, proxy:
            pass
        assert at.steps == 0
    ReadWriteLock(path, is_singleton=False).acquire_write(0)
    FileLock(path.with_suffix(".other")).acquire(0)


def test_scopes_decorate(path: Path) -> None:
    lock = ReadWriteLock(path)

    @lock.write_lock()
    def depth(more: int) -> int:
        with pytest.raises(Timeout):
            FileLock(path, thread_local=False).acquire(0)
        return more and depth(more - 1) + 1

    assert depth(2) == 2
    FileLock(path).acquire(0)


def test_waiting_for_oneself_by_a_file_lock(path: Path) -> None:
    with ReadWriteLock(path).read_lock(), pytest.raises(DeadlockError):
        FileLock(path).acquire()


def test_a_timeout_names_the_file_as_the_program_does(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    with ReadWriteLock(path.name).write_lock():
        for timeout in (0, 0.01):
            with pytest.raises(Timeout) as caught:
                ReadWriteLock(path.name, is_singleton=False).acquire_read(timeout)
            assert caught.value.lock_file == path.name

            async def wait(timeout: float = timeout) -> None:
                await AsyncReadWriteLock(path.name, is_singleton=False).acquire_read(timeout)

            with pytest.raises(Timeout) as caught:
                asyncio.run(wait())
            assert repr(caught.value) == f"Timeout({path.name!r})"


def test_what_is_in_the_way_of_the_lock_file(path: Path) -> None:
    path.touch()
    with pytest.raises(NotADirectoryError):
        ReadWriteLock(path / "x")
    with pytest.raises(FileNotFoundError):
        ReadWriteLock(path.parent / "none" / "x")


def test_one_lock_has_one_timeout(path: Path) -> None:
    one = AsyncReadWriteLock(path)
    for kind in (ReadWriteLock, AsyncReadWriteLock):
        with pytest.raises(ValueError, match="made otherwise"):
            kind(path, timeout=3)
        with pytest.raises(ValueError, match="made otherwise"):
            kind(path, blocking=False)
        assert kind(path, is_singleton=False, timeout=3).timeout == 3
        assert kind(path, math.inf).timeout == -1
    one.timeout = 3
    assert ReadWriteLock(path, 3).timeout == 3
    blocking: Any
    for blocking in ("x", 0, None):
        with pytest.raises(TypeError, match="blocking"):
            ReadWriteLock(path.with_suffix(".other"), blocking=blocking)
    with pytest.raises(TypeError, match="blocking"):
        ReadWriteLock(path, 3).acquire_read(blocking=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["read", "write"])
def test_a_hold_is_its_threads(mode: str, path: Path) -> None:
    """Another thread releases it by force alone."""
    lock = ReadWriteLock(path)
    getattr(lock, f"acquire_{mode}")()
    came: list[str] = []

    def release() -> None:
        try:
            lock.release()
        except RuntimeError:
            came.append("refused")
        lock.release(force=True)
        came.append("released")

    thread = threading.Thread(target=release)
    thread.start()
    thread.join(BOUND)
    assert came == ["refused", "released"]
    ReadWriteLock(path, is_singleton=False).acquire_write(0)


def test_logging(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "lockmgr")
    lock = ReadWriteLock(path)
    with lock.read_lock(), lock.read_lock():
        pass
    with lock.write_lock():
        pass
    told = [f"{what} {path} ({mode})" for mode in ("shared", "exclusive") for what in ("acquired", "released")]
    assert [record.getMessage() for record in caplog.records] == told
