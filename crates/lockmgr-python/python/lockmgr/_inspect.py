"""Who holds a lock, and who waits for it."""

from __future__ import annotations

from typing import NamedTuple


def _say(kind: type, **fields: str) -> None:
    """Makes help() say what the fields are."""
    for name, text in fields.items():
        getattr(kind, name).__doc__ = text


class Holder(NamedTuple):
    """A process that holds a lock. What other processes chose (command, note) is escaped."""

    pid: int | None
    command: str
    user: str | None
    mode: str
    mechanism: str
    standing: str
    since: float | None
    note: str | None


_say(
    Holder,
    pid="The process; None when the kernel does not name it.",
    command="Its command line.",
    user="The user it runs as.",
    mode='"shared" or "exclusive".',
    mechanism='"flock", "ofd" or "posix"; "lease" where one keeps the lock file from being opened.',
    standing='How this is known: "verified", "inherited", "unclear", "gone", "not permitted", "not visible", '
    '"not found".',
    since="When it was acquired, in seconds since 1970, if the holder has recorded that.",
    note="The holder's own words, if it has left a note.",
)


class Waiter(NamedTuple):
    """A thread that is blocked on a lock."""

    pid: int | None
    command: str
    user: str | None
    mode: str
    mechanism: str
    thread: int | None
    depth: int


_say(
    Waiter,
    pid="The process; None when the kernel does not name it.",
    command="Its command line.",
    user="The user it runs as.",
    mode='What it asks for, "shared" or "exclusive".',
    mechanism='"flock", "ofd" or "posix".',
    thread="The number of the thread, where one may look.",
    depth="1 for those that are blocked by the holders, 2 for those behind one of these, and so on.",
)


class LockInfo(NamedTuple):
    """A lock that somebody on this machine holds."""

    path: str | None
    deleted: bool
    mode: str
    mechanism: str
    byte_range: tuple[int, int | None]
    holders: tuple[Holder, ...]
    waiters: tuple[Waiter, ...]


_say(
    LockInfo,
    path="A path of the lock file; None when nobody who has it open may be looked at.",
    deleted="Whether that path has been removed.",
    mode='"shared" or "exclusive".',
    mechanism='"flock", "ofd", "posix", or what else the kernel keeps in its table ("lease").',
    byte_range="(start, length) of the bytes it covers; a length of None is to the end.",
    holders="Who holds it, whoever took it first.",
    waiters="Who is blocked because of it.",
)
