"""What the logger `lockmgr` is told."""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path
from typing import Any

import pytest
from lockmgr import Lock, LockMgr, LockSet, Semaphore
from support import holder, until


def test_debug_tells_of_acquiring_and_releasing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lock = Lock(path)
    with lock:
        pass
    assert not caplog.records
    with caplog.at_level(logging.DEBUG, logger="lockmgr"):
        with lock:
            pass
        lock.acquire(shared=True)
        lock.release()
    assert caplog.messages == [
        f"acquired {path} (exclusive)",
        f"released {path} (exclusive)",
        f"acquired {path} (shared)",
        f"released {path} (shared)",
    ]
    assert all(record.levelno == logging.DEBUG for record in caplog.records)
    caplog.clear()
    # The level is looked at each time, the root's and those of others too.
    with caplog.at_level(logging.DEBUG), lock:
        logging.disable(logging.CRITICAL)
    logging.disable(logging.NOTSET)
    with lock:
        pass
    assert caplog.messages == [f"acquired {path} (exclusive)"]


def test_debug_tells_of_slots_and_of_the_locks_of_a_set(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    slots, second = Semaphore(path, 3), path.with_name("b.lock")
    both = LockSet(Lock(path), Lock(second, shared=True))
    with caplog.at_level(logging.DEBUG, logger="lockmgr"):
        with slots:
            hold = slots.acquire(2)
        hold.release()
        hold.release()
        with both:
            pass
    assert caplog.messages == [
        f"acquired {path} (1 slot)",
        f"acquired {path} (2 slots)",
        f"released {path} (1 slot)",
        f"released {path} (2 slots)",
        f"acquired {path} (exclusive)",
        f"acquired {second} (shared)",
        f"released {path} (exclusive)",
        f"released {second} (shared)",
    ]


def test_debug_tells_of_a_lock_manager(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manager = LockMgr(path)
    with caplog.at_level(logging.DEBUG, logger="lockmgr"):
        for _ in range(2):
            assert manager.acquire_lock()
        assert manager.release_lock()
        assert not manager.release_lock()
        with holder(path):
            assert not manager.acquire_lock()
    assert caplog.messages == [f"acquired {path} (exclusive)", f"released {path} (exclusive)"]


@pytest.mark.parametrize("kind", ["slots", "set"])
def test_info_tells_of_a_wait_for_several(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    from lockmgr import _log

    monkeypatch.setattr(_log, "LONG", 0.05)
    options: dict[str, Any] = {"mechanism": "ofd", "byte_range": (0, 1)} if kind == "slots" else {"mechanism": "ofd"}

    def make() -> Semaphore | LockSet:
        return Semaphore(path, 1) if kind == "slots" else LockSet(Lock(path.with_name("free")), Lock(path, **options))

    async def awaited() -> None:
        async with make():
            pass

    def entered() -> None:
        with make():
            pass

    with caplog.at_level(logging.INFO, logger="lockmgr"):
        for work in (entered, lambda: asyncio.run(awaited())):
            with holder(path, **options) as other:
                thread = threading.Thread(target=work)
                thread.start()
                until(lambda: caplog.records, "the record")
                other.tell()
                thread.join()
            (message,) = caplog.messages
            assert message.startswith(f"waiting for {path}, held by pid {other.pid} (")
            caplog.clear()


def test_a_hold_is_not_lost_when_the_record_of_it_fails(path: Path) -> None:
    """As when Ctrl-C arrives while a handler writes."""

    class Interrupted(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            raise KeyboardInterrupt

    logger, lock = logging.getLogger("lockmgr"), Lock(path)
    slots, both, manager = Semaphore(path, 1), LockSet(Lock(path)), LockMgr(path)
    interrupted = Interrupted()
    logger.addFilter(interrupted)
    logger.setLevel(logging.DEBUG)
    try:
        for one in (lock, slots, both):
            with pytest.raises(KeyboardInterrupt):
                one.acquire()
            assert not one.locked()
        with pytest.raises(KeyboardInterrupt):
            manager.acquire_lock()
        assert not manager.acquired
    finally:
        logger.setLevel(logging.NOTSET)
        logger.removeFilter(interrupted)
    Lock(path).acquire(0)


def test_info_tells_of_a_wait_over_a_second_and_names_the_holder(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lockmgr import _log

    monkeypatch.setattr(_log, "LONG", 0.05)
    lock = Lock(path)
    with caplog.at_level(logging.INFO, logger="lockmgr"), holder(path, note="reasons") as other:
        waiter = threading.Thread(target=lock.acquire)
        waiter.start()
        until(lambda: caplog.records, "the record")
        other.tell()
        waiter.join()
        lock.release()

        async def main() -> None:
            async with lock:
                pass

        (record,) = caplog.records
        assert record.levelno == logging.INFO
        message = record.getMessage()
        assert message.startswith(f"waiting for {path}, held by pid {other.pid} (")
        assert "reasons" in message
        caplog.clear()
        with holder(path) as another:
            thread = threading.Thread(target=lambda: asyncio.run(main()))
            thread.start()
            until(lambda: caplog.records, "the record")
            another.tell()
            thread.join()
        assert f"held by pid {another.pid} (" in caplog.records[0].getMessage()
        # The thread that looks at the clock is there while somebody waits.
        until(lambda: not [it for it in threading.enumerate() if it.name == "lockmgr-log"])
    assert _log.LONG == 0.05


def test_short_waits_are_not_told_of(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lockmgr import _log

    # Longer than any machine makes of the short one.
    monkeypatch.setattr(_log, "LONG", 1000)
    lock = Lock(path)
    with caplog.at_level(logging.INFO, logger="lockmgr"), holder(path):
        with pytest.raises(TimeoutError):
            lock.acquire(0.01)
        until(lambda: not [it for it in threading.enumerate() if it.name == "lockmgr-log"])
    assert not caplog.records
