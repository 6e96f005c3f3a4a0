"""Under event loops: nothing blocks, a cancelled wait is over at once, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
import uvloop
from lockmgr import DeadlockError, Lock, LockSet, Semaphore, Timeout
from support import Process, descriptors, holder, requests, threads_named, until, until_no_waiter_threads

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine in a loop of that kind."""
    loops: dict[str, Any] = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

    def run(main: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=loops[request.param]) as runner:
            return runner.run(main)

    return run


async def until_blocked(path: Path, count: int = 1) -> None:
    """Looks until so many requests are queued in the kernel, without blocking the loop."""
    end = time.monotonic() + 60
    while requests(path) < count:
        assert time.monotonic() < end, f"nobody waits for {path}"
        await asyncio.sleep(0.002)


def test_tasks_exclude_each_other_and_processes(run: Run, path: Path) -> None:
    lock = Lock(path)
    now = most = 0

    async def work() -> None:
        nonlocal now, most
        for _ in range(20):
            async with lock:
                now += 1
                most = max(most, now)
                await asyncio.sleep(0)
                now -= 1

    async def main() -> None:
        await asyncio.gather(*(work() for _ in range(5)))
        assert most == 1
        with holder(path) as other:
            waiter = asyncio.create_task(enter(lock))
            await until_blocked(path)
            # The loop is not blocked, or this would not be here.
            assert not waiter.done()
            other.tell()
            await waiter
            lock.release()

    run(main())


async def enter(lock: Lock, timeout: float | None = None) -> None:
    await lock.acquire_async(timeout)


def test_forms_and_timeouts(run: Run, path: Path) -> None:
    async def main() -> None:
        lock = Lock(path)
        async with lock as same:
            assert same is lock
        async with lock.acquire_async(timeout=5) as same:
            assert same is lock
            assert lock.locked()
        assert await lock.acquire_async(0) is lock
        lock.release()
        with holder(path) as other:
            since = time.monotonic()
            with pytest.raises(Timeout) as caught:
                async with lock.acquire_async(timeout=0.05):
                    pass
            assert time.monotonic() - since >= 0.05
            assert [it.pid for it in caught.value.holders] == [other.pid]
            with pytest.raises(Timeout):
                await lock.acquire_async(0)
            with pytest.raises(Timeout):
                async with Lock(path, timeout=0.01):
                    pass

    run(main())


def test_cancelling_ends_the_wait_at_once_and_leaves_nothing_behind(run: Run, path: Path) -> None:
    async def main() -> None:
        lock = Lock(path)
        with holder(path) as other:
            # One in the kernel, two in the queue behind it.
            tasks = [asyncio.create_task(enter(lock)) for _ in range(3)]
            await until_blocked(path)
            before = descriptors()
            for task in reversed(tasks):
                task.cancel()
            for task in tasks:
                with pytest.raises(asyncio.CancelledError):
                    await task
            until(lambda: requests(path) == 0)
            until_no_waiter_threads()
            assert descriptors() < before
            assert not lock.locked()
            other.tell()
            other.expect("released")
            # And it is not got by anybody afterwards.
            Lock(path).acquire(0).lock.release()
            await asyncio.sleep(0)
            assert not lock.locked()

    run(main())


def test_asyncio_timeout_ends_the_wait(run: Run, path: Path) -> None:
    async def main() -> None:
        lock = Lock(path)
        with holder(path):
            with pytest.raises(TimeoutError) as caught:
                async with asyncio.timeout(0.02), lock:
                    pass
            assert not isinstance(caught.value, Timeout)
            until(lambda: requests(path) == 0)
        until_no_waiter_threads()

    run(main())


def test_a_wait_that_is_cancelled_when_it_is_granted_holds_nothing(run: Run, path: Path) -> None:
    async def main() -> None:
        lock, other = Lock(path), Lock(path)
        for number in range(100):
            other.acquire()
            task = asyncio.create_task(enter(lock))
            await asyncio.sleep(0)
            await until_blocked(path)
            other.release()
            for _ in range(number % 3):
                await asyncio.sleep(0)
            if number % 2:
                time.sleep(0.0003)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                assert not lock.locked()
            else:
                lock.release()
        other.acquire(60)
        other.release()

    run(main())
    until_no_waiter_threads()


def test_a_loop_that_is_closed_while_a_task_waits(path: Path) -> None:
    for new in (asyncio.new_event_loop, uvloop.new_event_loop):
        # The first loop of a kind opens what all of them share.
        new().close()
        gc.collect()
        before = descriptors()
        lock = Lock(path)
        with holder(path) as other:
            loop = new()
            task = loop.create_task(enter(lock))
            loop.run_until_complete(until_blocked(path))
            loop.close()
            # asyncio complains that the task was pending; that is not what is tested.
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            del task, loop
            gc.collect()
            until(lambda: requests(path) == 0)
            until_no_waiter_threads()
            other.tell()
            other.expect("released")
            # Somebody else can have it: nobody is left who holds it.
            Lock(path).acquire(60).lock.release()
            assert not lock.locked()
        del lock
        assert descriptors() == before


@pytest.mark.parametrize("kind", ["lock", "reentrant", "semaphore"])
def test_a_task_that_is_forgotten_inside_leaves(path: Path, kind: str) -> None:
    kinds: dict[str, Callable[[], Any]] = {
        "lock": lambda: Lock(path),
        "reentrant": lambda: Lock(path, reentrant=True),
        "semaphore": lambda: Semaphore(path, 1),
    }
    lock = kinds[kind]()

    async def stay() -> None:
        async with lock:
            await asyncio.get_running_loop().create_future()

    loop = asyncio.new_event_loop()
    task = loop.create_task(stay())
    loop.run_until_complete(asyncio.sleep(0))
    assert lock.locked()
    loop.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    del task, loop
    gc.collect()
    assert not lock.locked()
    with kinds[kind]().acquire(timeout=0):
        pass


def test_a_task_that_is_forgotten_inside_takes_nothing_from_others(path: Path) -> None:
    slots = Semaphore(path, 3)

    async def stay() -> None:
        async with slots:
            await asyncio.get_running_loop().create_future()

    loop = asyncio.new_event_loop()
    own = slots.acquire()
    forgotten, other = loop.create_task(stay()), loop.create_task(stay())
    loop.run_until_complete(asyncio.sleep(0))
    assert own.slots == [0]
    forgotten._log_destroy_pending = False  # type: ignore[attr-defined]
    del forgotten
    gc.collect()
    # The second slot was the forgotten one's; the first one's and the third one's holders still have theirs.
    another = Semaphore(path, 3)
    assert another.acquire(timeout=0).slots == [1]
    with pytest.raises(Timeout):
        another.acquire(timeout=0)
    assert own.held
    other.cancel()
    loop.run_until_complete(asyncio.gather(other, return_exceptions=True))
    loop.close()


def test_several_loops_share_a_lock(path: Path) -> None:
    lock = Lock(path)
    now = most = times = 0

    async def work() -> None:
        nonlocal now, most, times
        for _ in range(20):
            async with lock:
                now += 1
                times += 1
                most = max(most, now)
                await asyncio.sleep(0)
                now -= 1

    async def main() -> None:
        await asyncio.gather(work(), work())

    threads = [threading.Thread(target=lambda: asyncio.run(main())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, times) == (1, 120)


def test_one_thread_waits_for_a_handle_and_takes_no_signals(run: Run, path: Path) -> None:
    async def main() -> None:
        lock, another = Lock(path), Lock(path)
        threads = threading.active_count()
        with holder(path) as other:
            tasks = [asyncio.create_task(enter(lock)) for _ in range(3)]
            await until_blocked(path)
            (waiter,) = threads_named("lockmgr-wait")
            tasks.append(asyncio.create_task(enter(another)))
            await until_blocked(path, 2)
            assert len(threads_named("lockmgr-wait")) == 2
            # None of them is Python's.
            assert threading.active_count() == threads
            status = Path(f"/proc/self/task/{waiter}/status").read_text()
            (blocked,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigBlk"))
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGALRM, signal.SIGUSR1):
                assert int(blocked, 16) >> (number - 1) & 1
            other.tell()
            for _ in range(4):
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                (lock if lock.locked() else another).release()
                tasks = [task for task in tasks if not task.done()]
                if not tasks:
                    break

    run(main())


def test_semaphores_and_sets_are_awaited_and_cancelled_the_same_way(run: Run, path: Path) -> None:
    async def main() -> None:
        second = path.with_name("b.lock")
        semaphore = Semaphore(path.with_name("s.lock"), 2)
        both = LockSet(Lock(path), Lock(second))
        for several in (semaphore, both):
            async with several:
                assert several.locked()
            assert not several.locked()
            async with several.acquire_async(timeout=60) as hold:
                assert hold.held
            assert not several.locked()
        async with semaphore.acquire_async(2):
            waiter = asyncio.create_task(wait_for(semaphore))
            await asyncio.sleep(0.01)
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
            with pytest.raises(Timeout):
                await asyncio.create_task(wait_for(semaphore, 0.01))
            with pytest.raises(Timeout):
                await semaphore.acquire_async(timeout=0)
            with pytest.raises(DeadlockError, match="this task holds so many of the slots"):
                await semaphore.acquire_async(timeout=60)
            waiter = asyncio.create_task(wait_for(semaphore))
            await asyncio.sleep(0)
        await waiter
        semaphore.release()
        with holder(path) as other:
            waiter = asyncio.create_task(wait_for(both))
            await until_blocked(path)
            other.tell()
            await waiter
            both.release()

    run(main())
    until_no_waiter_threads()


async def wait_for(several: Semaphore | LockSet, timeout: float | None = None) -> None:
    await several.acquire_async(timeout=timeout)


def test_an_acquisition_is_entered_by_several_tasks_and_by_one_again(run: Run, path: Path) -> None:
    async def main() -> None:
        slots = Semaphore(path, 2)
        acquisition = slots.acquire_async()
        async with acquisition as outer:
            async with acquisition as inner:
                assert sorted([outer.slots, inner.slots]) == [[0], [1]]
            assert (outer.held, inner.held) == (True, False)
        assert not slots.locked()

        async def enter(inside: asyncio.Event, leave: asyncio.Event) -> None:
            async with acquisition:
                inside.set()
                await leave.wait()

        events = [(asyncio.Event(), asyncio.Event()) for _ in range(2)]
        tasks = [asyncio.create_task(enter(*both)) for both in events]
        for (inside, leave), task in zip(events, tasks, strict=True):
            await inside.wait()
            leave.set()
            await task
        assert not slots.locked()

    run(main())


@pytest.mark.parametrize("kind", ["lock", "shared", "set", "semaphore", "acquisition"])
def test_what_was_released_inside_is_not_taken_from_the_next_one(run: Run, path: Path, kind: str) -> None:
    kinds: dict[str, Callable[[], Any]] = {
        "lock": lambda: Lock(path),
        "shared": lambda: Lock(path, shared=True),
        "set": lambda: LockSet(Lock(path)),
        "semaphore": lambda: Semaphore(path, 1),
        "acquisition": lambda: Semaphore(path, 1),
    }
    lock, other = kinds[kind](), kinds[kind]()

    async def first(released: asyncio.Event, leave: asyncio.Event) -> None:
        async with lock.acquire_async() if kind == "acquisition" else lock:
            lock.release()
            released.set()
            await leave.wait()

    async def main() -> None:
        released, leave = asyncio.Event(), asyncio.Event()
        leaving = asyncio.create_task(first(released, leave))
        await released.wait()
        async with lock:
            leave.set()
            await asyncio.gather(leaving, return_exceptions=True)
            assert lock.locked()
            with pytest.raises(Timeout):
                other.acquire(timeout=0, **({"shared": False} if kind == "shared" else {}))
        assert not lock.locked()

    run(main())


def test_a_timeout_that_cannot_be_is_refused_though_there_is_no_need_to_wait(path: Path) -> None:
    async def main() -> None:
        for several in (Semaphore(path, 1), LockSet(Lock(path))):
            for timeout in (-1, float("nan")):
                with pytest.raises(ValueError, match="timeout must be"):
                    await several.acquire_async(timeout=timeout)
                with pytest.raises(ValueError, match="timeout must be"):
                    several.timeout = timeout
            with pytest.raises(TypeError):
                await several.acquire_async(timeout="x")  # type: ignore[arg-type]
            assert not several.locked()

    with pytest.raises(ValueError, match="timeout must be"):
        LockSet(Lock(path), timeout=-1)
    with pytest.raises(TypeError):
        Semaphore(path, 1, timeout="x")  # type: ignore[arg-type]
    asyncio.run(main())


def test_posix_locks_are_not_awaited(path: Path) -> None:
    async def main() -> None:
        async with Lock(path, mechanism="posix"):
            pass
        with holder(path, mechanism="posix"), pytest.raises(ValueError, match="posix locks have no async waits"):
            await Lock(path, mechanism="posix").acquire_async()

    asyncio.run(main())


def test_trio_and_anyio(path: Path) -> None:
    async def main() -> None:
        lock = Lock(path)
        async with lock:
            pass
        with holder(path) as other:
            with anyio.move_on_after(0.05):
                async with lock:
                    raise AssertionError("it is held")
            assert not lock.locked()
            with pytest.raises(Timeout):
                await lock.acquire_async(0.01)
            async with anyio.create_task_group() as group:
                group.start_soon(enter, lock)
                while requests(path) == 0:
                    await anyio.sleep(0.002)
                other.tell()
            assert lock.locked()
            lock.release()
            async with Lock(path, reentrant=True) as again, again:
                pass

    trio.run(main)
    anyio.run(main, backend="trio")
    anyio.run(main, backend="asyncio")
    until_no_waiter_threads()


def test_without_a_loop_there_is_a_clear_error(path: Path) -> None:
    with holder(path):
        attempt = enter(Lock(path))
        with pytest.raises(RuntimeError, match="under asyncio or trio"):
            attempt.send(None)
    until_no_waiter_threads()


def test_ctrl_c_under_asyncio(path: Path) -> None:
    program = """
        import asyncio
        async def main():
            async with lockmgr.Lock(sys.argv[1]):
                say("acquired")
        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            say("interrupted")
    """
    with holder(path), Process(program, path) as waiter:
        until(lambda: requests(path))
        waiter.signal(signal.SIGINT)
        waiter.expect("interrupted")
        assert waiter.end() == 0


def test_importing_lockmgr_imports_no_asyncio() -> None:
    with Process("say('asyncio' in sys.modules, 'logging' in sys.modules)") as process:
        process.expect("False False")
