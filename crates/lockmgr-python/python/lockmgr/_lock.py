"""`Lock`: our own interface."""

from __future__ import annotations

from ._async import finish
from ._lockmgr import Acquired, BaseLock


class Lock(BaseLock):
    """A lock that processes, threads and asyncio tasks exclude each other with."""

    __slots__ = ()

    async def acquire_async(self, timeout: float | None = None, *, shared: bool | None = None) -> Acquired:
        wait = self._begin(timeout, shared=shared)
        if wait is not None:
            self._adopt(await finish(wait))
        return Acquired(self)

    async def __aenter__(self) -> Lock:
        wait = self._begin()
        if wait is not None:
            self._adopt(await finish(wait))
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.__exit__(*exception)
