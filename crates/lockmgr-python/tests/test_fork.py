"""A hold belongs to the process that took it, and ends with what it was taken by."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest
from lockmgr import Lock, LockSet, Semaphore, Timeout
from support import Process, holder, requests, until, until_blocked

FORKED = """
path = sys.argv[1]
lock = lockmgr.Lock(path)
with lock:
    if os.fork() == 0:
        say("child", lock.locked())
        try:
            lock.acquire(0)
        except lockmgr.Timeout as error:
            say("busy", error.holders[0].pid == os.getppid())
        try:
            lock.release()
        except RuntimeError:
            say("not the child's")
        del lock
        lock = lockmgr.Lock(path)
        # Not by way of sys.stdin, which would read the parent's byte as well.
        os.read(0, 1)
        lock.acquire(60)
        say("child acquired")
        os._exit(0)
    os.read(0, 1)
say("parent released")
os.wait()
"""


def test_a_forked_child_neither_owns_nor_releases(path: Path) -> None:
    with Process(FORKED, path) as process:
        process.expect("child False")
        process.expect("busy True")
        process.expect("not the child's")
        with pytest.raises(Timeout) as caught:
            Lock(path).acquire(0)
        assert caught.value.holders[0].pid == process.pid
        # One byte is the child's, the other one the parent's, whoever reads first.
        process.tell()
        process.tell()
        assert sorted([process.line(), process.line()]) == ["child acquired", "parent released"]


def test_leaving_the_with_in_the_child_changes_nothing(path: Path) -> None:
    for several in (Lock(path), LockSet(Lock(path)), Semaphore(path.with_name("s"), 1)):
        with several:
            child = os.fork()
            if child:
                assert os.waitpid(child, 0)[1] == 0
                assert several.locked()
        if not child:
            os._exit(several.locked())
        assert not several.locked()


def test_a_child_does_not_keep_its_dead_parents_lock(path: Path) -> None:
    program = """
        with lockmgr.Lock(sys.argv[1]):
            if os.fork() == 0:
                say("child", os.getpid())
                time.sleep(1000)
            time.sleep(1000)
    """
    with Process(program, path) as process:
        child = int(process.line().split()[1])
        try:
            process.signal(signal.SIGKILL)
            Lock(path).acquire(60)
        finally:
            os.kill(child, signal.SIGKILL)


def contend(lock: Any, numbers: Any, counter: Any) -> None:
    for _ in range(numbers):
        with lock:
            value = counter.value
            until(lambda: True)
            counter.value = value + 1


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("kind", ["Lock", "Semaphore", "LockSet"])
def test_multiprocessing_workers_contend_each_on_its_own(path: Path, method: str, kind: str) -> None:
    context: Any = multiprocessing.get_context(method)
    lock: Any = {
        "Lock": lambda: Lock(path, timeout=60),
        "Semaphore": lambda: Semaphore(path, 1, timeout=60),
        "LockSet": lambda: LockSet(Lock(path), Lock(path.with_name("b")), timeout=60),
    }[kind]()
    counter = context.RawValue("i", 0)
    # Held while they are made: none of them gets it by that.
    with lock:
        workers = [context.Process(target=contend, args=(lock, 50, counter)) for _ in range(2)]
        for worker in workers:
            worker.start()
        assert counter.value == 0
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert counter.value == 100


def test_what_is_forgotten_while_held_is_released(path: Path) -> None:
    lock = Lock(path)
    lock.acquire()
    cycle: list[Any] = [lock]
    cycle.append(cycle)
    del lock
    with pytest.raises(Timeout):
        Lock(path).acquire(0)
    del cycle
    gc.collect()
    Lock(path).acquire(0)


def test_what_is_forgotten_with_its_acquisition_is_released(path: Path) -> None:
    class Keeper(Lock):
        pass

    lock: Any = Keeper(path)
    lock.acquired = lock.acquire()
    del lock
    gc.collect()
    Lock(path).acquire(0)


def test_what_is_held_at_exit_is_released_and_removed(path: Path) -> None:
    program = """
        lock = lockmgr.Lock(sys.argv[1], remove=True)
        lock.acquire()
        slots = lockmgr.Semaphore(sys.argv[1] + "s", 1)
        slots.acquire()
        say("held")
    """
    with Process(program, path) as process:
        process.expect("held")
        assert process.end() == 0
    assert not path.exists()
    Semaphore(f"{path}s", 1).acquire(timeout=0)


def test_daemon_threads_that_wait_do_not_disturb_the_exit(path: Path) -> None:
    """They are let in when the main thread's lock goes, while the interpreter is taken down."""
    program = """
        mine = lockmgr.Lock(sys.argv[1])
        mine.acquire()
        class Last:
            # The last words of this program, spoken while the interpreter is taken down.
            def __init__(self):
                self.release, self.sleep = mine.release, time.sleep
            def __del__(self):
                self.release()
                self.sleep(0.2)
        last = Last()
        def wait(timeout):
            lock = lockmgr.Lock(sys.argv[1])
            with lock.acquire(timeout):
                pass
        for timeout in (None, None, 1000, 1000):
            threading.Thread(target=wait, args=(timeout,), daemon=True).start()
        say("started")
        sys.stdin.readline()
    """
    for _ in range(5):
        with Process(program, path, stderr=subprocess.PIPE) as process:
            process.expect("started")
            until_blocked(path, 4)
            process.tell()
            assert process.end() == 0
            assert process.process.stderr is not None
            with process.process.stderr as errors:
                assert errors.read() == b""


def test_a_daemon_thread_of_a_loop_does_not_either(path: Path) -> None:
    program = """
        import asyncio
        async def main():
            async with lockmgr.Lock(sys.argv[1]):
                pass
        threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
        say("started")
        sys.stdin.readline()
    """
    with holder(path), Process(program, path, stderr=subprocess.PIPE) as process:
        process.expect("started")
        until_blocked(path)
        process.tell()
        assert process.end() == 0
    until(lambda: requests(path) == 0)


@pytest.mark.parametrize("first", ["main", "sub"])
def test_a_subinterpreter_says_that_it_does_not_work_there(path: Path, first: str) -> None:
    program = """
        try:
            import _interpreters as interpreters
        except ImportError:
            import _xxsubinterpreters as interpreters
        import sys, textwrap
        path, first = sys.argv[1:]
        if first == "main":
            import lockmgr
        # As embedders and older versions make them: whatever a module says, it is loaded.
        try:
            other = interpreters.create("legacy")
        except TypeError:
            other = interpreters.create(isolated=False)
        script = '''
        try:
            import lockmgr
        except ImportError as error:
            print("subinterpreter" in str(error), flush=True)
        '''
        interpreters.run_string(other, textwrap.dedent(script))
        interpreters.destroy(other)
        import lockmgr
        with lockmgr.Lock(path):
            try:
                lockmgr.Lock(path).acquire(0)
            except lockmgr.Timeout:
                print("done", flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), path, first]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["True", "done"]


def test_a_lock_is_used_while_the_interpreter_is_taken_down(path: Path) -> None:
    """By what is forgotten only then, when nothing can be imported any more."""
    program = """
        class Late:
            # All it needs: the names of the module are gone by then.
            def __init__(self, *needs):
                self.needs = needs

            def __del__(self):
                lock, busy, write = self.needs
                try:
                    lock.acquire(0)
                except BaseException as error:
                    write(1, (" ".join(it.__name__ for it in type(error).__mro__[:2]) + "\\n").encode())
                    write(1, (str(error.holders[0].pid if isinstance(error, busy) else error) + "\\n").encode())

        late = Late(lockmgr.Lock(sys.argv[1]), lockmgr.Timeout, os.write)
        late.itself = late
        sys.modules["kept"] = late
        say("ready")
    """
    with holder(path) as other, Process(program, path) as process:
        process.expect("ready")
        process.expect("Timeout LockError")
        process.expect(str(other.pid))
        assert process.end() == 0


def test_threads_may_fork_while_others_wait(path: Path) -> None:
    """What other threads are in the middle of does not exist in the child, and blocks nothing there."""
    lock = Lock(path)
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            with lock:
                pass

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(30):
            child = os.fork()
            if not child:
                lock.acquire(60)
                lock.release()
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
