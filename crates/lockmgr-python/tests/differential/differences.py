"""Where ours deliberately does not do as filelock does: what comes of a step there and here, and why.

The reasons are headings of docs/from-filelock.md. An entry that is no longer true is a failure, as is a difference
without an entry.
"""

from __future__ import annotations

from typing import NamedTuple

#: The release of filelock that the outcomes were seen with. With another one they are looked at anew.
FILELOCK = "4.3.1"


class Difference(NamedTuple):
    theirs: str
    ours: str
    why: str


_BUSY = "raises OSError Timeout TimeoutError"
_REFUSED = "raises NotImplementedError RuntimeError"

SOFT = "Soft locks are refused"
WORDS = "Messages are in our own words"
NAN = "A timeout of nan is refused at once"
SHARED = "Whoever shares an object takes turns"
COPY = "A lock is not copied"
HOOKS = "Subclasses override acquire() and release()"
ASYNC_DECORATOR = "Decorators protect what they decorate"
KINDS = "What can be a lock file"
RELATIVE = "A relative path is taken from the directory of its construction"
CLOSED = "A closed ReadWriteLock raises ValueError"
ONESELF = "A wait for oneself is found out wherever it comes from"
ONCE = "A lock is set up once"
FORKED = "A ReadWriteLock can be made in any forked child"

DIFFERENCES: dict[str, Difference] = {
    **{f"names: {name}": Difference("True", "False", HOOKS) for name in ("AcquireWait", "FileLockContext", "InFlight")},
    **{
        f"soft_locks: {name}": Difference("True", _REFUSED, SOFT)
        for name in ("SoftFileLock", "AsyncSoftFileLock", "SoftReadWriteLock", "SoftFileLease", "StrictSoftFileLock")
    },
    "timeout_exception: str": Difference(
        "\"The file lock 'x' could not be acquired.\"", "'x: the lock is busy'", WORDS
    ),
    "settings_of_the_lock: timeout nan": Difference("nan", "raises ValueError", NAN),
    "properties: timeout = nan": Difference("nan", "raises ValueError", NAN),
    "readwrite_settings: made with timeout nan": Difference("nan", "raises ValueError", NAN),
    "threads_that_share: another thread acquires": Difference("'[proxy, 2]'", f"'{_BUSY}'", SHARED),
    "async_shared: two tasks": Difference("[1, 2, 1, 2]", "[1, 1, 2, 2]", SHARED),
    "readwrite_threads: a writer beside a reader": Difference("'raises RuntimeError'", f"'{_BUSY}'", SHARED),
    "readwrite_threads: a second writer": Difference("'raises RuntimeError'", f"'{_BUSY}'", SHARED),
    "readwrite_threads: a reader beside a writer": Difference("'raises RuntimeError'", f"'{_BUSY}'", SHARED),
    "pickled: copy": Difference("lock", "raises TypeError", COPY),
    "subclasses: with _acquire()": Difference("True", "raises TypeError", HOOKS),
    "decorated: a coroutine function": Difference("False", "raises TypeError", ASYNC_DECORATOR),
    "decorated: a partial of one": Difference("True", "raises TypeError", ASYNC_DECORATOR),
    "decorated: a generator": Difference("[False]", "raises TypeError", ASYNC_DECORATOR),
    "async_decorator: a coroutine function": Difference(_REFUSED, "True", ASYNC_DECORATOR),
    "lock_files: a file in the way": Difference(
        "raises FileExistsError OSError", "raises NotADirectoryError OSError", KINDS
    ),
    "lock_files: a directory": Difference("raises IsADirectoryError OSError", "True", KINDS),
    "lock_files: a FIFO": Difference("True", "raises OSError", KINDS),
    "lock_files: bytes": Difference("raises TypeError", "True", KINDS),
    "lock_files: a directory by a link to nothing": Difference("True", "raises FileExistsError OSError", KINDS),
    "lock_files: which is made": Difference("False", "True", KINDS),
    "lock_files: a directory by a link to itself": Difference(
        "raises FileExistsError OSError", "raises OSError", KINDS
    ),
    "readwrite_settings: the mode of the file": Difference("'0o100600'", "'0o100644'", KINDS),
    "self_deadlock: by a hard link": Difference(_BUSY, "raises OSError RuntimeError", ONESELF),
    "properties: __init__ again": Difference("None", "raises RuntimeError", ONCE),
    "readwrite_settings: __init__ again": Difference("None", "raises RuntimeError", ONCE),
    "subclasses: BaseFileLock itself": Difference("raises TypeError", "True", HOOKS),
    "subclasses: BaseAsyncFileLock itself": Difference("raises TypeError", "True", HOOKS),
    "a_directory_that_changes: which file it is": Difference("['two']", "['one']", RELATIVE),
    "readwrite_settings: closed": Difference("raises ", "raises ValueError", CLOSED),
    "readwrite_async: closed": Difference("raises ", "raises ValueError", CLOSED),
    "readwrite_forked: another object": Difference("'raises RuntimeError'", f"'{_BUSY}'", FORKED),
}
