"""`LockMgr`, the classic interface, without the original's faults."""

from __future__ import annotations

import os
import pickle
import signal
import stat
import threading
import time
from pathlib import Path

import pytest
from lockmgr import FileLock, LockMgr, ReadWriteLock
from support import Process, descriptors, holder, until, until_blocked


def test_the_classic_sequence(path: Path) -> None:
    lock = LockMgr(str(path))
    assert (lock.lockfile, lock.fd_w, lock.acquired, lock.msg) == (str(path), None, False, "")
    assert not path.exists()
    assert lock.acquire_lock() is True
    assert (lock.acquired, lock.msg) == (True, "Success")
    assert lock.fd_w is not None
    assert os.fstat(lock.fd_w).st_ino == path.stat().st_ino
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert lock.acquire_lock() is True
    assert lock.msg == "Already locked"
    assert lock.release_lock() is True
    assert (lock.fd_w, lock.acquired, lock.msg) == (None, False, "success: lock released")
    assert not path.exists()
    assert lock.release_lock() is False
    assert lock.msg == "No lock to release"


def test_the_permissions_do_not_depend_on_the_umask(path: Path) -> None:
    before = os.umask(0o077)
    try:
        lock = LockMgr(path)
        assert lock.acquire_lock()
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        assert lock.release_lock()
    finally:
        os.umask(before)


def test_busy_and_timed_out_name_the_holder(path: Path) -> None:
    lock = LockMgr(path)
    with holder(path) as other:
        assert lock.acquire_lock() is False
        assert lock.msg.startswith("Failed: ")
        assert f"held by pid {other.pid} (" in lock.msg
        since = time.monotonic()
        assert lock.acquire_lock(wait=True, timeout=0.05) is False
        assert time.monotonic() - since >= 0.05
        assert f"held by pid {other.pid} (" in lock.msg
        assert (lock.acquired, lock.fd_w) == (False, None)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_holder_lets_the_waiter_in_at_once(path: Path, number: int) -> None:
    lock = LockMgr(path)
    with holder(path) as other:
        waiter = threading.Thread(target=lock.acquire_lock, args=(True, 1000))
        waiter.start()
        until_blocked(path)
        other.signal(number)
        waiter.join(60)
        assert lock.acquired
    assert lock.release_lock()


def test_a_wait_leaks_nothing(path: Path) -> None:
    lock = LockMgr(path)
    lock.acquire_lock()
    lock.release_lock()
    with holder(path):
        assert not lock.acquire_lock(True, 0.001)
        before = descriptors()
        for _ in range(20):
            assert not lock.acquire_lock(True, 0.001)
        assert descriptors() == before


def test_errors_are_told_as_they_are(path: Path) -> None:
    lock = LockMgr(path / "under" / "nothing")
    assert lock.acquire_lock() is False
    assert lock.msg.startswith("Failed: ")
    assert "No such file or directory" in lock.msg
    assert lock.release_lock() is False


def test_threads_that_share_an_object_exclude_each_other(path: Path) -> None:
    lock = LockMgr(path)
    now = most = times = 0

    def work() -> None:
        nonlocal now, most, times
        for _ in range(30):
            assert lock.acquire_lock(wait=True, timeout=60)
            assert lock.msg == "Success"
            now += 1
            times += 1
            most = max(most, now)
            time.sleep(0)
            now -= 1
            assert lock.release_lock()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, times) == (1, 120)


def test_a_thread_releases_nobody_elses_lock(path: Path) -> None:
    lock = LockMgr(path)
    assert lock.acquire_lock()
    answers: list[object] = []

    def other() -> None:
        answers.append(lock.acquire_lock())
        answers.append(lock.release_lock())
        answers.append(lock.msg)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert answers == [False, False, "No lock to release"]
    assert (lock.acquired, lock.msg) == (True, "Success")
    assert lock.release_lock()
    # Of a thread that is no more, anybody does.
    thread = threading.Thread(target=lock.acquire_lock)
    thread.start()
    thread.join()
    assert lock.acquired
    assert lock.release_lock()


def test_processes_exclude_each_other_and_the_file_goes_each_time(path: Path, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    program = """
        lock = lockmgr.LockMgr(sys.argv[1])
        for _ in range(100):
            assert lock.acquire_lock(wait=True, timeout=60), lock.msg
            number = int(open(sys.argv[2]).read())
            time.sleep(0)
            open(sys.argv[2], "w").write(str(number + 1))
            assert lock.release_lock()
        say("done")
    """
    workers = [Process(program, path, counter) for _ in range(4)]
    for worker in workers:
        with worker:
            worker.expect("done")
    assert counter.read_text() == "400"
    assert not path.exists()


def test_a_file_with_content_of_others_stays(path: Path) -> None:
    path.write_text("precious")
    lock = LockMgr(path)
    assert lock.acquire_lock()
    assert lock.release_lock()
    assert lock.msg.startswith("success: ")
    assert lock.msg != "success: lock released"
    assert path.read_text() == "precious"


def test_a_file_that_was_replaced_is_told_of_and_stays(path: Path) -> None:
    lock = LockMgr(path)
    assert lock.acquire_lock()
    path.unlink()
    path.touch()
    assert lock.release_lock()
    assert "deleted or replaced" in lock.msg
    assert path.exists()


def test_a_name_without_a_slash_is_a_file_here(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    lock = LockMgr("here.lock")
    assert lock.acquire_lock()
    assert (path.parent / "here.lock").exists()
    copied = pickle.loads(pickle.dumps(lock))
    assert not copied.acquired
    assert not copied.acquire_lock()
    assert lock.release_lock()
    del copied


def test_it_is_released_when_it_is_forgotten(path: Path) -> None:
    lock = LockMgr(path)
    assert lock.acquire_lock()
    del lock
    assert not path.exists()
    until(lambda: LockMgr(path).acquire_lock())


def test_an_empty_path_names_no_lock_file() -> None:
    for kind in (LockMgr, ReadWriteLock, FileLock):
        with pytest.raises(FileNotFoundError, match="an empty path names no lock file"):
            kind("")
