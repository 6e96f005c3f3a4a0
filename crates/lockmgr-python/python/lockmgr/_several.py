"""What is composed of locks: `Semaphore` and `LockSet`."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from ._async import current_task, finish_told
from ._lock import Lock
from ._lockmgr import BaseLock, Hold, SetHandle, SeveralBase, SlotsHandle

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self


class _Several(SeveralBase):
    """What both have under asyncio and trio."""

    __slots__ = ()

    async def __aenter__(self) -> Self:
        await self._acquire_async(None, 1, True)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave()

    async def _acquire_async(self, timeout: float | None, count: int, scoped: bool) -> Hold:
        hold = self._begin(timeout, count, scoped)
        if isinstance(hold, Hold):
            return hold
        return self._adopt(await finish_told(hold), scoped)


class AsyncAcquireSeveral:
    """An acquisition to be awaited, or to be entered with ``async with``, which releases."""

    __slots__ = ("_count", "_entered", "_several", "_timeout")

    def __init__(self, several: _Several, timeout: float | None, count: int) -> None:
        self._several = several
        self._timeout = timeout
        self._count = count
        # Each task that enters it leaves with its own.
        self._entered: list[tuple[int, Hold]] = []

    def __await__(self) -> Generator[Any, Any, Hold]:
        return self._acquire().__await__()

    async def _acquire(self) -> Hold:
        return await self._several._acquire_async(self._timeout, self._count, False)

    async def __aenter__(self) -> Hold:
        hold = await self._acquire()
        self._entered.append((id(current_task()), hold.__enter__()))
        return hold

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        task = id(current_task())
        own = [at for at, (owner, _) in enumerate(self._entered) if owner == task]
        # One that was forgotten inside leaves when it is no task any more.
        _, hold = self._entered.pop(own[-1] if own else -1)
        hold.release()


class Semaphore(_Several):
    """N slots that processes, threads and tasks share through a lock file.

        downloads = lockmgr.Semaphore("downloads", 4)
        with downloads:                                   # four at a time
            ...
        with downloads.acquire(2, timeout=60) as hold:    # two of them, or lockmgr.Timeout
            print(hold.slots)                             # which ones, counted from 0
        async with downloads:
            ...

    A hold is for one ``with``. What was released inside a ``with`` is not released again at its end.

    The slots of a holder that dies are free at once. Everybody has to name the same number of slots.

    :param path_or_name: as for `Lock`.
    :param slots: how many there are.
    :param timeout: how long to wait unless told otherwise, in seconds.
    :param fair: first come, first served (the default).
    :param mode: the permissions of a lock file that is created.
    :param create: create the file when it is missing.
    :param parents: create missing directories above it, too.
    :param follow_symlinks: let the path end in a symbolic link.
    :param system: a name is that of a semaphore for all users.
    """

    __slots__ = ("_arguments", "_handle")

    def __init__(
        self,
        path_or_name: str | bytes | os.PathLike[str] | os.PathLike[bytes],
        slots: int,
        *,
        timeout: float | None = None,
        fair: bool = True,
        mode: int | None = None,
        create: bool = True,
        parents: bool = False,
        follow_symlinks: bool = False,
        system: bool = False,
    ) -> None:
        options: dict[str, Any] = {"fair": fair, "mode": mode, "create": create, "parents": parents}
        options.update(follow_symlinks=follow_symlinks, system=system)
        self._handle = SlotsHandle(path_or_name, slots, **options)
        self._set_up(self._handle, timeout)
        name = isinstance(path_or_name, str) and "/" not in path_or_name
        self._arguments = (path_or_name if name else self._handle.path, options)

    @property
    def path(self) -> str:
        """The lock file, absolute."""
        return self._handle.path

    @property
    def slots(self) -> int:
        """How many slots there are."""
        return self._handle.slots

    def acquire(self, count: int = 1, timeout: float | None = None) -> Hold:
        """Acquires so many slots, all or none, asleep while there are too few.

        timeout is in seconds: 0 is one attempt, math.inf waits however long it takes, None does as the semaphore was
        made. Returns an object for `with`; release() releases it as well. Raises Timeout.
        """
        return self._acquire(timeout, count)

    def acquire_async(self, count: int = 1, timeout: float | None = None) -> AsyncAcquireSeveral:
        """As acquire(), for tasks: to be awaited, or entered with ``async with``."""
        return AsyncAcquireSeveral(self, timeout, count)

    def __reduce__(self) -> tuple[Any, ...]:
        place, options = self._arguments
        return _semaphore, (type(self), place, self.slots, {"timeout": self.timeout, **options})

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path!r}, {self.slots} slots>"


def _semaphore(cls: type[Semaphore], place: str, slots: int, options: dict[str, Any]) -> Semaphore:
    return cls(place, slots, **options)


class LockSet(_Several):
    """Several locks at once: all of them, or none, without a deadlock, in whatever order others take them.

        with lockmgr.LockSet(lockmgr.Lock("alice"), lockmgr.Lock("bob", shared=True)):
            ...

    Locks that were made with shared=True are acquired shared. Duplicates are recognised by what they are.

    :param locks: the locks.
    :param timeout: how long to wait unless told otherwise, for all of it, in seconds.
    """

    __slots__ = ("_locks",)

    def __init__(self, *locks: Lock, timeout: float | None = None) -> None:
        for lock in locks:
            if not isinstance(lock, BaseLock):
                raise TypeError(f"a LockSet is made of Lock objects, and {type(lock).__name__} is none")
        self._locks = locks
        self._set_up(SetHandle(list(locks)), timeout)

    @property
    def locks(self) -> tuple[Lock, ...]:
        """The locks, as they were given."""
        return self._locks

    def acquire(self, timeout: float | None = None) -> Hold:
        """Acquires all the locks; timeout as for `Lock.acquire`. Returns an object for `with`. Raises Timeout with the
        lock that was last in the way."""
        return self._acquire(timeout, 1)

    def acquire_async(self, timeout: float | None = None) -> AsyncAcquireSeveral:
        """As acquire(), for tasks: to be awaited, or entered with ``async with``."""
        return AsyncAcquireSeveral(self, timeout, 1)

    def __reduce__(self) -> tuple[Any, ...]:
        return _lock_set, (type(self), self.locks, self.timeout)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.locks)} locks>"


def _lock_set(cls: type[LockSet], locks: tuple[Lock, ...], timeout: float | None) -> LockSet:
    return cls(*locks, timeout=timeout)
