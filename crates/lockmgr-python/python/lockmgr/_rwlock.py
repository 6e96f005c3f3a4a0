"""`ReadWriteLock` and `AsyncReadWriteLock`: filelock's interface, over the kernel's shared locks.

Readers hold the lock shared, writers exclusively, and both pass the gate on their way in: a writer who
waits is overtaken by nobody who comes after it. A hold is a thread's or a task's. It is counted, and can
neither be upgraded nor downgraded.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import weakref
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from . import _async
from ._errors import DeadlockError, UnsupportedError, shown
from ._filelock import AcquireReturnProxy, place_of, registry, tell, wait_told
from ._filelock_async import owner as this_task
from ._lockmgr import FileLockBase, Handle

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Executor

    from typing_extensions import Self

    from ._inspect import Holder, Waiter
    from ._lockmgr import Hold

_Mode = Literal["read", "write"]
_KINDS = {"read": "shared", "write": "exclusive"}


class _Held:
    """What one owner has."""

    __slots__ = ("count", "hold", "mode")

    def __init__(self, hold: Hold, mode: _Mode) -> None:
        self.hold = hold
        self.mode = mode
        self.count = 1


class _Core:
    """One lock file: who holds it, in this process. Shared by all objects that there is to be one of."""

    def __init__(self, lock_file: str) -> None:
        self.lock_file = lock_file
        self.handle = Handle(Path(lock_file), fair=True)
        self.is_fair = True
        self.held: dict[int, _Held] = {}
        self.generation = _Generation.now

    @property
    def inherited(self) -> bool:
        return self.generation != _Generation.now

    def again(self, owner: int, mode: _Mode) -> bool:
        """Counts one more if the owner holds the lock; returns whether it does."""
        held = self.held.get(owner)
        if held is None:
            return False
        if held.mode != mode:
            change = "upgraded" if mode == "write" else "downgraded"
            raise RuntimeError(
                f"{shown(self.lock_file)}: already held to {held.mode}, and a hold cannot be {change}; release it first"
            )
        held.count += 1
        return True

    def at_once(self, owner: int, mode: _Mode, patience: float | None) -> bool:
        """Acquires if that needs no wait; returns whether there is nothing left to do."""
        if self.again(owner, mode):
            return True
        beside = self._beside(owner)
        if patience is None and beside is not None and "write" in (mode, beside.mode):
            raise DeadlockError(
                f"{shown(self.lock_file)}: this thread or task holds the lock already, through another object, and "
                "would wait for itself; release it first, or share one object"
            )
        if beside is None:
            return False
        # At the gate a writer may be waiting for what this owner has: past it.
        hold = self.handle.try_acquire(shared=mode == "read")
        if hold is not None:
            self.keep(owner, mode, hold)
        return hold is not None

    def acquire(self, owner: int, mode: _Mode, patience: float | None) -> None:
        """Acquires, asleep if need be."""
        if self.at_once(owner, mode, patience):
            return
        try:
            hold = self.handle.acquire(patience, shared=mode == "read")
        except (UnsupportedError, PermissionError):
            self._go_without_gate()
            hold = self.handle.acquire(patience, shared=mode == "read")
        self.keep(owner, mode, hold)

    async def acquire_async(self, owner: int, mode: _Mode, patience: float | None) -> None:
        """Acquires without blocking the loop."""
        if self.at_once(owner, mode, patience):
            return
        with wait_told(self.lock_file):
            try:
                hold = await _async.finish(self.handle.wait(patience, shared=mode == "read"))
            except (UnsupportedError, PermissionError):
                self._go_without_gate()
                hold = await _async.finish(self.handle.wait(patience, shared=mode == "read"))
        self.keep(owner, mode, hold)

    def _go_without_gate(self) -> None:
        """There can be none on a network filesystem, and in a file that may not be written."""
        if not self.is_fair:
            raise
        self.handle = Handle(Path(self.lock_file), fair=False)
        self.is_fair = False

    def keep(self, owner: int, mode: _Mode, hold: Hold) -> None:
        self.held[owner] = _Held(hold, mode)
        _cores.setdefault(owner, weakref.WeakSet()).add(self)
        try:
            tell("acquired", self.lock_file, _KINDS[mode])
        except BaseException:
            # Whoever gets an exception does not expect to hold anything.
            self.release(owner, force=True)
            raise

    def _forget(self, owner: int) -> None:
        cores = _cores.get(owner)
        if cores is not None:
            cores.discard(self)
            if not cores:
                _cores.pop(owner, None)

    def _beside(self, owner: int) -> _Held | None:
        """What the owner holds of this lock file by another object."""
        for core in list(_cores.get(owner, ())):
            held = core.held.get(owner)
            if core is not self and held is not None and held.hold.held and core.lock_file == self.lock_file:
                return held
        return None

    def release(self, owner: int, force: bool) -> None:
        if self.inherited:
            return
        held = self.held.get(owner)
        if held is None:
            owner, held = self._of_another(owner)
        if held is None:
            if force:
                return
            raise RuntimeError(f"{shown(self.lock_file)}: cannot release a lock that is not held")
        if held.count > 1 and not force:
            held.count -= 1
            return
        del self.held[owner]
        self._forget(owner)
        held.hold.release()
        tell("released", self.lock_file, _KINDS[held.mode])

    def _of_another(self, owner: int) -> tuple[int, _Held | None]:
        """A reader is as good as another; a writer's hold is its own."""
        for other, held in list(self.held.items()):
            if held.mode == "write":
                raise RuntimeError(f"{shown(self.lock_file)}: cannot release what another thread or task holds")
            return other, held
        return owner, None

    def release_all(self) -> None:
        if self.inherited:
            return
        while self.held:
            owner, held = self.held.popitem()
            self._forget(owner)
            held.hold.release()


class _Generation:
    """Tells a forked child from its parent."""

    now = 0


#: By owner, what it holds.
_cores: dict[int, weakref.WeakSet[_Core]] = {}


def _begin_anew() -> None:
    """In the child of a fork nothing is held."""
    _Generation.now += 1
    _cores.clear()


os.register_at_fork(after_in_child=_begin_anew)


def _seconds(timeout: Any) -> float:
    if isinstance(timeout, (bool, str)) or not hasattr(timeout, "__float__"):
        raise TypeError(f"timeout is a number of seconds, and {type(timeout).__name__} is none")
    seconds = float(timeout)
    if math.isnan(seconds):
        raise ValueError("timeout is a number of seconds, and nan is none")
    return seconds


class _ReadWriteLock:
    """What both kinds have in common."""

    def __init__(
        self,
        lock_file: str | os.PathLike[str],
        timeout: float = -1,
        *,
        blocking: bool = True,
        is_singleton: bool = True,
    ) -> None:
        #: How many seconds an acquisition waits at the most; 0 is one attempt, -1 no limit.
        self.timeout = _seconds(timeout)
        #: Whether an acquisition waits at all.
        self.blocking = blocking
        self._lock_file = _text(lock_file)
        path = place_of(self._lock_file)
        directory = os.path.dirname(path)
        if not os.path.isdir(directory):
            raise FileNotFoundError(2, "the directory of the lock file does not exist", path)
        self._closed = False
        if not is_singleton:
            self._core = _Core(path)
            return
        with registry.guard:
            cores = registry.of(_Core)
            core = cores.get(path)
            if core is None:
                core = cores[path] = _Core(path)
            self._core = core

    @property
    def lock_file(self) -> str:
        """The path of the lock file, as it was given."""
        return self._lock_file

    def _patience(self, timeout: float | None, blocking: bool | None) -> float | None:
        """Returns seconds, and None for no limit."""
        self._check()
        blocking = self.blocking if blocking is None else blocking
        seconds = _seconds(self.timeout if timeout is None else timeout)
        if seconds < 0 and seconds != -1:
            raise ValueError(f"timeout is a number of seconds from 0 on, or -1, and not {seconds}")
        if not blocking:
            return 0.0
        return None if seconds == -1 or seconds == math.inf else seconds

    def _check(self) -> None:
        if self._core.inherited:
            raise RuntimeError(
                f"{type(self).__name__} for {shown(self.lock_file)} came here by a fork, and belongs to the "
                "parent process; make another one in the child"
            )
        if self._closed:
            raise ValueError(f"the {type(self).__name__} for {shown(self.lock_file)} is closed")

    def holders(self) -> list[Holder]:
        """Who holds the lock, according to the kernel."""
        return self._core.handle.holders()

    def waiters(self) -> list[Waiter]:
        """Who is blocked on the lock, according to the kernel."""
        return self._core.handle.waiters()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            f"cannot pickle or copy a {type(self).__name__}: a lock belongs to its process; "
            "pass the path on and make another one there"
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.lock_file!r}>"


def _text(lock_file: str | os.PathLike[str]) -> str:
    path = os.fspath(lock_file)
    if not isinstance(path, str):
        raise TypeError(f"a lock file is a str or a path of str, and no {type(path).__name__}")
    if not path:
        raise FileNotFoundError(errno.ENOENT, "an empty path names no lock file", path)
    return path


def _one_of(
    lock_file: Any, timeout: float = -1, *, blocking: bool = True, is_singleton: bool = True, **others: Any
) -> tuple[Any, float, bool, bool]:
    """Returns what it depends on which one it is."""
    return lock_file, timeout, blocking, is_singleton


class _OneForEach(type):
    """One ReadWriteLock for each lock file, unless somebody wants one of his own."""

    # Types are checked by __init__.
    if not TYPE_CHECKING:

        def __call__(self, *args, **kwds):
            lock_file, timeout, blocking, is_singleton = _one_of(*args, **kwds)
            if not is_singleton:
                return super().__call__(*args, **kwds)
            with registry.guard:
                locks = registry.of(self)
                place = place_of(_text(lock_file))
                lock = locks.get(place)
                if lock is None or lock._closed:
                    lock = locks[place] = super().__call__(*args, **kwds)
                elif (lock.timeout, lock.blocking) != (_seconds(timeout), blocking):
                    raise ValueError(
                        f"{shown(place)}: the one lock for this file was made otherwise: timeout={lock.timeout}, "
                        f"blocking={lock.blocking} there, and timeout={timeout}, blocking={blocking} here"
                    )
                return lock


class ReadWriteLock(_ReadWriteLock, metaclass=_OneForEach):
    """A lock with the interface of filelock.ReadWriteLock: many readers or one writer.

        lock = ReadWriteLock("data.lock")
        with lock.read_lock():
            ...
        with lock.write_lock(timeout=10):
            ...

    First come, first served: a writer who waits is overtaken by nobody who comes after it, and readers wait
    for no more than one writer. The lock is the kernel's, so a dead holder's is free at once.

    A hold is its thread's: threads that share the object exclude each other as processes do, and a thread
    enters again, counted, in the same mode only. There is one object for each lock file unless
    is_singleton=False.
    """

    @classmethod
    def get_lock(cls, lock_file: str | os.PathLike[str], timeout: float = -1, *, blocking: bool = True) -> Self:
        """Returns the one lock for the lock file."""
        return cls(lock_file, timeout, blocking=blocking)

    def _acquire(self, mode: _Mode, timeout: float | None, blocking: bool | None) -> AcquireReturnProxy[Self]:
        self._core.acquire(FileLockBase._this_thread(), mode, self._patience(timeout, blocking))
        return _ReleaseProxy(self)

    def acquire_read(self, timeout: float | None = None, *, blocking: bool | None = None) -> AcquireReturnProxy[Self]:
        """Acquires the lock together with other readers. None is what the lock was made with.

        Returns an object for `with`. Raises Timeout, and RuntimeError while this thread holds the lock to write.
        """
        return self._acquire("read", timeout, blocking)

    def acquire_write(self, timeout: float | None = None, *, blocking: bool | None = None) -> AcquireReturnProxy[Self]:
        """Acquires the lock alone. None is what the lock was made with.

        Returns an object for `with`. Raises Timeout, and RuntimeError while this thread holds the lock to read.
        """
        return self._acquire("write", timeout, blocking)

    @contextlib.contextmanager
    def read_lock(self, timeout: float | None = None, *, blocking: bool | None = None) -> Generator[None]:
        """`with lock.read_lock():` together with other readers."""
        self.acquire_read(timeout, blocking=blocking)
        try:
            yield
        finally:
            self.release()

    @contextlib.contextmanager
    def write_lock(self, timeout: float | None = None, *, blocking: bool | None = None) -> Generator[None]:
        """`with lock.write_lock():` alone."""
        self.acquire_write(timeout, blocking=blocking)
        try:
            yield
        finally:
            self.release()

    def release(self, *, force: bool = False) -> None:
        """Counts one less, and releases the lock when nothing is left, or at once with force=True.

        RuntimeError when it is not held, unless force=True.
        """
        self._core.release(FileLockBase._this_thread(), force)

    def close(self) -> None:
        """Releases everything; the object cannot be used again."""
        if not self._core.inherited:
            self._core.release_all()
            self._closed = True


class _ReleaseProxy(AcquireReturnProxy[Any]):
    """As AcquireReturnProxy, for a lock that is no context manager itself."""

    __slots__ = ()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.lock.release()


class AsyncAcquireReadWriteReturnProxy:
    """What acquire_read() and acquire_write() return: for `async with`, which releases."""

    __slots__ = ("lock",)

    def __init__(self, lock: AsyncReadWriteLock) -> None:
        #: The lock.
        self.lock = lock

    async def __aenter__(self) -> AsyncReadWriteLock:
        return self.lock

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.lock.release()


class AsyncReadWriteLock(_ReadWriteLock):
    """ReadWriteLock for event loops, without an executor: the hold is the task's.

        lock = AsyncReadWriteLock("data.lock")
        async with lock.read_lock():
            ...

    Under asyncio, uvloop and trio (so under anyio). A wait ends at once when its task is cancelled. loop
    and executor are accepted, and there is nothing for them to do.
    """

    def __init__(
        self,
        lock_file: str | os.PathLike[str],
        timeout: float = -1,
        *,
        blocking: bool = True,
        is_singleton: bool = True,
        loop: asyncio.AbstractEventLoop | None = None,
        executor: Executor | None = None,
    ) -> None:
        super().__init__(lock_file, timeout, blocking=blocking, is_singleton=is_singleton)
        self._loop = loop
        self._executor = executor

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """As it was given. The lock can be used under any loop, and under several."""
        return self._loop

    @property
    def executor(self) -> Executor | None:
        """As it was given. Nothing is run in an executor."""
        return self._executor

    async def _acquire(
        self, mode: _Mode, timeout: float | None, blocking: bool | None
    ) -> AsyncAcquireReadWriteReturnProxy:
        await self._core.acquire_async(this_task(), mode, self._patience(timeout, blocking))
        return AsyncAcquireReadWriteReturnProxy(self)

    async def acquire_read(
        self, timeout: float | None = None, *, blocking: bool | None = None
    ) -> AsyncAcquireReadWriteReturnProxy:
        """As ReadWriteLock.acquire_read(), for `async with`."""
        return await self._acquire("read", timeout, blocking)

    async def acquire_write(
        self, timeout: float | None = None, *, blocking: bool | None = None
    ) -> AsyncAcquireReadWriteReturnProxy:
        """As ReadWriteLock.acquire_write(), for `async with`."""
        return await self._acquire("write", timeout, blocking)

    @contextlib.asynccontextmanager
    async def read_lock(self, timeout: float | None = None, *, blocking: bool | None = None) -> AsyncGenerator[None]:
        """`async with lock.read_lock():` together with other readers."""
        await self.acquire_read(timeout, blocking=blocking)
        try:
            yield
        finally:
            await self.release()

    @contextlib.asynccontextmanager
    async def write_lock(self, timeout: float | None = None, *, blocking: bool | None = None) -> AsyncGenerator[None]:
        """`async with lock.write_lock():` alone."""
        await self.acquire_write(timeout, blocking=blocking)
        try:
            yield
        finally:
            await self.release()

    async def release(self, *, force: bool = False) -> None:
        """As ReadWriteLock.release()."""
        self._core.release(this_task(), force)

    async def close(self) -> None:
        """Releases everything; the object cannot be used again."""
        if not self._core.inherited:
            self._core.release_all()
            self._closed = True
