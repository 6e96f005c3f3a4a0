"""`AsyncFileLock` and `AsyncReadWriteLock` under event loops: tasks, cancellation, loops that go."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from lockmgr import AsyncFileLock, AsyncReadWriteLock, DeadlockError, FileLock, Timeout
from support import BOUND, descriptors, holder, requests, threads_named, until, until_blocked

HAS = {name: importlib.util.find_spec(name) is not None for name in ("uvloop", "trio", "anyio")}


def under_asyncio(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(main())


def under_uvloop(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    import uvloop

    loop = uvloop.new_event_loop()
    try:
        return loop.run_until_complete(main())
    finally:
        loop.close()


RUNNERS = [
    pytest.param(under_asyncio, id="asyncio"),
    pytest.param(
        under_uvloop,
        id="uvloop",
        marks=pytest.mark.skipif(not HAS["uvloop"], reason="SKIPPED: there is no uvloop"),
    ),
]
Run = Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]


async def until_async(what: Callable[[], Any]) -> None:
    """As until(), and the loop runs meanwhile."""
    end = asyncio.get_running_loop().time() + BOUND
    while not what():
        assert asyncio.get_running_loop().time() < end
        await asyncio.sleep(0.002)


def nothing_is_left(path: Path) -> None:
    until(lambda: requests(path) == 0, "the end of the requests")
    until(lambda: not threads_named("lockmgr-wait"), "the end of the waiter threads")


@pytest.mark.parametrize("run", RUNNERS)
def test_tasks_take_turns(run: Run, path: Path) -> None:
    async def main() -> None:
        lock = AsyncFileLock(path)
        inside: list[int] = []

        async def work(number: int) -> None:
            async with lock, lock:
                assert lock.lock_counter == 2
                inside.append(number)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                inside.append(number)

        await asyncio.gather(*(work(number) for number in range(10)))
        assert inside == [number for number in range(10) for _ in range(2)]
        assert not lock.is_locked

    run(main)


@pytest.mark.parametrize("run", RUNNERS)
def test_the_loop_runs_while_a_task_waits(run: Run, path: Path) -> None:
    async def main() -> None:
        with holder(path) as other:
            lock = AsyncFileLock(path)
            task = asyncio.ensure_future(lock.acquire())
            await until_async(lambda: requests(path) == 1)
            # A thread of the library waits, and none of Python's.
            assert threading.active_count() == 1
            assert len(threads_named("lockmgr-wait")) == 1
            other.tell()
            async with await task as held:
                assert held is lock
                assert lock.is_locked
        assert not lock.is_locked

    run(main)
    nothing_is_left(path)


@pytest.mark.parametrize("run", RUNNERS)
@pytest.mark.parametrize("how", ["cancel", "timeout", "wait_for", "its own"])
def test_a_wait_ends_at_once(how: str, run: Run, path: Path) -> None:
    async def main() -> None:
        lock = AsyncFileLock(path)

        async def wait() -> None:
            if how == "timeout":
                async with asyncio.timeout(0.05):
                    await lock.acquire()
            elif how == "wait_for":
                await asyncio.wait_for(lock.acquire(), 0.05)
            elif how == "its own":
                await lock.acquire(0.05)
            else:
                await lock.acquire()

        with holder(path):
            # What the first wait opens for good is not counted.
            with pytest.raises(Timeout):
                await lock.acquire(0.01)
            gc.collect()
            before = descriptors()
            for _ in range(5):
                task = asyncio.ensure_future(wait())
                if how == "cancel":
                    await until_async(lambda: requests(path) == 1)
                    task.cancel()
                with pytest.raises((asyncio.CancelledError, TimeoutError, asyncio.TimeoutError)):
                    await task
                # The kernel's queue is empty before anybody else has had a turn.
                await until_async(lambda: requests(path) == 0)
            assert (lock.is_locked, lock.lock_counter) == (False, 0)
            await until_async(lambda: not threads_named("lockmgr-wait"))
            # Its exception knows the frames, and these what was waited with.
            del task
            await asyncio.sleep(0.01)
            gc.collect()
            assert descriptors() == before
        async with lock:
            assert lock.is_locked

    if how == "timeout" and sys.version_info < (3, 11):
        pytest.skip("SKIPPED: there is no asyncio.timeout")
    run(main)
    nothing_is_left(path)


@pytest.mark.parametrize("run", RUNNERS)
def test_a_queue_goes_on_when_its_front_is_cancelled(run: Run, path: Path) -> None:
    async def main() -> None:
        lock = AsyncFileLock(path)
        got: list[int] = []

        async def work(number: int) -> None:
            async with lock:
                got.append(number)

        with holder(path) as other:
            tasks = [asyncio.ensure_future(work(number)) for number in range(4)]
            await until_async(lambda: requests(path) == 1)
            tasks[0].cancel()
            tasks[2].cancel()
            other.tell()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert got == [1, 3]

    run(main)
    nothing_is_left(path)


@pytest.mark.parametrize("run", RUNNERS)
def test_a_lock_that_comes_with_the_cancellation_is_released(run: Run, path: Path) -> None:
    async def main() -> None:
        for _ in range(30):
            held, lock = AsyncFileLock(path), AsyncFileLock(path)
            await held.acquire()
            task = asyncio.ensure_future(lock.acquire())
            await until_async(lambda: requests(path) == 1)
            await held.release()
            task.cancel()
            came = await asyncio.gather(task, return_exceptions=True)
            if lock.is_locked:
                assert not isinstance(came[0], BaseException)
                await lock.release()
            async with AsyncFileLock(path, timeout=BOUND):
                pass

    run(main)
    nothing_is_left(path)


def test_a_loop_is_closed_while_a_task_waits(path: Path) -> None:
    with holder(path) as other:
        lock = AsyncFileLock(path)
        loop = asyncio.new_event_loop()
        task = loop.create_task(lock.acquire())
        loop.run_until_complete(asyncio.sleep(0))
        until_blocked(path)
        loop.close()
        # Nobody will ever resume it. Python says so when it goes, and rightly.
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        del task
        gc.collect()
        nothing_is_left(path)
        other.tell()
        other.expect("released")
    FileLock(path).acquire(0)


def test_several_loops(path: Path, tmp_path: Path) -> None:
    """One object under the loops of several threads, and what one has acquired released under another."""
    lock = AsyncFileLock(path)
    counter = tmp_path / "counter"
    counter.write_text("0")

    async def work() -> None:
        for _ in range(30):
            async with lock:
                number = int(counter.read_text())
                await asyncio.sleep(0)
                counter.write_text(str(number + 1))

    threads = [threading.Thread(target=lambda: asyncio.run(work())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    assert counter.read_text() == "120"
    asyncio.run(_finish(lock.acquire()))
    assert lock.is_locked
    asyncio.run(_finish(lock.release()))
    assert not lock.is_locked


async def _finish(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def test_it_is_the_lock_of_file_lock(path: Path) -> None:
    async def main() -> None:
        lock = AsyncFileLock(path)
        async with lock:
            with pytest.raises(Timeout):
                FileLock(path).acquire(0)
        error = Timeout("")
        with FileLock(path):

            async def names_us() -> bool:
                nonlocal error
                with pytest.raises(Timeout) as caught:
                    await lock.acquire(0.01)
                error = caught.value
                # Looked for now: the loop was not to be blocked for it. One reading may miss a line.
                return os.getpid() in {one.pid for one in error.holders}

            while not await names_us():
                pass
        assert error.lock_file == str(path)

    asyncio.run(main())


def test_a_killed_holder_is_no_holder(path: Path) -> None:
    async def main() -> None:
        with holder(path) as other:
            lock = AsyncFileLock(path)
            task = asyncio.ensure_future(lock.acquire())
            await until_async(lambda: requests(path) == 1)
            other.signal(signal.SIGKILL)
            await asyncio.wait_for(task, BOUND)
            assert lock.is_locked

    asyncio.run(main())


def test_waiting_for_oneself(path: Path) -> None:
    async def main() -> None:
        held, other = AsyncFileLock(path), AsyncFileLock(path)
        async with held:
            with pytest.raises(DeadlockError):
                await other.acquire()
            # Another task may well wait.
            task = asyncio.ensure_future(other.acquire())
            await until_async(lambda: requests(path) == 1)
        await task
        await other.release()

    asyncio.run(main())


def test_what_a_task_held_is_not_its_successors(path: Path) -> None:
    """A task that is gone has left its hold to whoever releases it, and a new one does not enter."""

    async def main() -> None:
        lock = AsyncFileLock(path)

        async def acquire(timeout: float) -> None:
            await lock.acquire(timeout)

        for _ in range(20):
            await asyncio.ensure_future(acquire(BOUND))
            gc.collect()
            with pytest.raises(Timeout):
                await asyncio.ensure_future(acquire(0))
            await lock.release()

    asyncio.run(main())


@pytest.mark.parametrize("made", ["wait_for", "gather", "create_task"])
@pytest.mark.parametrize("run", RUNNERS)
def test_a_task_that_only_acquires_does_so_for_its_maker(run: Run, made: str, path: Path) -> None:
    """It is over with the acquisition, and could neither enter again nor release."""

    def of_its_own(awaitable: Coroutine[Any, Any, Any]) -> Awaitable[Any]:
        if made == "wait_for":
            return asyncio.wait_for(awaitable, BOUND)
        return asyncio.gather(awaitable) if made == "gather" else asyncio.create_task(awaitable)

    async def main() -> None:
        lock, data = AsyncFileLock(path), AsyncReadWriteLock(path.with_suffix(".data"))
        inside: list[int] = []

        async def work(number: int) -> None:
            for _ in range(10):
                await of_its_own(lock.acquire())
                await of_its_own(data.acquire_write())
                async with lock, data.write_lock():
                    assert not inside
                    inside.append(number)
                    await asyncio.sleep(0)
                    inside.remove(number)
                assert lock.lock_counter == 1
                await of_its_own(data.release())
                await of_its_own(lock.release())

        await asyncio.wait_for(asyncio.gather(*(work(number) for number in range(4))), BOUND)
        assert not lock.is_locked

    run(main)
    nothing_is_left(path)


def test_a_task_that_only_acquires_may_wait_for_its_maker(path: Path) -> None:
    async def main() -> None:
        held, other = AsyncFileLock(path), AsyncFileLock(path)
        async with held:
            task = asyncio.create_task(other.acquire())
            await until_async(lambda: requests(path) == 1)
        await task
        async with other:
            assert other.lock_counter == 2
        await other.release()

    asyncio.run(main())


def test_threads_of_their_own(path: Path) -> None:
    lock = AsyncFileLock(path, thread_local=True, run_in_executor=False)
    seen: list[object] = []

    async def other() -> None:
        seen.append(lock.is_locked)
        with pytest.raises(Timeout):
            await lock.acquire(0)

    async def main() -> None:
        async with lock, lock:
            assert lock.lock_counter == 2
            thread = threading.Thread(target=lambda: asyncio.run(other()))
            thread.start()
            thread.join(BOUND)

    asyncio.run(main())
    assert seen == [False]


def test_in_a_forked_child(path: Path) -> None:
    async def main() -> None:
        lock = AsyncFileLock(path)
        async with lock:
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    assert not lock.is_locked
                    lock._begin(1, 0, None, None)
                except RuntimeError:
                    status = 0
                finally:
                    os._exit(status)
            assert os.waitpid(child, 0)[1] == 0
            assert lock.is_locked

    asyncio.run(main())


@pytest.mark.parametrize("run", RUNNERS)
def test_cancel_check(run: Run, path: Path) -> None:
    async def main() -> None:
        lock = AsyncFileLock(path)
        with holder(path) as other:
            asked: list[int] = []

            def third() -> bool:
                asked.append(1)
                return len(asked) == 3

            with pytest.raises(Timeout):
                await lock.acquire(cancel_check=third, poll_interval=0.01)
            assert len(asked) == 3
            await until_async(lambda: requests(path) == 0)

            def go_on() -> bool:
                if requests(path) == 1:
                    asked.append(1)
                if len(asked) == 20:
                    other.tell()
                return False

            async with await lock.acquire(cancel_check=go_on, poll_interval=0.01):
                assert len(asked) >= 20

    run(main)
    nothing_is_left(path)


@pytest.mark.skipif(not HAS["trio"], reason="SKIPPED: there is no trio")
def test_trio(path: Path) -> None:
    import trio

    async def main() -> None:
        lock = AsyncFileLock(path)
        inside: list[int] = []

        async def work(number: int) -> None:
            async with lock, lock:
                inside.append(number)
                await trio.lowlevel.checkpoint()
                inside.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(work, number)
        assert inside[::2] == inside[1::2]
        with holder(path) as other:
            with trio.move_on_after(0.05) as scope:
                await lock.acquire()
            assert scope.cancelled_caught
            with pytest.raises(Timeout):
                await lock.acquire(0.05)
            asked: list[int] = []
            with pytest.raises(Timeout):
                await lock.acquire(cancel_check=lambda: asked.append(1) or len(asked) == 3)  # type: ignore[func-returns-value]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lock.acquire)
                while requests(path) == 0:
                    await trio.sleep(0.002)
                other.tell()
            assert lock.is_locked
            await lock.release()

    trio.run(main)
    nothing_is_left(path)


@pytest.mark.skipif(not (HAS["anyio"] and HAS["trio"]), reason="SKIPPED: there is no anyio or trio")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_anyio(backend: str, path: Path) -> None:
    import anyio

    async def main() -> None:
        lock, data = AsyncFileLock(path), AsyncReadWriteLock(path.with_suffix(".data"))
        with holder(path) as other:
            with anyio.move_on_after(0.05) as scope:
                await lock.acquire()
            assert scope.cancelled_caught
            async with anyio.create_task_group() as group:
                group.start_soon(lock.acquire)
                while requests(path) == 0:
                    await anyio.sleep(0.002)
                other.tell()
        assert lock.is_locked
        await lock.release()
        async with data.write_lock():
            with anyio.move_on_after(0.05) as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(data.acquire_read)
            assert scope.cancel_called

    anyio.run(main, backend=backend)
    nothing_is_left(path)


def test_without_a_loop(path: Path) -> None:
    """It says so; and what needs no wait needs no loop."""
    lock = AsyncFileLock(path)
    coroutine = lock.acquire()
    with pytest.raises(StopIteration):
        coroutine.send(None)
    assert lock.is_locked
    waiting = AsyncFileLock(path).acquire(60)
    with pytest.raises(RuntimeError, match="asyncio or trio"):
        waiting.send(None)
    nothing_is_left(path)


@pytest.mark.parametrize("kind", [AsyncFileLock, AsyncReadWriteLock])
def test_a_long_wait_is_told(kind: Any, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lockmgr")

    async def main() -> None:
        with holder(path) as other:
            lock = kind(path)
            acquire = lock.acquire if kind is AsyncFileLock else lock.acquire_read
            task = asyncio.ensure_future(acquire())
            await until_async(lambda: caplog.records)
            assert str(other.pid) in caplog.records[0].getMessage()
            other.tell()
            await task

    asyncio.run(main())


class TestReadersAndWriters:
    def test_tasks_take_turns(self, path: Path) -> None:
        async def main() -> None:
            lock = AsyncReadWriteLock(path)
            readers = writers = most = 0

            async def read() -> None:
                nonlocal readers, most
                async with lock.read_lock():
                    readers += 1
                    most = max(most, readers)
                    assert writers == 0
                    for _ in range(5):
                        await asyncio.sleep(0)
                    readers -= 1

            async def write() -> None:
                nonlocal writers
                async with lock.write_lock():
                    writers += 1
                    assert (readers, writers) == (0, 1)
                    await asyncio.sleep(0)
                    writers -= 1

            kinds = [read, read, read, write, read, read, write, write]
            await asyncio.gather(*(kind() for _ in range(5) for kind in kinds))
            assert most > 1

        asyncio.run(main())
        nothing_is_left(path)

    @pytest.mark.parametrize("run", RUNNERS)
    def test_cancelled(self, run: Run, path: Path) -> None:
        async def main() -> None:
            one, two = AsyncReadWriteLock(path), AsyncReadWriteLock(path, is_singleton=False)
            async with one.write_lock():
                task = asyncio.ensure_future(two.acquire_read())
                await until_async(lambda: requests(path) > 0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await until_async(lambda: requests(path) == 0)
            await two.acquire_write(BOUND)
            await two.close()

        run(main)
        nothing_is_left(path)

    def test_waiting_for_oneself(self, path: Path) -> None:
        async def main() -> None:
            one, two = AsyncReadWriteLock(path), AsyncReadWriteLock(path, is_singleton=False)
            async with one.read_lock():
                with pytest.raises(DeadlockError):
                    await two.acquire_write()
                async with two.read_lock():
                    pass

        asyncio.run(main())
