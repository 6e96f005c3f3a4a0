"""Who holds a lock, and who waits for it."""

from __future__ import annotations

from typing import NamedTuple


class Holder(NamedTuple):
    """A process that holds a lock. What other processes chose (command, note) is escaped."""

    #: The process; None when the kernel does not name it.
    pid: int | None
    #: Its command line.
    command: str
    #: The user it runs as.
    user: str | None
    #: "shared" or "exclusive".
    mode: str
    #: "flock", "ofd" or "posix"; "lease" where one keeps the lock file from being opened.
    mechanism: str
    #: How this is known: "verified", "inherited", "unclear", "gone", "not permitted", "not visible".
    standing: str
    #: When it was acquired, in seconds since 1970, if the holder has recorded that.
    since: float | None
    #: The holder's own words, if it has left a note.
    note: str | None


class Waiter(NamedTuple):
    """A thread that is blocked on a lock."""

    #: The process; None when the kernel does not name it.
    pid: int | None
    #: Its command line.
    command: str
    #: The user it runs as.
    user: str | None
    #: What it asks for, "shared" or "exclusive".
    mode: str
    #: "flock", "ofd" or "posix".
    mechanism: str
    #: The number of the thread, where one may look.
    thread: int | None
    #: 1 for those that are blocked by the holders, 2 for those behind one of these, and so on.
    depth: int


class LockInfo(NamedTuple):
    """A lock that somebody on this machine holds."""

    #: A path of the lock file; None when nobody who has it open may be looked at.
    path: str | None
    #: Whether that path has been removed.
    deleted: bool
    #: "shared" or "exclusive".
    mode: str
    #: "flock", "ofd", "posix", or what else the kernel keeps in its table ("lease").
    mechanism: str
    #: (start, length) of the bytes it covers; a length of None is to the end.
    byte_range: tuple[int, int | None]
    #: Who holds it, whoever took it first.
    holders: tuple[Holder, ...]
    #: Who is blocked because of it.
    waiters: tuple[Waiter, ...]
