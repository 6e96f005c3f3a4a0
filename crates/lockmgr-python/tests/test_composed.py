"""`Semaphore`, `LockSet`, `run`, `locks`."""

from __future__ import annotations

import inspect
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import typing
from pathlib import Path

import lockmgr
import pytest
from lockmgr import Lock, LockSet, Semaphore, Timeout
from support import Process, holder, until, until_blocked


def test_a_semaphore_lets_so_many_in(path: Path) -> None:
    slots = Semaphore(path, 3)
    now = most = times = 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal now, most, times
        for _ in range(20):
            with slots:
                with guard:
                    now += 1
                    times += 1
                    most = max(most, now)
                time.sleep(0)
                with guard:
                    now -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert times == 120
    assert 1 < most <= 3
    assert not slots.locked()


def test_slots_are_shared_with_other_processes_and_free_when_these_die(path: Path) -> None:
    program = """
        slots = lockmgr.Semaphore(sys.argv[1], 2)
        slots.acquire()
        say("held")
        sys.stdin.readline()
    """
    slots = Semaphore(path, 2, timeout=0)
    with Process(program, path) as other:
        other.expect("held")
        with slots.acquire() as hold:
            assert hold.slots == [1]

            def holders() -> set[int | None]:
                with pytest.raises(Timeout) as caught:
                    slots.acquire()
                return {it.pid for it in caught.value.holders}

            # The look is given up after 20 ms, which on a busy machine may be too early for this kind of lock.
            until(lambda: holders() == {other.pid, os.getpid()})
        with pytest.raises(Timeout):
            slots.acquire(2)
        waiter = threading.Thread(target=slots.acquire, args=(2, 60))
        waiter.start()
        other.signal(signal.SIGKILL)
        waiter.join(60)
        assert slots.locked()
        slots.release()
    with pytest.raises(RuntimeError, match="is not held"):
        slots.release()


def test_forms_of_a_semaphore(path: Path) -> None:
    slots = Semaphore(path, 2)
    assert (slots.slots, slots.path) == (2, str(path))
    first = slots.acquire()
    second = slots.acquire(timeout=1)
    assert sorted([first.slots, second.slots]) == [[0], [1]]
    first.release()
    slots.release()
    assert not slots.locked()
    copied = pickle.loads(pickle.dumps(slots))
    assert (copied.path, copied.slots) == (str(path), 2)
    for count in (0, 3):
        with pytest.raises(ValueError, match=r"."):
            slots.acquire(count)
    with pytest.raises(ValueError, match=r"."):
        Semaphore(path, 0)


def test_annotations_can_be_evaluated_and_attributes_are_documented(path: Path) -> None:
    for kind in (Semaphore, LockSet):
        assert "timeout" in typing.get_type_hints(kind.__init__)
        assert "seconds" in inspect.getdoc(kind.timeout)  # type: ignore[operator, arg-type]
    assert inspect.getdoc(LockSet.locks) == "The locks, as they were given."
    slots = Semaphore(path, 1)
    slots.timeout = 0
    with slots, pytest.raises(Timeout):
        slots.acquire()
    assert slots.timeout == 0.0


def test_a_set_is_all_or_nothing(path: Path) -> None:
    second = path.with_name("b.lock")
    with pytest.raises(TypeError, match="made of Lock objects, and str is none"):
        LockSet(str(path))  # type: ignore[arg-type]
    both = LockSet(Lock(path), Lock(second, shared=True), timeout=0.01)
    with both:
        for one in (path, second):
            with pytest.raises(Timeout):
                Lock(one).acquire(0)
        Lock(second).acquire(0, shared=True)
    with holder(second) as other:
        with pytest.raises(Timeout) as caught:
            both.acquire()
        assert caught.value.lock_file == str(second)
        assert [it.pid for it in caught.value.holders] == [other.pid]
        Lock(path).acquire(0)
        waiter = threading.Thread(target=both.acquire, args=(60,))
        waiter.start()
        until_blocked(second)
        other.tell()
        waiter.join(60)
        assert both.locked()
        both.release()


def test_sets_in_any_order_do_not_deadlock(path: Path) -> None:
    program = """
        both = lockmgr.LockSet(*map(lockmgr.Lock, sys.argv[1:]), timeout=60)
        for _ in range(100):
            with both:
                pass
        say("done")
    """
    second = path.with_name("b.lock")
    with Process(program, path, second) as one, Process(program, second, path) as other:
        one.expect("done")
        other.expect("done")


def test_run_is_subprocess_run_under_a_lock(path: Path) -> None:
    script = "import sys; print(sys.argv[1]); sys.exit(3)"
    done = lockmgr.run(path, [sys.executable, "-c", script, "text"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "text\n")
    with pytest.raises(subprocess.CalledProcessError):
        lockmgr.run(Lock(path), [sys.executable, "-c", script, "text"], check=True, stdout=subprocess.DEVNULL)
    with holder(path), pytest.raises(Timeout):
        lockmgr.run(path, ["true"], lock_timeout=0.01)
    with pytest.raises(FileNotFoundError):
        lockmgr.run(path, ["./no such command"])
    Lock(path).acquire(0)


@pytest.mark.parametrize("close_fds", [True, False])
@pytest.mark.parametrize("mechanism", ["flock", "ofd"])
def test_the_command_keeps_the_lock_when_its_runner_is_killed(path: Path, mechanism: str, close_fds: bool) -> None:
    program = """
        script = "import os, sys; print(os.getpid(), flush=True); sys.stdin.readline()"
        lock = lockmgr.Lock(sys.argv[1], mechanism=sys.argv[2])
        lockmgr.run(lock, [sys.executable, "-c", script], close_fds=eval(sys.argv[3]))
    """
    lock = Lock(path, mechanism=mechanism)  # type: ignore[arg-type]
    with Process(program, path, mechanism, close_fds) as runner:
        command = int(runner.line())
        runner.signal(signal.SIGKILL)
        assert runner.process.wait(60) == -signal.SIGKILL
        with pytest.raises(Timeout):
            lock.acquire(0)
        until(lambda: command in [it.pid for it in lock.holders()])
        runner.tell()
        lock.acquire(60)


@pytest.mark.filterwarnings("error")
def test_the_command_inherits_what_subprocess_run_hands_on(path: Path) -> None:
    with open(path.with_name("one"), "w") as one, open(path.with_name("two"), "w") as two:
        os.set_inheritable(one.fileno(), True)
        script = "import os, sys\nfor fd in {*os.listdir('/proc/self/fd')} & {*sys.argv[1:]}: os.write(int(fd), b'x')"
        command = [sys.executable, "-c", script, str(one.fileno()), str(two.fileno())]
        lockmgr.run(path, command, close_fds=False, check=True)
        lockmgr.run(path, command, pass_fds=[two.fileno()], check=True)
        lockmgr.run(path, command, check=True)
    assert path.with_name("one").read_text() == "x"
    assert path.with_name("two").read_text() == "x"
    Lock(path).acquire(0)


def test_what_the_command_leaves_behind_does_not_keep_the_lock(path: Path) -> None:
    script = "sleep 1000 >/dev/null 2>&1 & echo $!"
    done = lockmgr.run(path, ["sh", "-c", script], stdout=subprocess.PIPE, text=True, check=True)
    try:
        Lock(path).acquire(0)
    finally:
        os.kill(int(done.stdout), signal.SIGKILL)


def test_every_lock_on_the_machine(path: Path) -> None:
    with holder(path, note="why") as other, Process("lockmgr.Lock(sys.argv[1]).acquire()", path) as waiter:
        until_blocked(path)
        found = until(lambda: [it for it in lockmgr.locks() if it.path == str(path)])
        (lock,) = found
        assert (lock.mode, lock.mechanism, lock.byte_range, lock.deleted) == ("exclusive", "flock", (0, None), False)
        assert [(it.pid, it.note) for it in lock.holders] == [(other.pid, "why")]
        assert [it.pid for it in lock.waiters] == [waiter.pid]
