"""What `filelock.asyncio` gives: the locks for event loops. The same classes are in `lockmgr.filelock`."""

from __future__ import annotations

from .._filelock_async import AsyncAcquireReturnProxy, AsyncFileLock, AsyncUnixFileLock, BaseAsyncFileLock
from . import AsyncSoftFileLease, AsyncSoftFileLock, AsyncStrictSoftFileLock, AsyncWindowsFileLock

__all__ = [
    "AsyncAcquireReturnProxy",
    "AsyncFileLock",
    "AsyncSoftFileLease",
    "AsyncSoftFileLock",
    "AsyncStrictSoftFileLock",
    "AsyncUnixFileLock",
    "AsyncWindowsFileLock",
    "BaseAsyncFileLock",
]
