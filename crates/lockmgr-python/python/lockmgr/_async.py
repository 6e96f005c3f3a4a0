"""Waits under an event loop. No thread of Python's takes part, and nothing polls."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._lockmgr import Hold, Wait


async def finish(wait: Wait) -> Hold:
    """Returns what the wait acquires, under asyncio (uvloop too) or trio (so under anyio).

    When the task is cancelled, or its coroutine dropped, the wait ends at once and nothing is held.
    """
    try:
        hold = wait.poll()
        if hold is None:
            readable = _watcher()
            hold = await readable(wait)
        return hold
    finally:
        wait.cancel()


def _watcher():
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        return _under_asyncio
    if "trio" in sys.modules:
        return _under_trio
    raise RuntimeError("a lock can be awaited under asyncio or trio, and neither runs here")


async def _under_asyncio(wait: Wait) -> Hold:
    loop = asyncio.get_running_loop()
    descriptor = wait.fileno()
    while True:
        rung = loop.create_future()
        loop.add_reader(descriptor, _ring, rung)
        try:
            await rung
        finally:
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
