"""`ReadWriteLock` and `AsyncReadWriteLock`: filelock's interface, over the kernel's shared locks.

Readers hold the lock shared, writers exclusively, and both pass the gate on their way in: a writer who
waits is overtaken by nobody who comes after it. A hold is a thread's or a task's, through the object that it
was acquired through. It is counted, and can neither be upgraded nor downgraded.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import weakref
from collections.abc import AsyncGenerator, Coroutine
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from . import _async
from ._errors import DeadlockError, Timeout, UnsupportedError, shown
from ._filelock import AcquireReturnProxy, place_of, registry, signature_of, wait_told
from ._filelock_async import owner as this_task
from ._filelock_async import party
from ._lockmgr import FileLockBase, Handle, Levels, ReadWriteBase, ScopeBase

if TYPE_CHECKING:
    import asyncio
    import inspect
    from concurrent.futures import Executor

    from typing_extensions import Self

    from ._inspect import Holder, Waiter

_Mode = Literal["read", "write"]


class _File:
    """A lock file: all that it is locked through in this process."""

    def __init__(self) -> None:
        self.cores: weakref.WeakSet[_Core] = weakref.WeakSet()


class _Core:
    """One lock of a lock file, shared by all objects that there is to be one of."""

    def __init__(self, lock_file: str, timeout: float, blocking: bool) -> None:
        self.lock_file = lock_file
        self.timeout = timeout
        self.blocking = blocking
        self.handle = Handle(Path(lock_file), fair=True)
        self.is_fair = True
        self.levels = Levels()
        self.generation = _Generation.now
        with registry.guard:
            self.file: _File = registry.of(_File).setdefault(lock_file, _File())
            self.file.cores.add(self)

    @property
    def inherited(self) -> bool:
        return self.generation != _Generation.now

    def again(self, through: _ReadWriteLock, owner: int, mode: _Mode) -> bool:
        """Counts one more if the owner holds the lock; returns whether it does."""
        shared = self.levels.is_shared(owner)
        if shared is None:
            return False
        if shared != (mode == "read"):
            held, change = ("read", "upgraded") if shared else ("write", "downgraded")
            raise RuntimeError(
                f"{shown(self.lock_file)}: already held to {held}, and a hold cannot be {change}; release it first"
            )
        return through._enter_again(owner)

    def at_once(
        self, through: _ReadWriteLock, owner: int, mode: _Mode, patience: float | None, waiter: int | None = None
    ) -> bool:
        """Acquires if that needs no wait; returns whether there is nothing left to do.

        The waiter is the task that would wait for the owner, if that is another one.
        """
        if self.again(through, owner, mode):
            return True
        waiter = owner if waiter is None else waiter
        beside = self._beside(waiter)
        if patience is None and beside is not None and not (mode == "read" and beside.levels.is_shared(waiter)):
            raise DeadlockError(
                f"{shown(self.lock_file)}: this thread or task holds the lock already, through another object, and "
                "would wait for itself; release it first, or share one object"
            )
        if beside is None:
            return False
        # At the gate a writer may be waiting for what this owner has: past it.
        hold = self.handle.try_acquire(shared=mode == "read")
        if hold is not None:
            through._keep(owner, hold)
        return hold is not None

    def acquire(self, through: _ReadWriteLock, owner: int, mode: _Mode, patience: float | None) -> None:
        """Acquires, asleep if need be."""
        if self.at_once(through, owner, mode, patience):
            return
        try:
            hold = self.handle.acquire(patience, shared=mode == "read")
        except (UnsupportedError, PermissionError):
            self._go_without_gate()
            hold = self.handle.acquire(patience, shared=mode == "read")
        through._keep(owner, hold)

    async def acquire_async(self, through: _ReadWriteLock, owner: int, mode: _Mode, patience: float | None) -> None:
        """Acquires without blocking the loop."""
        if self.at_once(through, owner, mode, patience, this_task()):
            return
        with wait_told(self.lock_file):
            try:
                hold = await _async.finish(self.handle.wait(patience, shared=mode == "read"))
            except (UnsupportedError, PermissionError):
                self._go_without_gate()
                hold = await _async.finish(self.handle.wait(patience, shared=mode == "read"))
        through._keep(owner, hold)

    def _go_without_gate(self) -> None:
        """There can be none on a network filesystem, and in a file that may not be written."""
        if not self.is_fair:
            raise
        self.handle = Handle(Path(self.lock_file), fair=False)
        self.is_fair = False

    def _beside(self, owner: int) -> _Core | None:
        """Another lock of this lock file that the owner holds."""
        if len(self.file.cores) < 2:
            return None
        with registry.guard:
            cores = list(self.file.cores)
        others = (core for core in cores if core is not self and core.levels.is_shared(owner) is not None)
        return next(others, None)


class _Generation:
    """Tells a forked child from its parent."""

    now = 0


def _begin_anew() -> None:
    """In the child of a fork nothing is held."""
    _Generation.now += 1


os.register_at_fork(after_in_child=_begin_anew)


def _seconds(timeout: Any) -> float:
    if isinstance(timeout, (bool, str)) or not hasattr(timeout, "__float__"):
        raise TypeError(f"timeout is a number of seconds, and {type(timeout).__name__} is none")
    seconds = float(timeout)
    if math.isnan(seconds):
        raise ValueError("timeout is a number of seconds, and nan is none")
    return seconds


def _limit(timeout: float) -> float:
    """Of a timeout that is none there are two spellings."""
    return -1.0 if timeout == math.inf else timeout


def _yes_or_no(blocking: Any) -> bool:
    if not isinstance(blocking, bool):
        raise TypeError(f"blocking is True or False, and no {type(blocking).__name__}")
    return blocking


class _ReadWriteLock(ReadWriteBase):
    """What both kinds have in common."""

    def __init__(
        self,
        lock_file: str | os.PathLike[str],
        timeout: float = -1,
        *,
        blocking: bool = True,
        is_singleton: bool = True,
    ) -> None:
        timeout, blocking = _seconds(timeout), _yes_or_no(blocking)
        self._lock_file = _text(lock_file)
        path = place_of(self._lock_file)
        # What is no directory, or is not there, says so itself.
        os.stat(os.path.join(os.path.dirname(path), ""))
        self._closed = False
        if is_singleton:
            with registry.guard:
                cores = registry.of(_Core)
                core = cores.get(path)
                if core is None:
                    core = cores[path] = _Core(path, timeout, blocking)
                _compare(core, timeout, blocking)
        else:
            core = _Core(path, timeout, blocking)
        self._set_up(core.levels)
        self._core: _Core = core

    @property
    def timeout(self) -> float:
        """How many seconds an acquisition waits at the most; 0 is one attempt, -1 no limit.

        All objects that there is to be one of have it in common.
        """
        return self._core.timeout

    @timeout.setter
    def timeout(self, value: float) -> None:
        self._core.timeout = value

    @property
    def blocking(self) -> bool:
        """Whether an acquisition waits at all. In common, as timeout is."""
        return self._core.blocking

    @blocking.setter
    def blocking(self, value: bool) -> None:
        self._core.blocking = value

    @property
    def lock_file(self) -> str:
        """The path of the lock file, as it was given."""
        return self._lock_file

    def _patience(self, timeout: float | None, blocking: bool | None) -> float | None:
        """Returns seconds, and None for no limit."""
        self._check()
        blocking = _yes_or_no(self.blocking if blocking is None else blocking)
        seconds = _seconds(self.timeout if timeout is None else timeout)
        if seconds < 0 and seconds != -1:
            raise ValueError(f"timeout is a number of seconds from 0 on, or -1, and not {seconds}")
        if not blocking:
            return 0.0
        return None if _limit(seconds) == -1 else seconds

    def _check(self) -> None:
        if self._core.inherited:
            raise RuntimeError(
                f"{type(self).__name__} for {shown(self.lock_file)} came here by a fork, and belongs to the "
                "parent process; make another one in the child"
            )
        if self._closed:
            raise ValueError(f"the {type(self).__name__} for {shown(self.lock_file)} is closed")

    def _refuse_release(self) -> None:
        if self._core.inherited:
            return
        held = "what this thread or task has not acquired" if self._core.levels.is_held() else "a lock that is not held"
        raise RuntimeError(f"{shown(self.lock_file)}: cannot release {held}")

    def _release_of(self, owner: int, force: bool) -> None:
        """Releases what the owner has acquired through this object, once or altogether."""
        count = 0 if self._core.inherited else self._count(owner)
        if count > 0:
            self._release(owner, 0 if force else count - 1)
        elif not force:
            self._refuse_release()

    def holders(self) -> list[Holder]:
        """Who holds the lock, according to the kernel."""
        return self._core.handle.holders()

    def waiters(self) -> list[Waiter]:
        """Who is blocked on the lock, according to the kernel."""
        return self._core.handle.waiters()

    def __del__(self) -> None:
        # Other objects keep the lock, but nobody could release what was acquired through this one.
        core = getattr(self, "_core", None)
        if core is not None and not core.inherited:
            self._release_all()

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


def _compare(core: _Core, timeout: float, blocking: bool) -> None:
    """What is asked for a second time has to be asked for in the same way."""
    if (_limit(core.timeout), core.blocking) != (_limit(timeout), blocking):
        raise ValueError(
            f"{shown(core.lock_file)}: the one lock for this file was made otherwise: timeout={core.timeout}, "
            f"blocking={core.blocking} there, and timeout={timeout}, blocking={blocking} here"
        )


def _one_of(
    lock_file: Any, timeout: float = -1, *, blocking: bool = True, is_singleton: bool = True, **others: Any
) -> tuple[Any, float, bool, bool]:
    """Returns what it depends on which one it is."""
    return lock_file, timeout, blocking, is_singleton


class _OneForEach(type):
    """One ReadWriteLock for each lock file, unless somebody wants one of his own."""

    @property
    def __signature__(cls) -> inspect.Signature:
        """What help() and others show: how one is made."""
        return signature_of(cls)

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
                else:
                    _compare(lock._core, _seconds(timeout), _yes_or_no(blocking))
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
        owner = FileLockBase._this_thread()
        patience = self._patience(timeout, blocking)
        before = self._count(owner)
        try:
            self._core.acquire(self, owner, mode, patience)
            self._check()
            return AcquireReturnProxy(self)
        except BaseException as error:
            # Closed meanwhile; or a signal's handler has raised when the lock was acquired already.
            self._lower(owner, before)
            if isinstance(error, Timeout):
                error._lock_file = self.lock_file
            raise

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

    def read_lock(self, timeout: float | None = None, *, blocking: bool | None = None) -> _Scope:
        """`with lock.read_lock():` together with other readers."""
        return _Scope(self, "read", timeout, blocking)

    def write_lock(self, timeout: float | None = None, *, blocking: bool | None = None) -> _Scope:
        """`with lock.write_lock():` alone."""
        return _Scope(self, "write", timeout, blocking)

    def release(self, *, force: bool = False) -> None:
        """Counts one less, and releases the lock when nothing is left.

        With force=True, releases whatever has been acquired through this object, by other threads as well.
        RuntimeError when this thread does not hold it, unless force=True.
        """
        if not force:
            self._release_of(FileLockBase._this_thread(), False)
        elif not self._core.inherited:
            self._release_all()

    def close(self) -> None:
        """Releases whatever has been acquired through this object, which cannot be used again."""
        if not self._core.inherited:
            self._closed = True
            self._release_all()


class _Scope(ScopeBase, contextlib.ContextDecorator):
    """What read_lock() and write_lock() return: for `with`, and to decorate functions."""

    __slots__ = ()


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
        self, caller: int, mode: _Mode, timeout: float | None, blocking: bool | None
    ) -> AsyncAcquireReadWriteReturnProxy:
        owner = party(caller)
        patience = self._patience(timeout, blocking)
        before = self._count(owner)
        try:
            await self._core.acquire_async(self, owner, mode, patience)
            # It may have been closed meanwhile.
            self._check()
        except BaseException as error:
            self._lower(owner, before)
            if isinstance(error, Timeout):
                error._lock_file = self.lock_file
            raise
        return AsyncAcquireReadWriteReturnProxy(self)

    def acquire_read(
        self, timeout: float | None = None, *, blocking: bool | None = None
    ) -> Coroutine[Any, Any, AsyncAcquireReadWriteReturnProxy]:
        """As ReadWriteLock.acquire_read(); to be awaited, and for `async with`."""
        return self._acquire(this_task(), "read", timeout, blocking)

    def acquire_write(
        self, timeout: float | None = None, *, blocking: bool | None = None
    ) -> Coroutine[Any, Any, AsyncAcquireReadWriteReturnProxy]:
        """As ReadWriteLock.acquire_write(); to be awaited, and for `async with`."""
        return self._acquire(this_task(), "write", timeout, blocking)

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

    def release(self, *, force: bool = False) -> Coroutine[Any, Any, None]:
        """Counts one less, and releases the lock when nothing is left; to be awaited.

        With force=True, releases whatever this task has acquired through this object. RuntimeError when it holds
        nothing, unless force=True.
        """
        return self._release_for(this_task(), force)

    async def _release_for(self, caller: int, force: bool) -> None:
        self._release_of(party(caller), force)

    async def close(self) -> None:
        """Releases what has been acquired through this object, which cannot be used again.

        What tasks hold of the lock file through other objects stays theirs.
        """
        if not self._core.inherited:
            self._closed = True
            self._release_all()
