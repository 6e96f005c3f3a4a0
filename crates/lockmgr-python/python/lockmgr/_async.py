"""Waits under an event loop. No thread of Python's takes part, and nothing polls."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ._lockmgr import current_task

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from ._lockmgr import Hold, Wait


async def finish(wait: Wait) -> Hold:
    """Returns what the wait acquires, under asyncio (whatever its loop) or trio (so under anyio).

    When the task is cancelled, or its coroutine closed, the wait ends at once and nothing is held.
    """
    try:
        # The first look begins the waiting.
        hold = wait.poll()
        if hold is not None:
            return hold
        return await _watcher()(wait)
    finally:
        wait.cancel()


async def finish_told(wait: Wait) -> Hold:
    """As finish(), and the logger is told of the wait when it takes long."""
    notice = wait._notice()
    if notice is None:
        return await finish(wait)
    try:
        return await finish(wait)
    finally:
        notice.end()


def _watcher() -> Callable[[Wait], Awaitable[Hold]]:
    # Whoever runs a loop has imported its module; importing it here would cost all others dearly.
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and asyncio._get_running_loop() is not None:
        return _under_asyncio
    if current_task() is not None:
        return _under_trio
    raise RuntimeError("a lock is awaited under asyncio or trio, and neither runs here")


async def _under_asyncio(wait: Wait) -> Hold:
    import asyncio

    loop = asyncio.get_running_loop()
    descriptor = wait.fileno()
    while True:
        rung = loop.create_future()
        loop.add_reader(descriptor, _ring, rung)
        try:
            await rung
        finally:
            # A closed loop has forgotten its readers, and takes the question amiss.
            if not loop.is_closed():
                loop.remove_reader(descriptor)
        hold = wait.poll()
        if hold is not None:
            return hold


def _ring(rung: asyncio.Future[None]) -> None:
    if not rung.done():
        rung.set_result(None)


async def _under_trio(wait: Wait) -> Hold:
    import trio

    while True:
        await trio.lowlevel.wait_readable(wait.fileno())
        hold = wait.poll()
        if hold is not None:
            return hold


__all__ = ["current_task", "finish", "finish_told"]
