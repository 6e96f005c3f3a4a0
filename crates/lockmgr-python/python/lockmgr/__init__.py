"""Locks between processes, threads and asyncio tasks, whose waits are the kernel's.

    import lockmgr

    lock = lockmgr.Lock("/run/app.lock")
    with lock:
        ...                                  # one process, one thread, one task at a time

    with lock.acquire(timeout=10):           # or lockmgr.Timeout, which says who has it
        ...

    async with lock:                         # the same lock, in the same turn
        ...

The kernel keeps the lock, so it is free as soon as its holder is gone, however that ended: nothing is
ever stale.
"""

from ._errors import DeadlockError, LockError, Timeout, UnsupportedError
from ._inspect import Holder, Waiter
from ._lock import Lock
from ._lockmgr import __version__

__all__ = [
    "DeadlockError",
    "Holder",
    "Lock",
    "LockError",
    "Timeout",
    "UnsupportedError",
    "Waiter",
    "__version__",
]
