"""What is composed of locks: `Semaphore` and `LockSet`."""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from ._async import current_task, finish
from ._lockmgr import BaseLock, Hold, SetHandle, SlotsHandle

if TYPE_CHECKING:
    import os
    from types import TracebackType

    from typing_extensions import Self

    from ._lock import Lock
    from ._lockmgr import Wait


class _Several:
    """What both have: `with`, `async with`, and the holds that these have taken."""

    __slots__ = ("__weakref__", "_holds", "timeout")

    def __init__(self, timeout: float | None) -> None:
        #: How long to wait unless told otherwise, in seconds; None is however long it takes.
        self.timeout = timeout
        # By owner, so that each one releases its own.
        self._holds: dict[tuple[int, int], list[Hold]] = {}

    def _attempt(self, count: int) -> Hold | None:
        raise NotImplementedError

    def _acquire(self, timeout: float | None, count: int) -> Hold:
        raise NotImplementedError

    def _wait(self, timeout: float | None, count: int) -> Wait:
        raise NotImplementedError

    def _keep(self, hold: Hold) -> None:
        self._holds.setdefault(_owner(), []).append(hold)

    def release(self) -> None:
        """Releases what this thread or task has acquired last; else what another one has.

        RuntimeError if nothing is held; LockError, after the release, if a lock file was deleted or replaced during
        the hold.
        """
        hold = self._pop_first()
        if hold is None:
            raise RuntimeError(f"{self!r} is not held")
        hold.release(check=True)

    def _pop_first(self) -> Hold | None:
        """Takes what this owner has acquired last; else what another one has."""
        hold = self._pop(_owner())
        while hold is None and self._holds:
            hold = self._pop(next(iter(self._holds)))
        return hold

    def _pop(self, owner: tuple[int, int]) -> Hold | None:
        holds = self._holds.get(owner, [])
        while holds:
            hold = holds.pop()
            if not holds:
                self._holds.pop(owner, None)
            if hold.held:
                return hold
        self._holds.pop(owner, None)
        return None

    def locked(self) -> bool:
        """Whether anything is held through this object, in this process."""
        return any(hold.held for holds in list(self._holds.values()) for hold in list(holds))

    def __enter__(self) -> Self:
        hold = self._acquire(self.timeout, 1)
        hold._scope()
        self._keep(hold)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        # A task that is forgotten inside leaves when it is no task any more. None is left in a child that was
        # forked inside.
        hold = self._pop_first()
        if hold is not None:
            hold.release()

    async def __aenter__(self) -> Self:
        self._keep(await self._acquire_async(self.timeout, 1))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__()

    async def _acquire_async(self, timeout: float | None, count: int) -> Hold:
        if timeout == 0:
            return self._acquire(0, count)
        return self._attempt(count) or await finish(self._wait(timeout, count))


def _owner() -> tuple[int, int]:
    task = current_task()
    return threading.get_ident(), 0 if task is None else id(task)


class AsyncAcquireSeveral:
    """An acquisition to be awaited, or to be entered with ``async with``, which releases."""

    __slots__ = ("_count", "_hold", "_several", "_timeout")

    def __init__(self, several: _Several, timeout: float | None, count: int) -> None:
        self._several = several
        self._timeout = timeout
        self._count = count
        self._hold: Hold | None = None

    def __await__(self) -> Generator[Any, Any, Hold]:
        return self._acquire().__await__()

    async def _acquire(self) -> Hold:
        hold = await self._several._acquire_async(self._timeout, self._count)
        self._several._keep(hold)
        return hold

    async def __aenter__(self) -> Hold:
        self._hold = await self._acquire()
        return self._hold

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._hold is not None:
            self._hold.release()


class Semaphore(_Several):
    """N slots that processes, threads and tasks share through a lock file.

        downloads = lockmgr.Semaphore("downloads", 4)
        with downloads:                                   # four at a time
            ...
        with downloads.acquire(2, timeout=60) as hold:    # two of them, or lockmgr.Timeout
            print(hold.slots)                             # which ones, counted from 0
        async with downloads:
            ...

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
        super().__init__(timeout)
        options: dict[str, Any] = {"fair": fair, "mode": mode, "create": create, "parents": parents}
        options.update(follow_symlinks=follow_symlinks, system=system)
        self._handle = SlotsHandle(path_or_name, slots, **options)
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
        hold = self._acquire(self.timeout if timeout is None else timeout, count)
        self._keep(hold)
        return hold

    def acquire_async(self, count: int = 1, timeout: float | None = None) -> AsyncAcquireSeveral:
        """As acquire(), for tasks: to be awaited, or entered with ``async with``."""
        return AsyncAcquireSeveral(self, self.timeout if timeout is None else timeout, count)

    def _attempt(self, count: int) -> Hold | None:
        return self._handle.try_acquire(count=count)

    def _acquire(self, timeout: float | None, count: int) -> Hold:
        return self._handle.acquire(timeout, count=count)

    def _wait(self, timeout: float | None, count: int) -> Wait:
        return self._handle.wait(timeout, count=count)

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

    __slots__ = ("_handle", "locks")

    def __init__(self, *locks: Lock, timeout: float | None = None) -> None:
        super().__init__(timeout)
        for lock in locks:
            if not isinstance(lock, BaseLock):
                raise TypeError(f"a LockSet is made of Lock objects, and {type(lock).__name__} is none")
        #: The locks, as they were given.
        self.locks = locks
        self._handle = SetHandle(list(locks))

    def acquire(self, timeout: float | None = None) -> Hold:
        """Acquires all the locks; timeout as for `Lock.acquire`. Returns an object for `with`. Raises Timeout with the
        lock that was last in the way."""
        hold = self._acquire(self.timeout if timeout is None else timeout, 1)
        self._keep(hold)
        return hold

    def acquire_async(self, timeout: float | None = None) -> AsyncAcquireSeveral:
        """As acquire(), for tasks: to be awaited, or entered with ``async with``."""
        return AsyncAcquireSeveral(self, self.timeout if timeout is None else timeout, 1)

    def _attempt(self, count: int) -> Hold | None:
        return self._handle.try_acquire()

    def _acquire(self, timeout: float | None, count: int) -> Hold:
        return self._handle.acquire(timeout)

    def _wait(self, timeout: float | None, count: int) -> Wait:
        return self._handle.wait(timeout)

    def __reduce__(self) -> tuple[Any, ...]:
        return _lock_set, (type(self), self.locks, self.timeout)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.locks)} locks>"


def _lock_set(cls: type[LockSet], locks: tuple[Lock, ...], timeout: float | None) -> LockSet:
    return cls(*locks, timeout=timeout)
