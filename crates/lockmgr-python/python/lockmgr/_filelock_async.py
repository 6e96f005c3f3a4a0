"""`AsyncFileLock`: filelock's interface for event loops, without an executor.

The hold is a task's: of the one that awaits it, or has a task of its own made for that. Tasks that share an
object exclude each other, in the order in which they came; the task that has the lock enters again, counted.
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from . import _async
from ._errors import Timeout
from ._filelock import _DEFAULTS, BaseFileLock, CloseErrorPolicy, ContextErrorPolicy, both_failed, wait_told
from ._lockmgr import FileLockBase

if TYPE_CHECKING:
    import asyncio
    import os
    from concurrent.futures import Executor

    from typing_extensions import Self

    from ._lockmgr import Hold, Wait

_F = TypeVar("_F", bound=Callable[..., Any])

_ASYNC_DEFAULTS: dict[str, Any] = {
    **_DEFAULTS,
    "thread_local": False,
    "loop": None,
    "run_in_executor": True,
    "executor": None,
}
_SYNC = "an AsyncFileLock is for `async with`; for `with` there is FileLock, which takes the same lock"

#: cancel_check is not asked more often than this.
_SHORTEST = 0.001

_owners: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()


def owner() -> int:
    """Returns the number of the task that runs, or of the thread where none does."""
    task = _async.current_task()
    if task is None:
        return FileLockBase._this_thread()
    number = _owners.get(task)
    if number is None:
        number = _owners[task] = FileLockBase._new_owner()
    return number


def party(caller: int) -> int:
    """Returns whose a hold is to be, for a coroutine of ours that was made by this caller and runs now.

    It is the running task's. But where that task does nothing else, because asyncio.wait_for (up to Python
    3.11), asyncio.gather or asyncio.create_task made it for the coroutine, it is over when the coroutine is:
    then it is the caller's.
    """
    coroutine = getattr(_async.current_task(), "get_coro", lambda: None)()
    alone = coroutine is not None and getattr(coroutine, "cr_frame", None) is sys._getframe(1)
    return caller if alone else owner()


async def _finish_asking(wait: Wait, path: str, check: Callable[[], bool], every: float) -> Hold:
    """As finish(), and asks again and again whether to give up. The wait does not suffer from the asking."""
    pause = _pause_asyncio if _async._watcher() is _async._under_asyncio else _pause_trio
    try:
        while True:
            hold = wait.poll()
            if hold is not None:
                return hold
            if check():
                raise Timeout(path)
            await pause(wait, every)
    finally:
        wait.cancel()


async def _pause_asyncio(wait: Wait, every: float) -> None:
    import asyncio

    loop = asyncio.get_running_loop()
    rung = loop.create_future()
    loop.add_reader(wait.fileno(), _async._ring, rung)
    late = loop.call_later(every, _async._ring, rung)
    try:
        await rung
    finally:
        late.cancel()
        if not loop.is_closed():
            loop.remove_reader(wait.fileno())


async def _pause_trio(wait: Wait, every: float) -> None:
    import trio

    with trio.move_on_after(every):
        await trio.lowlevel.wait_readable(wait.fileno())


class AsyncAcquireReturnProxy:
    """What acquire() returns: for `async with`, which releases."""

    __slots__ = ("lock",)

    def __init__(self, lock: BaseAsyncFileLock) -> None:
        #: The lock.
        self.lock = lock

    async def __aenter__(self) -> BaseAsyncFileLock:
        return self.lock

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.lock.__aexit__(exc_type, exc_value, traceback)


class BaseAsyncFileLock(BaseFileLock):
    """What all asynchronous locks with filelock's interface have in common; see AsyncFileLock."""

    def __init__(
        self,
        lock_file: str | os.PathLike[str],
        timeout: float = -1,
        mode: int = -1,
        thread_local: bool = False,
        *,
        blocking: bool = True,
        is_singleton: bool = False,
        poll_interval: float = 0.05,
        lifetime: float | None = None,
        context_error_policy: ContextErrorPolicy = "chain",
        close_error_policy: CloseErrorPolicy = "default",
        fallback_to_soft: bool = True,
        preserve_lock_file: bool = False,
        on_acquired: Callable[[int], object] | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        run_in_executor: bool = True,
        executor: Executor | None = None,
    ) -> None:
        if thread_local and run_in_executor:
            raise ValueError("thread_local=True needs run_in_executor=False (there is no executor anyway)")
        super().__init__(
            lock_file,
            timeout,
            mode,
            thread_local,
            blocking=blocking,
            is_singleton=is_singleton,
            poll_interval=poll_interval,
            lifetime=lifetime,
            context_error_policy=context_error_policy,
            close_error_policy=close_error_policy,
            fallback_to_soft=fallback_to_soft,
            preserve_lock_file=preserve_lock_file,
            on_acquired=on_acquired,
        )
        self._lockmgr_options |= {"loop": loop, "run_in_executor": run_in_executor, "executor": executor}

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        return _ASYNC_DEFAULTS

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """As it was given. The lock can be used under any loop, and under several."""
        loop: asyncio.AbstractEventLoop | None = self._lockmgr_options["loop"]
        return loop

    @property
    def run_in_executor(self) -> bool:
        """As it was given. Nothing is run in an executor."""
        return bool(self._lockmgr_options["run_in_executor"])

    @property
    def executor(self) -> Executor | None:
        """As it was given. Nothing is run in an executor."""
        executor: Executor | None = self._lockmgr_options["executor"]
        return executor

    @executor.setter
    def executor(self, value: Executor | None) -> None:
        self._lockmgr_options["executor"] = value

    def acquire(  # type: ignore[override]
        self,
        timeout: float | None = None,
        poll_interval: float | None = None,
        *,
        blocking: bool | None = None,
        cancel_check: Callable[[], bool] | None = None,
    ) -> Coroutine[Any, Any, AsyncAcquireReturnProxy]:
        """Acquires the lock, or counts one more if this task holds it; to be awaited. See FileLock.acquire().

        When the task is cancelled the wait ends at once and nothing is held. A task that is made for this alone,
        as asyncio.create_task(lock.acquire()) does, acquires for the one that made it.
        """
        return self._acquire_for(owner(), timeout, poll_interval, blocking, cancel_check)

    async def _acquire_for(
        self,
        caller: int,
        timeout: float | None,
        poll_interval: float | None,
        blocking: bool | None,
        cancel_check: Callable[[], bool] | None,
    ) -> AsyncAcquireReturnProxy:
        task = party(caller)
        try:
            wait = self._begin(task, timeout, poll_interval, blocking)
        except Timeout:
            if cancel_check is not None and (self.blocking if blocking is None else blocking):
                # Giving up is all that is left, whatever it says; but it is asked.
                cancel_check()
            raise
        if wait is not None:
            try:
                with wait_told(self.lock_file):
                    if cancel_check is None:
                        hold = await _async.finish(wait)
                    else:
                        every = self.poll_interval if poll_interval is None else poll_interval
                        hold = await _finish_asking(wait, self.lock_file, cancel_check, max(every, _SHORTEST))
            except Timeout as error:
                error._lock_file = self.lock_file
                raise
            self._adopt(task, hold)
        return AsyncAcquireReturnProxy(self)

    async def release(self, force: bool = False) -> None:  # type: ignore[override]
        """Counts one less, and releases the lock when nothing is left, or at once with force=True."""
        super().release(force)

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self.release()
        except BaseException as release:
            if exc_value is None:
                raise
            raise both_failed(exc_value, release, self.context_error_policy == "group") from None

    def __enter__(self) -> NoReturn:
        raise NotImplementedError(_SYNC)

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        raise NotImplementedError(_SYNC)

    def __call__(self, func: _F) -> _F:
        """Decorates a coroutine function: each call is made under the lock."""
        import inspect  # Heavy, and rarely needed.

        if not inspect.iscoroutinefunction(func):
            raise NotImplementedError(f"{_SYNC} (and this decorates coroutine functions)")

        @functools.wraps(func)
        async def under_lock(*args: Any, **keywords: Any) -> Any:
            async with self:
                return await func(*args, **keywords)

        return under_lock  # type: ignore[return-value]


class AsyncFileLock(BaseAsyncFileLock):
    """A lock with the interface of filelock.AsyncFileLock, which waits without an executor.

        lock = AsyncFileLock("app.lock")
        async with asyncio.timeout(10), lock:
            ...

    As FileLock, with `async with`, `await lock.acquire()` and `await lock.release()`, under asyncio, uvloop
    and trio (so under anyio). The hold is the task's: another task that shares the object waits, and the
    task itself enters again. A wait ends at once when its task is cancelled.

    loop, run_in_executor and executor are accepted, and there is nothing for them to do. on_acquired is
    called in the thread of the loop.
    """


#: filelock's name for it.
AsyncUnixFileLock = AsyncFileLock
