"""`FileLock` beyond what the scenes compare: real processes, threads and signals, and what is ours alone."""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib.util
import logging
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lockmgr
import pytest
from lockmgr import DeadlockError, FileLock, LockError, ReadWriteLock, Timeout
from support import BOUND, Process, descriptors, holder, requests, threads_named, until, until_blocked

HOLDER = """
lock = lockmgr.FileLock(sys.argv[1])
with lock:
    say("held")
    sys.stdin.readline()
say("released")
sys.stdin.readline()
"""


def add(counter: Path, times: int, lock: Any) -> None:
    """Counts in a file, which comes out right only if nobody else is inside."""
    for _ in range(times):
        with lock:
            number = int(counter.read_text())
            time.sleep(0)
            counter.write_text(str(number + 1))


def work(path: str, counter: str, times: int) -> None:
    add(Path(counter), times, FileLock(path))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_multiprocessing(method: str, path: Path, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    context = multiprocessing.get_context(method)
    workers = [context.Process(target=work, args=(str(path), str(counter), 100)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(BOUND)
        assert worker.exitcode == 0
    assert counter.read_text() == "300"


@pytest.mark.parametrize("thread_local", [True, False])
def test_threads_that_share_an_object(thread_local: bool, path: Path, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    lock = FileLock(path, thread_local=thread_local)
    threads = [threading.Thread(target=add, args=(counter, 100, lock)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    assert counter.read_text() == "400"
    assert not lock.is_locked


def test_the_wait_is_the_kernels(path: Path) -> None:
    with holder(path) as other:
        lock = FileLock(path)
        thread = threading.Thread(target=lock.acquire)
        thread.start()
        until_blocked(path)
        before = switches(thread)
        # Some time in which one that polls would have been up, many times; a wait that is over is one switch.
        threading.Event().wait(0.3)
        # It is in the queue a moment before it is asleep.
        assert switches(thread) - before <= 1
        other.tell()
        thread.join(BOUND)
        assert not thread.is_alive()


def switches(thread: threading.Thread) -> int:
    """How often the thread has gone to sleep by itself."""
    status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("voluntary_ctxt_switches"))


def test_timeouts_are_waited_for_in_the_kernel(path: Path) -> None:
    with holder(path) as other:
        lock = FileLock(path, thread_local=False)
        thread = threading.Thread(target=lock.acquire, kwargs={"timeout": BOUND})
        thread.start()
        until_blocked(path)
        other.tell()
        thread.join(BOUND)
        assert lock.is_locked


def test_an_endless_lifetime_is_accepted_as_any_other(path: Path) -> None:
    with pytest.warns(UserWarning, match="no use for lifetime"):
        FileLock(path, lifetime=10**400)
    with pytest.raises(ValueError, match="lifetime"):
        FileLock(path, lifetime=-(10**400))


def test_a_timeout_is_not_early_and_leaves_nothing_behind(path: Path) -> None:
    with holder(path):
        lock = FileLock(path)
        start = time.monotonic()
        with pytest.raises(Timeout):
            lock.acquire(timeout=0.2)
        assert time.monotonic() - start >= 0.2
        assert requests(path) == 0


def test_cancel_check_does_not_cost_the_place(path: Path) -> None:
    """The request stays in the kernel's queue while the check is asked."""
    with holder(path) as other:
        asked: list[int] = []
        lines: list[int] = []

        def check() -> bool:
            asked.append(1)
            lines.append(requests(path))
            if len(asked) == 20:
                other.tell()
            return False

        lock = FileLock(path)
        with lock.acquire(cancel_check=check, poll_interval=0.01):
            assert lock.is_locked
        assert len(asked) >= 20
        first = lines.index(1)
        assert set(lines[first:20]) == {1}
    until(lambda: not threads_named("lockmgr-wait"), "the end of the waiter thread")


def test_a_timeout_with_a_cancel_check_names_who_held_the_lock_then(path: Path) -> None:
    with holder(path) as other, pytest.raises(Timeout) as caught:
        FileLock(path).acquire(timeout=0.05, cancel_check=lambda: False)
    with holder(path):
        assert [it.pid for it in caught.value.holders] == [other.pid]


def test_cancel_check_leaves_nothing_behind(path: Path) -> None:
    with holder(path):
        lock = FileLock(path)
        with pytest.raises(Timeout):
            lock.acquire(0)
        gc.collect()
        before = descriptors()
        for _ in range(5):
            with pytest.raises(Timeout) as caught:
                lock.acquire(cancel_check=lambda: True)
            assert str(path) in str(caught.value)
            with pytest.raises(ZeroDivisionError):
                lock.acquire(cancel_check=lambda: bool(1 / 0))
        until(lambda: requests(path) == 0, "the end of the requests")
        until(lambda: not threads_named("lockmgr-wait"), "the end of the waiter threads")
        gc.collect()
        assert descriptors() == before


def test_a_killed_holder_is_no_holder(path: Path) -> None:
    with Process(HOLDER, path) as other:
        other.expect("held")
        lock = FileLock(path)
        thread = threading.Thread(target=lock.acquire)
        thread.start()
        until_blocked(path)
        other.signal(signal.SIGKILL)
        thread.join(BOUND)
        assert not thread.is_alive()


def test_a_waiter_finds_the_file_that_is_there(path: Path) -> None:
    """The lock file is deleted while it is waited for: who gets the lock has to have the new one."""
    with Process(HOLDER, path) as other:
        other.expect("held")
        lock = FileLock(path, thread_local=False)
        thread = threading.Thread(target=lock.acquire)
        thread.start()
        until_blocked(path)
        path.unlink()
        other.tell()
        thread.join(BOUND)
        assert lock.is_locked
        with pytest.raises(Timeout):
            FileLock(path).acquire(0)


def test_lock_unlock_and_locked(path: Path) -> None:
    lock = FileLock(path)
    assert lock.lock() is lock
    assert lock.locked
    assert lock.lock() is lock
    assert lock.lock_counter == 1
    lock.unlock()
    assert not lock.locked
    lock.unlock()
    lock.acquire()
    lock.acquire()
    lock.unlock()
    assert not lock.locked
    with holder(path), pytest.raises(Timeout):
        FileLock(path, 0).lock()


def test_who_has_it(path: Path) -> None:
    lock = FileLock(path)
    assert lock.holders() == []
    with Process(HOLDER, path) as other:
        other.expect("held")

        def timed_out() -> Timeout:
            with pytest.raises(Timeout) as caught:
                lock.acquire(0.01)
            return caught.value

        # One reading of the kernel's table may miss a line, or see it twice.
        until(lambda: {one.pid for one in lock.holders()} == {other.pid}, "the holder")
        error = until(lambda: next((it for it in [timed_out()] if str(other.pid) in str(it)), None), "its name")
        assert other.pid in {one.pid for one in error.holders}
        again = pickle.loads(pickle.dumps(error))
        assert str(again) == str(error)
        assert again.holders == error.holders
        assert (again.lock_file, again.args) == (str(path), ())
        thread = threading.Thread(target=FileLock(path).acquire)
        thread.start()
        until(lambda: {one.pid for one in lock.waiters()} == {os.getpid()}, "the waiter")
        other.tell()
        thread.join(BOUND)


def test_a_timeout_that_the_program_makes() -> None:
    """For those who raise it themselves, as subclasses do."""
    assert str(Timeout("a.lock")) == "a.lock: the lock is busy"
    assert str(Timeout("a.lock", "Ann")) == "a.lock: the lock is busy, held by Ann"
    assert Timeout("a.lock").holders == ()
    assert "\n" not in str(Timeout("a\n.lock"))
    error = Timeout("a.lock")
    error.mine = 1  # type: ignore[attr-defined]
    again = pickle.loads(pickle.dumps(error))
    assert (again.mine, again.lock_file) == (1, "a.lock")


def test_a_log_handler_that_raises_leaves_nothing_held(path: Path) -> None:
    class Fails(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            raise KeyError("filter")

    logger, fails = logging.getLogger("lockmgr"), Fails()
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addFilter(fails)
    lock = FileLock(path)
    try:
        with pytest.raises(KeyError):
            lock.acquire()
        assert (lock.is_locked, lock.lock_counter) == (False, 0)
    finally:
        logger.removeFilter(fails)
        logger.setLevel(level)
    FileLock(path).acquire(0)


def test_the_fork_of_a_holder_keeps_nothing(path: Path) -> None:
    lock = FileLock(path)
    read, write = os.pipe()
    with lock:
        child = os.fork()
        if child == 0:
            # What the child does with its copy is without effect on the parent's.
            lock.release(force=True)
            with contextlib.suppress(RuntimeError):
                lock.acquire()
            del lock
            gc.collect()
            os.write(write, b"x")
            signal.pause()
        os.read(read, 1)
        with pytest.raises(Timeout):
            FileLock(path).acquire(0)
    # And the lock is free though the child has copies of all descriptors.
    FileLock(path).acquire(0)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(read)
    os.close(write)


@pytest.mark.parametrize("way", ["lock.acquire()", "lock.acquire(60)", "lock.acquire(cancel_check=lambda: False)"])
def test_ctrl_c_ends_a_wait(way: str, path: Path) -> None:
    program = f"""
    lock = lockmgr.FileLock(sys.argv[1])
    say("go")
    try:
        {way}
    except KeyboardInterrupt:
        say("interrupted", lock.is_locked)
    sys.stdin.readline()
    """
    with holder(path), Process(program, path) as waiter:
        waiter.expect("go")
        until_blocked(path)
        waiter.signal(signal.SIGINT)
        waiter.expect("interrupted False")
        until(lambda: requests(path) == 0, "the end of the request")
        assert waiter.end() == 0


def test_handlers_run_during_a_wait(path: Path) -> None:
    program = """
    signal.signal(signal.SIGUSR1, lambda *_: say("handled"))
    lock = lockmgr.FileLock(sys.argv[1])
    say("go")
    with lock:
        say("acquired")
    """
    with holder(path) as other, Process(program, path) as waiter:
        waiter.expect("go")
        until_blocked(path)
        for _ in range(3):
            waiter.signal(signal.SIGUSR1)
            waiter.expect("handled")
        until_blocked(path)
        other.tell()
        waiter.expect("acquired")


def test_ctrl_c_while_another_thread_waits(path: Path) -> None:
    program = """
    lock = lockmgr.FileLock(sys.argv[1])
    thread = threading.Thread(target=lock.acquire, daemon=True)
    thread.start()
    try:
        say("go")
        while True:
            time.sleep(0.01)
    except KeyboardInterrupt:
        say("interrupted")
    """
    with holder(path), Process(program, path) as waiter:
        waiter.expect("go")
        until_blocked(path)
        waiter.signal(signal.SIGINT)
        waiter.expect("interrupted")
        assert waiter.end() == 0


@pytest.mark.parametrize("waits", [False, True])
def test_the_end_of_the_interpreter(waits: bool, path: Path) -> None:
    """What is held is released, and a thread that waits is no reason to hang or to crash."""
    program = """
    lock = lockmgr.FileLock(sys.argv[1])
    lock.acquire()
    if eval(sys.argv[2]):
        other = lockmgr.FileLock(sys.argv[1])
        threading.Thread(target=other.acquire, daemon=True).start()
    say("held")
    sys.stdin.readline()
    """
    with Process(program, path, waits, stderr=subprocess.PIPE) as process:
        process.expect("held")
        if waits:
            until_blocked(path)
        assert process.end() == 0
        assert process.process.stderr is not None
        assert process.process.stderr.read() == b""
        process.process.stderr.close()
    FileLock(path).acquire(0)


def test_what_nobody_refers_to_is_released(path: Path) -> None:
    FileLock(path).acquire()
    gc.collect()
    FileLock(path).acquire(0)


def test_a_callback_may_refer_to_its_lock(path: Path) -> None:
    """A circle, which the garbage collector has to see."""

    def make() -> weakref.ref[FileLock]:
        lock = FileLock(path, on_acquired=lambda fd: lock.holders() and None)
        lock.acquire()
        return weakref.ref(lock)

    gone = make()
    gc.collect()
    assert gone() is None
    FileLock(path).acquire(0)


def fail(lock: FileLock, spare: int, got: list[int]) -> None:
    """Fails in the body and in the release."""
    with lock:
        os.dup2(spare, got[-1])
        raise KeyError("body")


def test_a_failing_release_is_told_and_releases(path: Path) -> None:
    """The program has closed the descriptor, which it should not."""
    got: list[int] = []
    lock = FileLock(path, on_acquired=got.append)
    lock.acquire()
    # The number stays taken: whoever gets it next would be unlocked instead.
    spare = os.open(path, os.O_PATH)
    os.dup2(spare, got[-1])
    with pytest.raises(OSError, match="unlock") as caught:
        lock.release()
    assert not isinstance(caught.value, Timeout)
    assert not lock.is_locked
    with FileLock(path):
        pass
    with pytest.raises(KeyError, match="body"), lock:
        raise KeyError("body")
    with pytest.raises(OSError, match="unlock") as caught:
        fail(lock, spare, got)
    assert isinstance(caught.value.__context__, KeyError)
    os.close(spare)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="SKIPPED: there are no exception groups")
def test_both_failures_in_a_group(path: Path) -> None:
    got: list[int] = []
    lock = FileLock(path, on_acquired=got.append, context_error_policy="group")
    spare = os.open(path_with_file(path), os.O_PATH)
    with pytest.raises(Exception, match="release") as caught:
        fail(lock, spare, got)
    assert [type(one).__name__ for one in caught.value.exceptions]  # type: ignore[attr-defined] == ["KeyError", "OSError"]
    assert all(one.__context__ is None for one in caught.value.exceptions)  # type: ignore[attr-defined]
    os.close(spare)


class TestWaitingForOneself:
    """An owner that would wait for ever for what it holds itself."""

    def test_through_other_names(self, path: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tmp_path)
        os.link(path_with_file(path), tmp_path / "hard.lock")
        with FileLock(path):
            for other in (tmp_path / "link" / "a.lock", tmp_path / "hard.lock"):
                with pytest.raises(DeadlockError) as caught:
                    FileLock(other).acquire()
                assert isinstance(caught.value, RuntimeError)

    def test_not_what_another_thread_holds(self, path: Path) -> None:
        held = FileLock(path, thread_local=False)
        thread = threading.Thread(target=held.acquire)
        thread.start()
        thread.join(BOUND)
        waiter = threading.Thread(target=FileLock(path).acquire)
        waiter.start()
        until_blocked(path)
        held.release()
        waiter.join(BOUND)
        assert not waiter.is_alive()

    def test_not_what_another_thread_has_released(self, path: Path) -> None:
        """The list of what this thread holds is then out of date."""
        locks = [FileLock(path, thread_local=False) for _ in range(200)]
        for lock in locks:
            lock.acquire()
            thread = threading.Thread(target=lock.release)
            thread.start()
            thread.join(BOUND)
        with holder(path) as other:
            thread = threading.Thread(target=other.tell)
            mine = FileLock(path)
            thread.start()
            mine.acquire()
            thread.join(BOUND)
        mine.release()

    def test_not_what_has_gone_over_to_another_thread(self, path: Path) -> None:
        """This thread acquired it once; by now another one holds it."""
        lock = FileLock(path, thread_local=False)
        lock.acquire()

        def take_over() -> None:
            lock.release()
            lock.acquire()

        thread = threading.Thread(target=take_over)
        thread.start()
        thread.join(BOUND)
        helper = threading.Thread(target=lambda: (until_blocked(path), lock.release()))
        helper.start()
        FileLock(path).acquire()
        helper.join(BOUND)

    def test_not_another_file_of_the_same_name(self, path: Path) -> None:
        with FileLock(path), holder(path.parent / "b.lock") as other:
            thread = threading.Thread(target=other.tell)
            thread.start()
            FileLock(path.parent / "b.lock").acquire()
            thread.join(BOUND)


def path_with_file(path: Path) -> Path:
    path.touch()
    return path


def test_nobody_comes_in_beside_the_owner_of_a_shared_object(path: Path) -> None:
    lock = FileLock(path, thread_local=False)
    lock.acquire()
    entered = threading.Event()

    def enter() -> None:
        with lock:
            entered.set()

    thread = threading.Thread(target=enter)
    thread.start()
    # It queues in the process, where nothing shows; an attempt of its own says as much.
    assert attempt_in_thread(lock) == "busy"
    assert not entered.is_set()
    with lock:
        assert lock.lock_counter == 2
    assert not entered.is_set()
    lock.release()
    assert entered.wait(BOUND)
    thread.join(BOUND)
    assert not lock.is_locked


def attempt_in_thread(lock: FileLock) -> str:
    came: list[str] = []

    def attempt() -> None:
        try:
            lock.acquire(0)
            came.append("acquired")
        except Timeout:
            came.append("busy")

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join(BOUND)
    return came[0]


def test_singletons_of_threads_are_one(path: Path) -> None:
    found: list[FileLock] = []
    ready = threading.Barrier(8)

    def make() -> None:
        ready.wait(BOUND)
        found.append(FileLock(path, is_singleton=True))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    assert len(found) == 8
    assert len(set(map(id, found))) == 1


def test_a_subclass_may_call_del(path: Path) -> None:
    class Ours(FileLock):
        def __del__(self) -> None:
            super().__del__()
            gone.append(attempt_in_thread(FileLock(path)))

    gone: list[str] = []
    lock = Ours(path)
    lock.acquire()
    del lock
    gc.collect()
    assert gone == ["acquired"]


def test_links_of_a_directory_that_lead_nowhere(path: Path) -> None:
    path.symlink_to(path.name)
    for kind in (lockmgr.Lock, FileLock):
        with pytest.raises(OSError, match="Too many levels") as caught:
            kind(path / "x").acquire(0)
        assert (caught.value.errno, caught.value.filename) == (errno.ELOOP, str(path / "x"))
        with pytest.raises(LockError, match="name its target") as refused:
            kind(path).acquire(0)
        assert refused.value.lock_file == str(path)


def test_singletons_are_of_the_file_that_the_kernel_opens(tmp_path: Path) -> None:
    """`..` behind a link is above what the link leads to."""
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real/sub")
    through = f"{tmp_path}/link/../a.lock"
    for kind in (FileLock, ReadWriteLock):
        other = kind(through, is_singleton=True)
        assert other is not kind(f"{tmp_path}/a.lock", is_singleton=True)
        assert other is kind(f"{tmp_path}/real/a.lock", is_singleton=True)
        with other.read_lock() if isinstance(other, ReadWriteLock) else other:
            assert (tmp_path / "real" / "a.lock").exists()
            assert not (tmp_path / "a.lock").exists()
            with pytest.raises(Timeout):
                FileLock(tmp_path / "real" / "a.lock", 0).acquire()
    directory = FileLock(f"{tmp_path}/real/sub/", is_singleton=True)
    assert FileLock(f"{tmp_path}/link/.", is_singleton=True) is directory
    assert FileLock(f"{tmp_path}/link", is_singleton=True) is not directory


def test_threads_that_are_gone_are_forgotten(path: Path) -> None:
    """A lock that many threads have used knows of those that hold it or have changed something, and are there."""
    lock = FileLock(path)

    def use() -> None:
        lock.timeout = BOUND
        with lock:
            assert lock.timeout == BOUND

    for _ in range(20):
        thread = threading.Thread(target=use)
        thread.start()
        thread.join(BOUND)

    def contexts() -> int:
        # Something new is noted, and what is out of date struck out.
        lock.timeout = -1
        lock.timeout = 5
        return lock._contexts()

    # A thread that has been joined may not quite be gone.
    until(lambda: contexts() == 1, "the end of the threads")
    with lock:
        assert lock.timeout == 5
        assert lock._contexts() == 1
    assert lock.timeout == 5
    lock.timeout = -1
    assert lock._contexts() == 0
    shared = FileLock(path, thread_local=False)
    shared.timeout = 5
    gc.collect()
    assert shared.timeout == 5


def test_a_subclass_with_a_mode_of_its_own_may_be_a_singleton(path: Path) -> None:
    class Ours(FileLock):
        def __init__(self, lock_file: Path, **others: Any) -> None:
            super().__init__(lock_file, mode=0o600)

    lock = Ours(path, is_singleton=True)
    assert (lock.mode, lock.has_explicit_mode, lock.is_singleton) == (0o600, True, True)
    assert Ours(path, is_singleton=True) is lock
    with lock:
        assert path.stat().st_mode & 0o777 == 0o600


def test_an_object_without_init(path: Path) -> None:
    lock = FileLock.__new__(FileLock)
    with pytest.raises(RuntimeError, match="__init__"):
        lock.acquire()
    with pytest.raises(RuntimeError, match="__init__"), lock:
        pass
    lock.__init__(path)  # type: ignore[misc]
    with lock, pytest.raises(RuntimeError, match="twice"):
        lock.__init__(path)  # type: ignore[misc]


def test_a_file_that_may_only_be_read() -> None:
    program = """
    # Whose Python it is, need not let everybody read it.
    import inspect
    if os.geteuid() == 0:
        os.seteuid(65534)
    with lockmgr.FileLock(sys.argv[1]):
        say("locked")
    try:
        lockmgr.FileLock(sys.argv[1], on_acquired=lambda fd: None).acquire()
    except PermissionError:
        say("refused")
    """
    # Not below pytest's own directory, into which only its user may look.
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        path = Path(directory, "a.lock")
        path.touch(0o444)
        with Process(program, path) as process:
            process.expect("locked")
            process.expect("refused")


def test_errors_name_the_file(path: Path) -> None:
    path.symlink_to(path.parent / "other.lock")
    with pytest.raises(LockError, match=r"a\.lock.*symbolic link"):
        FileLock(path).acquire()
    with pytest.raises(FileNotFoundError):
        FileLock("")


def test_logging(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "lockmgr")
    lock = FileLock(path)
    with lock, lock:
        pass
    texts = [record.getMessage() for record in caplog.records]
    assert texts == [f"acquired {path} (exclusive)", f"released {path} (exclusive)"]


def test_a_long_wait_is_told(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lockmgr")
    with Process(HOLDER, path) as other:
        other.expect("held")
        thread = threading.Thread(target=FileLock(path).acquire)
        thread.start()
        until(lambda: caplog.records, "the message")
        assert str(other.pid) in caplog.records[0].getMessage()
        other.tell()
        thread.join(BOUND)


THEIRS = """
import filelock
lock = filelock.FileLock(sys.argv[1])
with lock:
    say("held")
    sys.stdin.readline()
say("released")
sys.stdin.readline()
"""


@pytest.mark.skipif(importlib.util.find_spec("filelock") is None, reason="SKIPPED: there is no filelock")
class TestBesideFilelock:
    """Programs that have changed their import, and programs that have not."""

    def test_theirs_excludes_ours(self, path: Path) -> None:
        with Process(THEIRS, path) as other:
            other.expect("held")
            lock = FileLock(path)
            with pytest.raises(Timeout):
                lock.acquire(0)
            thread = threading.Thread(target=lock.acquire)
            thread.start()
            until_blocked(path)
            other.tell()
            other.expect("released")
            thread.join(BOUND)
            assert not thread.is_alive()

    def test_ours_excludes_theirs(self, path: Path) -> None:
        import filelock

        with Process(HOLDER, path) as other:
            other.expect("held")
            theirs = filelock.FileLock(path)
            with pytest.raises(filelock.Timeout):
                theirs.acquire(0)
            other.tell()
            other.expect("released")
            theirs.acquire(BOUND)
            theirs.release()

    def test_they_count_together(self, path: Path, tmp_path: Path) -> None:
        import filelock

        counter = tmp_path / "counter"
        counter.write_text("0")
        context = multiprocessing.get_context("spawn")
        ours = context.Process(target=work, args=(str(path), str(counter), 50))
        ours.start()
        add(counter, 50, filelock.FileLock(path))
        ours.join(BOUND)
        assert counter.read_text() == "100"


def test_refusals_say_what_to_use() -> None:
    from lockmgr import filelock

    refused: list[Callable[..., Any]] = [
        filelock.SoftFileLock,
        filelock.StrictSoftFileLock,
        filelock.MarkerSoftFileLock,
        filelock.SoftFileLease,
        filelock.SoftReadWriteLock,
        filelock.AsyncSoftFileLock,
        filelock.AsyncStrictSoftFileLock,
        filelock.AsyncSoftFileLease,
        filelock.AsyncSoftReadWriteLock,
        filelock.AsyncAcquireSoftReadWriteReturnProxy,
        filelock.LeaseClaim,
        filelock.LeaseCompromise,
        filelock.LeaseHeartbeat,
        filelock.OwnerRecord,
        filelock.StrictRelease,
        filelock.StrictSoftFileClaim,
        filelock.StrictSoftFileClaimState,
    ]
    for kind in refused:
        with pytest.raises(NotImplementedError, match=r"use (Async)?(FileLock|ReadWriteLock)"):
            kind("x")
    for kind in (filelock.WindowsFileLock, filelock.AsyncWindowsFileLock):
        with pytest.raises(NotImplementedError, match="Windows"):
            kind("x")
    for name in ("AcquireWait", "FileLockContext", "InFlight"):
        with pytest.raises(AttributeError, match=f"no {name}: it is filelock's own"):
            getattr(filelock, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        filelock.nothing  # type: ignore[attr-defined]  # noqa: B018
    assert sorted(filelock.__all__) == list(filelock.__all__)
    assert set(filelock.__all__) <= set(dir(filelock))
    assert lockmgr.FileLock is filelock.FileLock is filelock.UnixFileLock
