"""What can go wrong. All of it is an OSError; what the kernel said is a plain one, by its number."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._inspect import Holder
    from ._lockmgr import Obstacle


def shown(path: Any) -> str:
    """Returns a path as it may be shown: on one line, without what a terminal would act on."""
    text = os.fsdecode(path)
    return text if text.isprintable() else ascii(text)[1:-1]


class LockError(OSError):
    """Something is wrong with a lock: its file was replaced during the hold, a hold was lost, …"""

    #: The lock file, where there is one.
    lock_file: str | None = None


class DeadlockError(LockError, RuntimeError):
    """The wait would never end, so it was not begun or was given up."""


class UnsupportedError(LockError, ValueError):
    """What was asked for cannot be done, or not in this combination."""


class Timeout(LockError, TimeoutError):
    """The lock was busy, and did not become free in time.

    ``str()`` names who holds it.
    """

    def __init__(self, lock_file: str | os.PathLike[str], holder: Obstacle | str | None = None) -> None:
        super().__init__()
        self._lock_file = os.fspath(lock_file)
        self._obstacle = None if isinstance(holder, str) else holder
        self._text: str | None = None
        if isinstance(holder, str):
            self._text = f"{shown(self._lock_file)}: the lock is busy, held by {holder}"
        self._holders: tuple[Holder, ...] | None = None

    @property
    def lock_file(self) -> str:  # type: ignore[override]
        """The lock file."""
        return self._lock_file

    @property
    def holders(self) -> tuple[Holder, ...]:
        """Who held the lock, as far as the kernel tells.

        It is asked when a thread's wait is over. After a single attempt, and after the wait of a task, whose loop that
        would hold up, it is asked when this is first read: what is said is who holds the lock then.
        """
        if self._holders is None:
            self._holders = () if self._obstacle is None else tuple(self._obstacle.holders())
        return self._holders

    def __str__(self) -> str:
        if self._text is None:
            if self._obstacle is None:
                self._text = f"{shown(self._lock_file)}: the lock is busy"
            else:
                self._text = self._obstacle.describe()
        return self._text

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._lock_file!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # With whatever was put on it; but the kernel is asked here and now.
        state = {**vars(self), "_obstacle": None, "_text": str(self), "_holders": self.holders}
        return type(self), (self._lock_file,), state
