"""The package filelock's names, over lockmgr: what `import filelock` gives, `from lockmgr import filelock` does.

    from lockmgr import filelock

    with filelock.FileLock("app.lock", timeout=10):
        ...

What differs is listed in docs/from-filelock.md. The locks of the soft family, which are no locks of the
kernel, are here by name, and cannot be made.
"""

from __future__ import annotations

from typing import Any, NoReturn

from ._errors import Timeout
from ._filelock import (
    AcquireReturnProxy,
    BaseFileLock,
    CloseErrorPolicy,
    ContextErrorPolicy,
    FileLock,
    LockOptions,
    UnixFileLock,
    lock_descriptor,
    unlock_descriptor,
)
from ._filelock_async import AsyncAcquireReturnProxy, AsyncFileLock, AsyncUnixFileLock, BaseAsyncFileLock
from ._lockmgr import __version__
from ._rwlock import AsyncAcquireReadWriteReturnProxy, AsyncReadWriteLock, ReadWriteLock

#: Whether there are kernel locks: always, where lockmgr runs.
has_fcntl = True


class _Refused:
    """A lock of filelock's that lockmgr does not make."""

    _instead = "FileLock"

    def __new__(cls, *args: Any, **keywords: Any) -> NoReturn:
        raise NotImplementedError(
            f"lockmgr has no {cls.__name__}: a file that stands for a lock stays behind when its holder is "
            f"killed, and others can only guess; use {cls._instead}, which the kernel frees"
        )


class SoftFileLock(_Refused):
    """Refused: use FileLock."""


class StrictSoftFileLock(_Refused):
    """Refused: use FileLock."""


class MarkerSoftFileLock(_Refused):
    """Refused: use FileLock."""


class SoftFileLease(_Refused):
    """Refused: use FileLock."""


class SoftReadWriteLock(_Refused):
    """Refused: use ReadWriteLock."""

    _instead = "ReadWriteLock"


class AsyncSoftFileLock(_Refused):
    """Refused: use AsyncFileLock."""

    _instead = "AsyncFileLock"


class AsyncStrictSoftFileLock(_Refused):
    """Refused: use AsyncFileLock."""

    _instead = "AsyncFileLock"


class AsyncSoftFileLease(_Refused):
    """Refused: use AsyncFileLock."""

    _instead = "AsyncFileLock"


class AsyncSoftReadWriteLock(_Refused):
    """Refused: use AsyncReadWriteLock."""

    _instead = "AsyncReadWriteLock"


class _OfWindows(_Refused):
    def __new__(cls, *args: Any, **keywords: Any) -> NoReturn:
        raise NotImplementedError(f"{cls.__name__} is for Windows, and lockmgr runs on Linux so far")


class WindowsFileLock(_OfWindows):
    """Refused: there is no Windows here."""


class AsyncWindowsFileLock(_OfWindows):
    """Refused: there is no Windows here."""


__all__ = [
    "AcquireReturnProxy",
    "AsyncAcquireReadWriteReturnProxy",
    "AsyncAcquireReturnProxy",
    "AsyncFileLock",
    "AsyncReadWriteLock",
    "AsyncSoftFileLease",
    "AsyncSoftFileLock",
    "AsyncSoftReadWriteLock",
    "AsyncStrictSoftFileLock",
    "AsyncUnixFileLock",
    "AsyncWindowsFileLock",
    "BaseAsyncFileLock",
    "BaseFileLock",
    "CloseErrorPolicy",
    "ContextErrorPolicy",
    "FileLock",
    "LockOptions",
    "MarkerSoftFileLock",
    "ReadWriteLock",
    "SoftFileLease",
    "SoftFileLock",
    "SoftReadWriteLock",
    "StrictSoftFileLock",
    "Timeout",
    "UnixFileLock",
    "WindowsFileLock",
    "__version__",
    "has_fcntl",
    "lock_descriptor",
    "unlock_descriptor",
]
