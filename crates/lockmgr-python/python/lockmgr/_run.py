"""`run`: a command under a lock."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ._lock import Lock

if TYPE_CHECKING:
    import subprocess


def run(
    lock: Lock | str | bytes | os.PathLike[str] | os.PathLike[bytes],
    args: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    lock_timeout: float | None = None,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """Runs a command under a lock, as `subprocess.run` does, and returns its CompletedProcess.

        lockmgr.run("backup", ["rsync", "-a", "/home", "/mnt"], check=True)

    The command inherits the lock: it lasts as long as the command, even if this process is killed meanwhile. When the
    command has ended, the lock is released, also if the command has left something behind. (A lock of mechanism "posix"
    cannot be inherited: it ends with this process, whatever becomes of the command.)

    :param lock: a `Lock`, or what one is made of.
    :param args: the command.
    :param lock_timeout: how long to wait for the lock, in seconds (`timeout` is subprocess.run's, for the command);
        None does as the lock was made. Raises Timeout.
    :param options: those of subprocess.run.
    """
    import subprocess

    if not isinstance(lock, Lock):
        lock = Lock(lock)
    with lock.acquire(lock_timeout):
        # A posix lock belongs to the process; and the process loses it when any descriptor of the file is closed.
        if lock.mechanism == "posix":
            return subprocess.run(args, **options)
        # Our own descriptor is closed in every child; its copy has the same lock.
        inherited = os.dup(lock.fileno())
        try:
            passed = tuple(options.get("pass_fds", ()))
            if passed or options.get("close_fds", True):
                options["pass_fds"] = (*passed, inherited)
            else:
                # Naming some would have the others closed.
                os.set_inheritable(inherited, True)
            return subprocess.run(args, **options)
        finally:
            os.close(inherited)
