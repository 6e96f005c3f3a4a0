"""The package filelock's names, over lockmgr: what `import filelock` gives, `from lockmgr import filelock` does.

    from lockmgr import filelock

    with filelock.FileLock("app.lock", timeout=10):
        ...

What differs is listed in docs/from-filelock.md. The locks of the soft family, which are no locks of the
kernel, are here by name, and cannot be made; nor can what belongs to them. Their exceptions are never raised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NoReturn

from .._errors import Timeout
from .._filelock import (
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
from .._filelock_async import AsyncAcquireReturnProxy, AsyncFileLock, AsyncUnixFileLock, BaseAsyncFileLock
from .._lockmgr import __version__
from .._rwlock import AsyncAcquireReadWriteReturnProxy, AsyncReadWriteLock, ReadWriteLock

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


class StrictSoftFileClaim(_Refused):
    """Refused: use FileLock."""


class StrictSoftFileClaimState(_Refused):
    """Refused: use FileLock."""


class StrictRelease(_Refused):
    """Refused: use FileLock."""


class LeaseClaim(_Refused):
    """Refused: use FileLock."""


class LeaseCompromise(_Refused):
    """Refused: use FileLock."""


class LeaseHeartbeat(_Refused):
    """Refused: use FileLock."""


class OwnerRecord(_Refused):
    """Refused: use FileLock, whose holders() says who has it."""


class AsyncAcquireSoftReadWriteReturnProxy(_Refused):
    """Refused: use AsyncReadWriteLock."""

    _instead = "AsyncReadWriteLock"


CompromiseReason = Literal["marker-missing", "owner-changed", "refresh-failed", "evicted"]
OwnerMode = Literal["lease", "exclusive", "unknown"]


class LeaseSettingsMismatch(ValueError):
    """Never raised: there are no leases."""


class ReleasePendingError(TimeoutError):
    """Never raised: a release waits for nobody."""


class SoftFileLockProtocolError(OSError):
    """Never raised: there are no soft locks."""


class SoftFileLockLifetimeWarning(FutureWarning):
    """Never given: there are no soft locks."""


class _OfWindows(_Refused):
    def __new__(cls, *args: Any, **keywords: Any) -> NoReturn:
        raise NotImplementedError(f"{cls.__name__} is for Windows, and lockmgr runs on Linux so far")


class WindowsFileLock(_OfWindows):
    """Refused: there is no Windows here."""


class AsyncWindowsFileLock(_OfWindows):
    """Refused: there is no Windows here."""


#: What filelock's own classes keep their state in.
_INNER = ("AcquireWait", "FileLockContext", "InFlight")

if TYPE_CHECKING:
    from . import asyncio
# A type checker would take any name for one that is here.
else:

    def __getattr__(name):
        if name == "asyncio":
            from importlib import import_module

            return import_module(".asyncio", __name__)
        if name in _INNER:
            text = f"lockmgr.filelock has no {name}: it is filelock's own state, which is kept elsewhere here"
            raise AttributeError(text, name=name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)

    def __dir__():
        return sorted({*globals(), "asyncio"})


__all__ = [
    "AcquireReturnProxy",
    "AsyncAcquireReadWriteReturnProxy",
    "AsyncAcquireReturnProxy",
    "AsyncAcquireSoftReadWriteReturnProxy",
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
    "CompromiseReason",
    "ContextErrorPolicy",
    "FileLock",
    "LeaseClaim",
    "LeaseCompromise",
    "LeaseHeartbeat",
    "LeaseSettingsMismatch",
    "LockOptions",
    "MarkerSoftFileLock",
    "OwnerMode",
    "OwnerRecord",
    "ReadWriteLock",
    "ReleasePendingError",
    "SoftFileLease",
    "SoftFileLock",
    "SoftFileLockLifetimeWarning",
    "SoftFileLockProtocolError",
    "SoftReadWriteLock",
    "StrictRelease",
    "StrictSoftFileClaim",
    "StrictSoftFileClaimState",
    "StrictSoftFileLock",
    "Timeout",
    "UnixFileLock",
    "WindowsFileLock",
    "__version__",
    "asyncio",
    "has_fcntl",
    "lock_descriptor",
    "unlock_descriptor",
]
