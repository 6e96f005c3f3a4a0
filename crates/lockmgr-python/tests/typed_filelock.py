"""What a type checker makes of the filelock interface, and of Lock. It is checked by mypy and never run.

An error that is expected is ignored by its name, and that nothing is ignored in vain is checked as well.
"""

from __future__ import annotations

from pathlib import Path

from lockmgr import (
    Acquired,
    AcquireReturnProxy,
    AsyncFileLock,
    AsyncReadWriteLock,
    FileLock,
    Lock,
    ReadWriteLock,
    Timeout,
    lock_descriptor,
    run,
)
from lockmgr.filelock import AsyncAcquireReturnProxy, SoftFileLock, UnixFileLock
from typing_extensions import assert_type

lock = FileLock(Path("x"), timeout=3, mode=0o600, is_singleton=True, on_acquired=lambda fd: None)
with lock as entered:
    assert_type(entered, FileLock)
proxy = lock.acquire(timeout=1, blocking=False, cancel_check=lambda: True)
assert_type(proxy, AcquireReturnProxy[FileLock])
with proxy as entered:
    assert_type(entered, FileLock)
assert_type(lock.lock(), FileLock)
assert_type(lock.timeout, float)
assert_type(lock.is_locked, bool)
assert_type(lock.lock_counter, int)
assert_type(UnixFileLock("x"), FileLock)
assert_type(lock_descriptor(1), bool)
assert_type(Timeout("x").lock_file, str)
lock.timeout = 3


@lock
def decorated(x: int) -> str:
    return str(x)


assert_type(decorated(1), str)


class Sub(FileLock):
    def __init__(self, path: str, extra: int) -> None:
        super().__init__(path)
        self.extra = extra


with Sub("x", 1) as sub:
    assert_type(sub, Sub)

FileLock("x", bogus=1)  # type: ignore[call-arg]
FileLock()  # type: ignore[call-arg]
Sub("x", 1, timeout=3)  # type: ignore[call-arg]
AsyncFileLock(3)  # type: ignore[arg-type]
run(b"x", ["true"])
lock.acquire("x")  # type: ignore[arg-type]
lock.mode = 3  # type: ignore[misc]


async def main() -> None:
    lock = AsyncFileLock("x")
    async with lock as entered:
        assert_type(entered, AsyncFileLock)
    assert_type(await lock.acquire(3), AsyncAcquireReturnProxy)
    await lock.release(force=True)
    async with AsyncReadWriteLock("x").read_lock(timeout=3):
        pass


both = ReadWriteLock("x", timeout=1)
with both.read_lock():
    pass
with both.acquire_write(1) as entered_both:
    assert_type(entered_both, ReadWriteLock)


class OwnLock(Lock):
    pass


acquired: Acquired = Lock("x").acquire(timeout=1)
assert_type(acquired.lock, Lock)
with acquired as own:
    assert_type(own, Lock)
    own.acquire_async()
with OwnLock("x").acquire() as special:
    assert_type(special, OwnLock)

# Nothing comes after it, which a type checker knows.
SoftFileLock("x")
