"""Locks between processes, threads and tasks, whose waits are the kernel's.

    import lockmgr

    lock = lockmgr.Lock("/run/app.lock")
    with lock:
        ...                                  # one process, one thread, one task at a time

    with lock.acquire(timeout=10):           # or lockmgr.Timeout, which says who has it
        ...

    async with lock:                         # the same lock, without blocking the loop
        ...

The kernel keeps the lock, so it is free as soon as its holder is gone, however that ended: nothing is ever
stale. A waiter sleeps in the kernel: it costs nothing, and is woken the moment the lock is free.

- `Lock`: what to begin with.
- `Semaphore`: N at a time. `LockSet`: several locks, all or none.
- `run`: a command under a lock.
- `LockMgr`: acquire_lock() and release_lock(), the small classic interface.
- `FileLock`, `AsyncFileLock`, `ReadWriteLock`, `AsyncReadWriteLock`: the interface of the package filelock,
  whose other names are in `lockmgr.filelock`.
- `locks`: every lock on this machine, whoever took it.
- `Timeout`, `DeadlockError`, `UnsupportedError`, `LockError`: what can go wrong; OSErrors, all of them.
"""

from ._errors import DeadlockError, LockError, Timeout, UnsupportedError
from ._filelock import AcquireReturnProxy, BaseFileLock, FileLock, lock_descriptor, unlock_descriptor
from ._filelock_async import AsyncFileLock, BaseAsyncFileLock
from ._inspect import Holder, LockInfo, Waiter
from ._lock import AsyncAcquire, Lock
from ._lock_mgr import LockMgr
from ._lockmgr import Acquired, Hold, __version__, locks
from ._run import run
from ._rwlock import AsyncReadWriteLock, ReadWriteLock
from ._several import LockSet, Semaphore

__all__ = [
    "AcquireReturnProxy",
    "Acquired",
    "AsyncAcquire",
    "AsyncFileLock",
    "AsyncReadWriteLock",
    "BaseAsyncFileLock",
    "BaseFileLock",
    "DeadlockError",
    "FileLock",
    "Hold",
    "Holder",
    "Lock",
    "LockError",
    "LockInfo",
    "LockMgr",
    "LockSet",
    "ReadWriteLock",
    "Semaphore",
    "Timeout",
    "UnsupportedError",
    "Waiter",
    "__version__",
    "lock_descriptor",
    "locks",
    "run",
    "unlock_descriptor",
]
