"""`Lock`: our own interface."""

from __future__ import annotations

from collections.abc import Generator
from operator import index
from typing import TYPE_CHECKING, Any

from ._async import finish_told
from ._lockmgr import Acquired, BaseLock

if TYPE_CHECKING:
    from types import TracebackType
    from typing import SupportsIndex

    from typing_extensions import Self


class Lock(BaseLock):
    """A lock that processes, threads and asyncio tasks exclude each other with, through a file.

        lock = lockmgr.Lock("/run/app.lock")      # a path; or a name: lockmgr.Lock("app")

        with lock:                                # asleep in the kernel while somebody else has it
            ...
        with lock.acquire(timeout=10):            # or lockmgr.Timeout, which says who has it
            ...
        async with lock:                          # without blocking the loop
            ...
        async with lock.acquire_async(timeout=10):
            ...

    The file only gives the lock a name, and may stay. The lock is the kernel's: it is free as soon as its
    holder is gone, however that ended. A lock file that is deleted or replaced while it is waited for lets
    nobody in twice. Whoever shares one object takes turns, first come, first served: threads and tasks
    alike. Two objects are two parties, and the kernel decides between them.

    A ``with`` releases what it took, or what its thread or task has acquired again inside. If that was released and
    not acquired again, it ends with RuntimeError, and leaves alone whoever holds the lock by then.

    What a forked child inherits holds nothing there: a lock belongs to the process that took it. A pickled
    object (`multiprocessing` with spawn or forkserver) is the same lock in the other process, not held.

    A str without a slash is a name: one lock for all of this user's processes, or with system=True for
    everybody's. ``lockmgr path NAME`` prints its file. A path given as a Path stays one.

    :param shared: acquire it together with other shared holders, unless told otherwise.
    :param timeout: how long to wait unless told otherwise, in seconds. None is however long it takes, 0 one
        attempt.
    :param mechanism: which of the kernel's locks: "flock", "ofd" (record locks, which exclude SQLite, dpkg and
        others that use fcntl), or "posix" (record locks of the process, with all their faults; not awaitable).
    :param byte_range: (start, length) for "ofd" and "posix"; a length of None is to the end.
    :param fair: first come, first served among processes as well, at some cost in throughput.
    :param reentrant: the thread or task that holds it gets it again at once; counted.
    :param remove: remove the file on release, under the lock. A file that stays is quicker and fairer.
    :param note: why, for whoever looks: exclusive holders write it into the lock file, with their process.
    :param record: as note, without words of one's own.
    :param mode: the permissions of a lock file that is created, whatever the umask; 0o666 less the umask
        otherwise.
    :param create: create the file when it is missing.
    :param parents: create missing directories above it, too.
    :param follow_symlinks: let the path end in a symbolic link.
    :param fenced: give each exclusive hold a token that is greater than all before it; see `token`.
    :param durable: have notes and tokens on their disk before the lock counts as acquired.
    :param deadlock: "fail" gives a wait up (DeadlockError) that is part of a circle of processes that wait for
        each other; "ignore" waits on.
    :param system: a name is that of a lock for all users.
    """

    __slots__ = ()

    def acquire_async(self, timeout: float | None = None, *, shared: bool | None = None) -> AsyncAcquire:
        """Acquires the lock without blocking the event loop, as acquire() does for a thread.

            async with lock.acquire_async(timeout=10):
                ...

            await lock.acquire_async()
            ...
            lock.release()

        Works under asyncio, whatever its loop, and under trio. Cancelling the task, or asyncio.timeout, ends the wait
        at once; nothing is held then.
        """
        return AsyncAcquire(self, timeout, shared)

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        # Older protocols would copy the state of the extension type, which is not to be had.
        return super().__reduce_ex__(max(2, index(protocol)))

    async def __aenter__(self) -> Self:
        await self._acquire(None, None, True)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave()

    async def _acquire(self, timeout: float | None, shared: bool | None, scoped: bool) -> None:
        wait = self._begin(timeout, shared, scoped)
        if wait is not None:
            self._adopt(await finish_told(wait), scoped)


class AsyncAcquire:
    """An acquisition to be awaited, or to be entered with ``async with``, which releases."""

    __slots__ = ("_lock", "_shared", "_timeout")

    def __init__(self, lock: Lock, timeout: float | None, shared: bool | None) -> None:
        self._lock = lock
        self._timeout = timeout
        self._shared = shared

    def __await__(self) -> Generator[Any, Any, Lock]:
        return self._acquire(False).__await__()

    async def __aenter__(self) -> Lock:
        return await self._acquire(True)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock._leave()

    async def _acquire(self, scoped: bool) -> Lock:
        await self._lock._acquire(self._timeout, self._shared, scoped)
        return self._lock


__all__ = ["Acquired", "AsyncAcquire", "Lock"]
