"""`Lock`: one object excludes processes, threads and tasks alike; the rest of its interface."""

from __future__ import annotations

import asyncio
import copy
import inspect
import math
import os
import pickle
import stat
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lockmgr
import pytest
from lockmgr import (
    AsyncFileLock,
    DeadlockError,
    FileLock,
    Lock,
    LockError,
    LockSet,
    Semaphore,
    Timeout,
    UnsupportedError,
)
from support import Process, holder, until, until_blocked


class Inside:
    """Counts who is inside at once."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0
        self.times = 0

    def __enter__(self) -> None:
        self.now += 1
        self.times += 1
        self.most = max(self.most, self.now)

    def __exit__(self, *exception: object) -> None:
        self.now -= 1


COUNTER = """
lock = lockmgr.Lock(sys.argv[1])
for _ in range(int(sys.argv[3])):
    with lock:
        number = int(open(sys.argv[2]).read())
        time.sleep(0)
        open(sys.argv[2], "w").write(str(number + 1))
say("done")
"""


def test_processes_exclude_each_other(path: Path, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    workers = [Process(COUNTER, path, counter, 200) for _ in range(4)]
    for worker in workers:
        with worker:
            worker.expect("done")
    assert counter.read_text() == "800"


def test_threads_that_share_an_object_exclude_each_other(path: Path) -> None:
    lock, inside = Lock(path), Inside()

    def work() -> None:
        for _ in range(50):
            with lock, inside:
                time.sleep(0)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (inside.times, inside.most) == (200, 1)


def test_tasks_and_threads_that_share_an_object_exclude_each_other(path: Path) -> None:
    lock, inside = Lock(path), Inside()

    async def task() -> None:
        for _ in range(30):
            async with lock:
                with inside:
                    await asyncio.sleep(0)

    async def tasks() -> None:
        await asyncio.gather(*(task() for _ in range(3)))

    def thread() -> None:
        for _ in range(30):
            with lock, inside:
                time.sleep(0)

    threads = [threading.Thread(target=thread) for _ in range(2)]
    for one in threads:
        one.start()
    asyncio.run(tasks())
    for one in threads:
        one.join()
    assert (inside.times, inside.most) == (150, 1)


def test_a_deleted_lock_file_lets_nobody_in_twice(path: Path) -> None:
    lock = Lock(path)
    with holder(path) as first:
        waiter = threading.Thread(target=lock.acquire)
        waiter.start()
        until_blocked(path)
        path.unlink()
        first.tell()
        waiter.join()
    assert lock.still_current()
    assert path.exists()
    lock.release()


def test_a_timeout_is_exact_and_names_the_holder(path: Path) -> None:
    with holder(path, note="nightly backup") as other:
        lock = Lock(path, timeout=0.05)
        for acquire in (lock.acquire, lock.__enter__, lambda: lock.acquire(0.05)):
            since = time.monotonic()
            with pytest.raises(Timeout) as caught:
                acquire()
            assert time.monotonic() - since >= 0.05
            error = caught.value
            assert isinstance(error, TimeoutError)
            assert error.lock_file == str(path)
            assert [it.pid for it in error.holders] == [other.pid]
            # As the lock tells of them; but the look at them is given up after 20 ms, and then less is certain.
            seen, told = ([it._replace(standing="") for it in them] for them in (error.holders, lock.holders()))
            assert seen == told
            assert (error.holders[0].mode, error.holders[0].mechanism) == ("exclusive", "flock")
            assert error.holders[0].note == "nightly backup"
            assert error.holders[0].since is not None
            assert f"held by pid {other.pid} (" in str(error)
            assert "nightly backup" in str(error)
        assert not lock.locked()
    # What was seen is still known.
    assert [it.pid for it in error.holders] == [other.pid]


def test_a_timeout_of_zero_is_one_attempt(path: Path) -> None:
    lock = Lock(path)
    with holder(path) as other:
        with pytest.raises(Timeout) as caught:
            lock.acquire(timeout=0)
        assert [it.pid for it in caught.value.holders] == [other.pid]
        with pytest.raises(Timeout):
            Lock(path, timeout=0).acquire()
    lock.acquire(timeout=0).lock.release()


def test_infinity_waits_however_long_it_takes_though_the_lock_has_a_timeout(path: Path) -> None:
    lock = Lock(path, timeout=0)
    with holder(path) as other:
        waiter = threading.Thread(target=lambda: lock.acquire(math.inf))
        waiter.start()
        until_blocked(path)
        other.tell()
        waiter.join()
        assert lock.locked()


@pytest.mark.parametrize("timeout", [-1, -0.5, math.nan, -math.inf])
def test_a_timeout_that_cannot_be_is_refused(path: Path, timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout must be"):
        Lock(path, timeout=timeout)
    with pytest.raises(ValueError, match="timeout must be"):
        Lock(path).acquire(timeout)


def test_timeouts_can_be_pickled_with_what_they_know(path: Path) -> None:
    with holder(path) as other:
        with pytest.raises(Timeout) as caught:
            Lock(path).acquire(0)
        for copied in (pickle.loads(pickle.dumps(caught.value)), copy.copy(caught.value)):
            assert type(copied) is Timeout
            assert str(copied) == str(caught.value)
            assert copied.lock_file == str(path)
            assert [it.pid for it in copied.holders] == [other.pid]


def test_release_and_with_and_acquire(path: Path) -> None:
    lock = Lock(path)
    assert not lock.locked()
    with lock as same:
        assert same is lock
        assert lock.locked()
    assert not lock.locked()
    with lock.acquire(timeout=1) as same:
        assert same is lock
        assert lock.locked()
    assert not lock.locked()
    assert lock.acquire().lock is lock
    assert lock.locked()
    lock.release()
    with pytest.raises(RuntimeError, match="not held"):
        lock.release()
    with pytest.raises(RuntimeError, match="not held"):
        lock.fileno()


def test_what_was_released_inside_is_not_taken_from_the_next_one(path: Path) -> None:
    made: tuple[Callable[[], Any], ...] = (
        lambda: Lock(path),
        lambda: Lock(path, reentrant=True),
        lambda: LockSet(Lock(path)),
        lambda: Semaphore(path.with_name("s"), 1),
    )
    for make in made:
        for enter in (lambda lock: lock, lambda lock: lock.acquire()):
            lock, released, acquired = make(), threading.Event(), threading.Event()

            def leave_late(
                lock: Any = lock,
                enter: Any = enter,
                released: threading.Event = released,
                acquired: threading.Event = acquired,
            ) -> None:
                with enter(lock):
                    lock.release()
                    released.set()
                    assert acquired.wait(60)

            with ThreadPoolExecutor(1) as pool:
                leaving = pool.submit(leave_late)
                assert released.wait(60)
                with lock:
                    acquired.set()
                    if type(lock) is Lock:
                        with pytest.raises(RuntimeError, match="not held"):
                            leaving.result()
                    else:
                        leaving.result()
                    assert lock.locked()
                    with pytest.raises(Timeout):
                        make().acquire(timeout=0)
                assert not lock.locked()


def test_what_was_released_inside_is_not_taken_from_the_next_one_of_a_shared_file_lock(path: Path) -> None:
    lock, released, acquired = FileLock(path, thread_local=False), threading.Event(), threading.Event()

    def leave_late() -> None:
        with lock:
            lock.release()
            released.set()
            assert acquired.wait(60)

    with ThreadPoolExecutor(1) as pool:
        leaving = pool.submit(leave_late)
        assert released.wait(60)
        with lock:
            acquired.set()
            leaving.result()
            assert lock.is_locked
            with pytest.raises(Timeout):
                FileLock(path).acquire(0)
        assert not lock.is_locked
        # What another thread has begun is ended here.
        pool.submit(lock.__enter__).result()
        lock.__exit__(None, None, None)
        assert not lock.is_locked
    with lock:
        lock.release()
        lock.acquire()
    assert not lock.is_locked


@pytest.mark.parametrize(("force", "left"), [(1, 0), ("yes", 0), (None, 1), (0, 1), ([], 1)])
def test_any_value_says_whether_a_file_lock_is_released_at_once(path: Path, force: Any, left: int) -> None:
    lock = FileLock(path)
    lock.acquire()
    lock.acquire()
    lock.release(force)
    assert lock.lock_counter == left


def test_what_is_acquired_again_inside_is_released_by_the_with(path: Path) -> None:
    for lock in (Lock(path), Lock(path, reentrant=True), LockSet(Lock(path)), Semaphore(path.with_name("s"), 1)):
        with lock:
            lock.release()
            lock.acquire()
        assert not lock.locked()


def test_a_with_may_end_in_another_thread(path: Path) -> None:
    for lock in (Lock(path), LockSet(Lock(path)), Semaphore(path.with_name("s"), 1)):
        for begin in (lock.__enter__, lock.acquire):
            with ThreadPoolExecutor(1) as other:
                other.submit(begin).result()
            lock.__exit__(None, None, None)
            assert not lock.locked()


def test_withs_that_are_begun_and_ended_by_hand_are_not_counted_for_ever(path: Path) -> None:
    lock = Lock(path, shared=True)
    for _ in range(1000):
        lock.__enter__()
        lock.release()
    with lock, lock:
        pass
    assert not lock.locked()


def test_an_acquisition_is_entered_once_and_while_it_is_held(path: Path) -> None:
    slots = Semaphore(path.with_name("s"), 1)
    for lock in (Lock(path), LockSet(Lock(path)), slots):
        acquired = lock.acquire()
        with acquired:
            with pytest.raises(RuntimeError, match="acquire again"), acquired:
                pytest.fail("inside twice")
            assert lock.locked()
        with pytest.raises(RuntimeError, match="acquire again"), acquired:
            pytest.fail("inside, and nothing is held")
        acquired = lock.acquire()
        lock.release()
        with lock, pytest.raises(RuntimeError, match="acquire again"), acquired:
            pytest.fail("inside what was released")
        assert not lock.locked()


def test_an_exception_in_the_body_releases_and_goes_on(path: Path) -> None:
    lock = Lock(path)
    with pytest.raises(ZeroDivisionError), lock:
        _ = 1 / 0
    assert not lock.locked()
    with holder(path):
        pass


def test_another_thread_may_release(path: Path) -> None:
    lock = Lock(path)
    lock.acquire()
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()
    assert not lock.locked()


def test_shared_holders_share_and_exclude_the_exclusive_one(path: Path) -> None:
    with holder(path, shared=True):
        reader = Lock(path, shared=True)
        with reader, reader:
            assert [it.mode for it in reader.holders()] == ["shared", "shared"]
            with pytest.raises(Timeout):
                Lock(path).acquire(0)
            with pytest.raises(Timeout):
                reader.acquire(0, shared=False)
        assert not reader.locked()


def test_a_reentrant_lock_is_counted_by_thread(path: Path) -> None:
    lock = Lock(path, reentrant=True)
    with lock:
        with lock, lock.acquire(timeout=1):
            assert lock.locked()
        assert lock.locked()
        with ThreadPoolExecutor(1) as other:
            with pytest.raises(Timeout):
                other.submit(lock.acquire, 0).result()
            with pytest.raises(RuntimeError, match="thread or task that acquired it"):
                other.submit(lock.release).result()
    assert not lock.locked()


def test_a_reentrant_lock_is_counted_by_task(path: Path) -> None:
    lock, inside = Lock(path, reentrant=True), Inside()

    async def task() -> None:
        async with lock:
            with inside:
                async with lock:
                    await asyncio.sleep(0)
                # Synchronously, too: what has it is the same task.
                with lock:
                    pass
                await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*(task() for _ in range(5)))

    asyncio.run(main())
    assert (inside.times, inside.most) == (5, 1)
    assert not lock.locked()


def test_a_reentrant_lock_that_is_held_shared_is_not_got_exclusively(path: Path) -> None:
    lock = Lock(path, reentrant=True, shared=True)
    with lock, pytest.raises(DeadlockError):
        lock.acquire(shared=False)


def test_an_upgrade_of_a_reentrant_lock_is_not_told_to_make_it_reentrant(path: Path) -> None:
    lock = Lock(path, reentrant=True, shared=True)
    with lock, pytest.raises(DeadlockError, match="holds the lock shared") as caught:
        lock.acquire(shared=False)
    assert "reentrant=True" not in str(caught.value)
    assert caught.value.lock_file == str(path)


def test_waiting_for_oneself_is_an_error(path: Path) -> None:
    lock = Lock(path)
    link = path.with_name("hard link")
    with lock:
        link.hardlink_to(path)
        for other in (lock, Lock(path), Lock(link), Lock(path, shared=True)):
            for timeout in (None, 10):
                with pytest.raises(DeadlockError, match="this thread holds the lock already"):
                    other.acquire(timeout)
            with pytest.raises(DeadlockError), other:
                pass
            # One attempt is none.
            with pytest.raises(Timeout):
                other.acquire(0)
    with lock.acquire(), pytest.raises(DeadlockError):
        lock.acquire()
    assert issubclass(DeadlockError, RuntimeError)


def test_waiting_for_oneself_in_the_only_thread_is_an_error_without_with(path: Path) -> None:
    program = """
        lock = lockmgr.Lock(sys.argv[1])
        lock.acquire()
        try:
            lock.acquire()
        except lockmgr.DeadlockError:
            say("refused")
    """
    with Process(program, path) as process:
        process.expect("refused")


def test_waiting_for_oneself_is_an_error_whatever_class_is_held_and_wanted(path: Path) -> None:
    """With another thread there, so that only what a `with` will release is certain."""
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        one = LockSet(Lock(path))
        for held in (lambda: Lock(path), lambda: FileLock(path), lambda: one, one.acquire):
            wanted = (Lock(path).acquire, FileLock(path).acquire, LockSet(Lock(path, shared=True)).acquire)
            with held():
                for acquire in wanted:
                    with pytest.raises(DeadlockError, match="holds the lock already"):
                        acquire()
            for acquire in wanted:
                with acquire():
                    pass
    finally:
        stop.set()
        thread.join()


def test_waiting_for_oneself_in_the_only_thread_is_an_error_whatever_is_held(path: Path) -> None:
    program = """
        path = sys.argv[1]
        made = lambda: (lockmgr.Lock(path), lockmgr.FileLock(path), lockmgr.LockSet(lockmgr.Lock(path)))
        for held in made():
            held.acquire()
            for wanted in made():
                try:
                    wanted.acquire()
                except lockmgr.DeadlockError:
                    say("refused")
            held.release()
            for free in made():
                free.acquire()
                free.release()
        say("free")
    """
    with Process(program, path) as process:
        for _ in range(9):
            process.expect("refused")
        process.expect("free")


def test_what_another_thread_of_this_process_holds_is_waited_for(path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        for held in (Lock(path), FileLock(path, thread_local=False), LockSet(Lock(path))):
            for wanted in (Lock(path), FileLock(path, thread_local=False), LockSet(Lock(path))):
                with held:
                    acquiring = pool.submit(wanted.acquire)
                    until_blocked(path)
                acquiring.result()
                wanted.release()


def test_a_task_that_waits_for_what_it_holds_by_another_object_is_told(path: Path) -> None:
    async def main() -> None:
        for held in (Lock(path), AsyncFileLock(path)):
            async with held:
                for wanted in (Lock(path).acquire_async, AsyncFileLock(path).acquire):
                    with pytest.raises(DeadlockError, match="task holds the lock already"):
                        await wanted()
                # Another task may wait for it.
                waiting = asyncio.create_task(once())
                await asyncio.sleep(0)
                until_blocked(path)
            await waiting

    async def once() -> None:
        async with Lock(path):
            pass

    asyncio.run(main())


def test_a_hold_that_others_may_release_is_waited_for(path: Path) -> None:
    """As where each call runs in whatever thread of a pool is free."""
    lock = Lock(path)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lock.acquire).result()
        second = pool.submit(lock.acquire)
        assert not second.done()
        lock.release()
        second.result()
        lock.release()


def test_other_bytes_are_another_lock(path: Path) -> None:
    first = Lock(path, mechanism="ofd", byte_range=(0, 10))
    rest = Lock(path, mechanism="ofd", byte_range=(10, None), timeout=0)
    with first, rest, Lock(path, timeout=0), pytest.raises(DeadlockError):
        Lock(path, mechanism="ofd", byte_range=(9, 1)).acquire()


def test_a_task_that_waits_for_itself_is_an_error(path: Path) -> None:
    lock = Lock(path)

    async def main() -> None:
        async with lock:
            with pytest.raises(DeadlockError, match="this task holds the lock already"):
                await lock.acquire_async()
            with pytest.raises(DeadlockError):
                async with lock:
                    pass

    asyncio.run(main())


def test_a_thread_that_would_block_the_loop_of_the_task_that_has_it_is_told(path: Path) -> None:
    lock, stop = Lock(path), threading.Event()
    # Somebody else is there, but nobody else will release it.
    thread = threading.Thread(target=stop.wait)
    thread.start()

    async def hold(inside: asyncio.Event, leave: asyncio.Event) -> None:
        async with lock:
            inside.set()
            await leave.wait()

    async def main() -> None:
        inside, leave = asyncio.Event(), asyncio.Event()
        holding = asyncio.create_task(hold(inside, leave))
        await inside.wait()
        for other in (lock, Lock(path)):
            with pytest.raises(DeadlockError):
                other.acquire()
        leave.set()
        await holding
        lock.acquire()
        lock.release()

    try:
        asyncio.run(main())
    finally:
        stop.set()
        thread.join()


def test_a_task_that_waits_for_what_runs_its_loop_is_told(path: Path) -> None:
    """What is around the loop ends after all its tasks. What another task has taken may end before."""

    async def once(lock: Any) -> None:
        async with lock:
            pass

    async def stay(inside: asyncio.Event, leave: asyncio.Event) -> None:
        with Lock(path):
            inside.set()
            await leave.wait()

    async def main() -> None:
        inside, leave = asyncio.Event(), asyncio.Event()
        staying = asyncio.create_task(stay(inside, leave))
        await inside.wait()
        tasks = [asyncio.create_task(once(wanted)) for wanted in (Lock(path), LockSet(Lock(path)))]
        await asyncio.sleep(0)
        leave.set()
        await asyncio.gather(staying, *tasks)

    for held in (Lock(path), LockSet(Lock(path))):
        for wanted in (Lock(path), LockSet(Lock(path)), AsyncFileLock(path)):
            with held, pytest.raises(DeadlockError, match="holds the lock already"):
                asyncio.run(once(wanted))
    asyncio.run(main())


def test_waiting_for_ones_own_slots_is_an_error(path: Path) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    slots = Semaphore(path, 3)
    try:
        with slots, slots.acquire(1):
            with slots:
                pass
            for timeout in (None, 10):
                with pytest.raises(DeadlockError, match="this thread holds so many of the slots already") as caught:
                    slots.acquire(2, timeout)
            assert caught.value.lock_file == str(path)
            with pytest.raises(Timeout):
                slots.acquire(2, 0)
        # Another thread might release it.
        slots.acquire(3)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(slots.release)
            slots.acquire()
        slots.release()
    finally:
        stop.set()
        thread.join()


def test_names_and_paths(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    assert Lock("./b.lock").path == str(path.parent / "b.lock")
    assert Lock(Path("b.lock")).path == str(path.parent / "b.lock")
    assert Lock(b"./b.lock").path == str(path.parent / "b.lock")
    assert Lock(os.fsdecode(b"./\xff.lock")).path == os.fsdecode(os.fsencode(path.parent) + b"/\xff.lock")
    name = f"lockmgr-test-{os.getpid()}"
    lock = Lock(name)
    assert Path(lock.path).name == f"{name}.lock"
    assert Path(lock.path).parent != path.parent
    try:
        with lock, pytest.raises(Timeout):
            pickle.loads(pickle.dumps(lock)).acquire(0)
        assert stat.S_IMODE(os.stat(lock.path).st_mode) == 0o1600
    finally:
        os.unlink(lock.path)
    with pytest.raises(UnsupportedError, match="is no lock name"):
        Lock("no name")
    with pytest.raises(TypeError, match="a lock is a str, bytes or path, not int"):
        Lock(7)  # type: ignore[arg-type]

    class Unsure:
        def __fspath__(self) -> str:
            raise RuntimeError("no path today")

    with pytest.raises(RuntimeError, match="no path today"):
        Lock(Unsure())

    class InBytes:
        def __init__(self, path: bytes) -> None:
            self.path = path

        def __fspath__(self) -> bytes:
            return self.path

    assert Lock(InBytes(b"b.lock")).path == str(path.parent / "b.lock")
    assert Semaphore(InBytes(b"./\xff.lock"), 1).path == os.fsdecode(os.fsencode(path.parent) + b"/\xff.lock")


def test_what_cannot_be_is_refused_when_it_is_made(path: Path) -> None:
    for options in (
        {"mechanism": "semaphore"},
        {"byte_range": (0, 1)},
        {"mechanism": "ofd", "byte_range": (0, 1 << 63)},
        {"mechanism": "posix", "fair": True},
        {"fenced": True, "remove": True},
        {"deadlock": "maybe"},
        {"mode": 0o10000},
        {"mode": -1},
    ):
        with pytest.raises(ValueError, match=f"mode must be|deadlock|is no mechanism|is no byte range|{path}"):
            Lock(path, **options)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match=r"^'x' is no mechanism: use flock, ofd or posix$"):
        Lock(path, mechanism="x")  # type: ignore[arg-type]
    for slots in (-1, 0, 65537, 1 << 40):
        with pytest.raises(ValueError, match=f"65536.* not {slots}"):
            Semaphore(path, slots)
    assert not path.exists()
    assert issubclass(UnsupportedError, LockError)


def test_failures_of_the_system_are_pythons_own(path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        Lock(path / "under" / "nothing").acquire()
    assert caught.value.filename == str(path / "under" / "nothing")
    fifo = path.with_name("fifo")
    os.mkfifo(fifo)
    with pytest.raises(LockError, match="FIFO"):
        Lock(fifo).acquire()
    path.symlink_to(fifo)
    with pytest.raises(LockError):
        Lock(path).acquire()


def test_creation_and_removal(path: Path) -> None:
    deep = path.parent / "some" / "folders" / "deep.lock"
    lock = Lock(deep, parents=True, remove=True, mode=0o640)
    assert not deep.exists()
    with lock:
        assert stat.S_IMODE(deep.stat().st_mode) == 0o640
    assert not deep.exists()
    with pytest.raises(FileNotFoundError):
        Lock(path, create=False).acquire()


def test_release_tells_what_with_keeps_to_itself(path: Path) -> None:
    lock = Lock(path)
    with lock:
        path.unlink()
        assert not lock.still_current()
    lock.acquire()
    path.unlink()
    with pytest.raises(LockError, match="deleted or replaced"):
        lock.release()
    assert not lock.locked()


def test_tokens_grow(path: Path) -> None:
    lock = Lock(path, fenced=True, durable=True)
    assert lock.token is None
    tokens = []
    for _ in range(3):
        with lock:
            tokens.append(lock.token)
    assert None not in tokens
    assert tokens == sorted(set(tokens))  # type: ignore[type-var]
    with lock.acquire(shared=True):
        assert lock.token is None


def test_who_holds_and_who_waits(path: Path) -> None:
    lock = Lock(path)
    assert lock.holders() == []
    assert lock.waiters() == []
    with holder(path, note="a\nnote") as other:
        (found,) = lock.holders()
        assert (found.pid, found.mode, found.mechanism, found.standing) == (other.pid, "exclusive", "flock", "verified")
        assert found.note == "a\\nnote"
        assert found.since is not None
        assert abs(found.since - time.time()) < 3600
        with Process("lockmgr.Lock(sys.argv[1]).acquire()", path) as waiter:
            until_blocked(path)
            (waiting,) = lock.waiters()
            assert (waiting.pid, waiting.mode, waiting.depth) == (waiter.pid, "exclusive", 1)


def test_a_fair_lock_is_first_come_first_served(path: Path) -> None:
    """Without the gate, whoever releases and comes back at once overtakes the one who has to wake up."""
    program = """
        lock = lockmgr.Lock(sys.argv[1], fair=True)
        with lock:
            say("held")
            sys.stdin.readline()
        with lock:
            say("again")
    """
    with Process(program, path) as first:
        first.expect("held")
        lock = Lock(path, fair=True)
        turns: list[str] = []
        release = threading.Event()

        def second() -> None:
            with lock:
                turns.append("second")
                release.wait()

        waiter = threading.Thread(target=second)
        waiter.start()
        until_blocked(path)
        first.tell()
        until(lambda: turns)
        assert turns == ["second"]
        release.set()
        waiter.join()
        first.expect("again")


def test_a_deadlock_of_processes_is_given_up(path: Path) -> None:
    program = """
        a, b = (lockmgr.Lock(it, deadlock="fail") for it in sys.argv[1:3])
        with a:
            say("one")
            sys.stdin.readline()
            try:
                b.acquire()
            except lockmgr.DeadlockError as error:
                say("deadlock" if "pid" in str(error) else error)
            else:
                say("both")
    """
    other = path.with_name("b.lock")
    with Process(program, path, other) as first, Process(program, other, path) as second:
        first.expect("one")
        second.expect("one")
        first.tell()
        second.tell()
        assert sorted([first.line(), second.line()]) in (["both", "deadlock"], ["deadlock", "deadlock"])


def test_a_pickled_lock_is_the_same_lock_elsewhere(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(Lock):
        pass

    monkeypatch.chdir(path.parent)
    options = {"timeout": 0.0, "mechanism": "ofd", "byte_range": (3, 4), "note": "n", "mode": 0o600, "parents": True}
    lock = Lock("./a.lock", **options)  # type: ignore[arg-type]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(lock, protocol)).__getnewargs_ex__() == lock.__getnewargs_ex__()
    with lock:
        copied = pickle.loads(pickle.dumps(lock))
        monkeypatch.chdir("/")
        assert copied.path == str(path)
        assert copied.timeout == 0
        assert copied.__getnewargs_ex__() == lock.__getnewargs_ex__()
        assert not copied.locked()
        with pytest.raises(Timeout):
            copied.acquire()
        with Lock(path, mechanism="ofd", byte_range=(0, 3), timeout=0):
            pass
    assert repr(lock) == f"<Lock {str(path)!r}>"
    with Mine(path) as mine:
        assert repr(mine) == f"<Mine {str(path)!r}, held>"


def test_help_suffices() -> None:
    """Everything public is explained, and shows its arguments."""
    for name in lockmgr.__all__:
        thing = getattr(lockmgr, name)
        if name == "__version__":
            continue
        assert inspect.getdoc(thing), name
        if not inspect.isclass(thing):
            continue
        for member, value in vars(thing).items():
            if member.startswith("_") or not (callable(value) or isinstance(value, property)):
                continue
            assert inspect.getdoc(value), f"{name}.{member}"
    signature = inspect.signature(Lock)
    assert signature.parameters["mechanism"].default == "flock"
    assert ":param" in (Lock.__doc__ or "")
    for parameter in signature.parameters:
        if parameter != "path_or_name":
            assert f":param {parameter}:" in (Lock.__doc__ or ""), parameter
