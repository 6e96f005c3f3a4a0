"""`LockMgr`: the small classic interface, over the same core."""

from __future__ import annotations

import errno
import os
import sys
import threading
from pathlib import Path
from typing import Any

from ._errors import LockError
from ._lockmgr import Handle, Hold


class LockMgr:
    """Acquire and release a lock file, with a bool and a short text for an answer.

        lock = lockmgr.LockMgr("/tmp/job.lock")
        if lock.acquire_lock(wait=True, timeout=30):
            try:
                ...
            finally:
                lock.release_lock()
        else:
            print(lock.msg)

    The file is created with permissions 0644 when it is acquired, and removed when it is released: under the lock,
    so that no two processes get in, and only if it holds nothing of somebody else's. Threads that share an object
    exclude each other: it is held by the thread that has acquired it.
    """

    def __init__(self, lockfile: str | os.PathLike[str]) -> None:
        # As a Path it would be the current directory.
        if not os.fspath(lockfile):
            raise FileNotFoundError(errno.ENOENT, "an empty path names no lock file", lockfile)
        #: The lock file, as it was given.
        self.lockfile = lockfile
        # What is given as a Path is one, with a slash in it or not.
        self._handle = Handle(Path(lockfile), remove=True, mode=0o644)
        self._hold: Hold | None = None
        self._owner = 0
        self._outcome = threading.local()

    @property
    def acquired(self) -> bool:
        """Whether this object, in this process, holds the lock."""
        hold = self._hold
        return hold is not None and hold.held

    @property
    def fd_w(self) -> int | None:
        """The descriptor of the lock file while the lock is held, else None."""
        hold = self._hold
        return hold.fileno() if hold is not None and hold.held else None

    @property
    def msg(self) -> str:
        """What came of this thread's last call; empty before the first."""
        msg: str = getattr(self._outcome, "msg", "")
        return msg

    def acquire_lock(self, wait: bool = False, timeout: float | None = 30) -> bool:
        """Acquires the lock; returns whether it is held.

        With wait, for at most timeout seconds, asleep in the kernel; without, in one attempt. A lock that this
        thread holds through this object already stays held, with the answer True. `msg` says 'Success',
        'Already locked', or 'Failed: ' and why, with the holder.
        """
        if self.acquired and self._owner == threading.get_ident():
            self._outcome.msg = "Already locked"
            return True
        try:
            hold = self._handle.acquire(timeout if wait else 0)
        except (OSError, ValueError) as error:
            self._outcome.msg = f"Failed: {error}"
            return False
        self._owner = threading.get_ident()
        self._hold = hold
        self._outcome.msg = "Success"
        try:
            self._tell("acquired")
        except BaseException:
            # A signal's handler has raised while the record was made: nobody knows of this hold.
            self._hold = None
            hold.release()
            raise
        return True

    def release_lock(self) -> bool:
        """Releases the lock and removes the file; returns whether a lock was held.

        A thread releases what it has acquired itself, or what a thread has that is no more. `msg` says
        'success: lock released', or 'No lock to release'.
        """
        hold = self._hold
        if hold is None or not hold.held or not self._is_ours():
            self._outcome.msg = "No lock to release"
            return False
        # Before the release: from then on another thread may put its own hold there.
        self._hold = None
        try:
            hold.release(check=True)
        except LockError as error:
            self._outcome.msg = f"success: lock released, but {error}"
        else:
            self._outcome.msg = "success: lock released"
        self._tell("released")
        return True

    def _tell(self, what: str) -> None:
        # Who has not imported it does not listen.
        logging = sys.modules.get("logging")
        if logging is not None:
            logging.getLogger("lockmgr").debug("%s %s (exclusive)", what, self._handle.path)

    def _is_ours(self) -> bool:
        owner = self._owner
        return owner == threading.get_ident() or all(it.ident != owner for it in threading.enumerate())

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._handle.path,)

    def __repr__(self) -> str:
        held = ", held" if self.acquired else ""
        return f"<{type(self).__name__} {os.fspath(self.lockfile)!r}{held}>"
