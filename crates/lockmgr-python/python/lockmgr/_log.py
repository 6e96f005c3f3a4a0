"""Tells the logger `lockmgr` of waits that last, and who makes them last.

The waiting thread sleeps in the kernel and is not woken up for this: another one looks at the clock, and
only while somebody waits and the logger listens to INFO.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable

from ._inspect import Holder
from ._lockmgr import holders_at

logger = logging.getLogger("lockmgr")

#: A wait that is longer than this is told of, in seconds.
LONG = 1.0


class Notice:
    """A wait that will be told of unless it ends before."""

    __slots__ = ("due", "mechanism", "over", "path")

    def __init__(self, path: str, mechanism: str) -> None:
        self.path = path
        self.mechanism = mechanism
        self.due = time.monotonic() + LONG
        self.over = False

    def end(self) -> None:
        self.over = True
        _clock.look_again()

    def tell(self) -> None:
        try:
            holders = holders_at(self.path, self.mechanism)
        except OSError:
            holders = []
        if not self.over:
            logger.info("waiting for %s, held by %s", self.path, describe(holders))


def describe(holders: Iterable[Holder]) -> str:
    """Returns the holders in words, for a message."""
    told = []
    for holder in holders:
        if holder.pid is None:
            continue
        note = f": {holder.note}" if holder.note else ""
        told.append(f"pid {holder.pid} ({holder.command}, {holder.user}{note})")
    return " and ".join(told) or "somebody who is not visible"


class _Clock:
    """A thread that is there while there are notices."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        # In the order of their moments, since all have the same time to go.
        self.notices: list[Notice] = []
        self.running = False

    def add(self, notice: Notice) -> None:
        with self.changed:
            self.notices.append(notice)
            if not self.running:
                self.running = True
                threading.Thread(target=self.run, name="lockmgr-log", daemon=True).start()

    def look_again(self) -> None:
        with self.changed:
            self.changed.notify()

    def run(self) -> None:
        while True:
            with self.changed:
                self.notices = [notice for notice in self.notices if not notice.over]
                if not self.notices:
                    self.running = False
                    return
                notice = self.notices[0]
                left = notice.due - time.monotonic()
                if left > 0:
                    self.changed.wait(left)
                    continue
                del self.notices[0]
            notice.tell()


_clock = _Clock()


def begin(path: str, mechanism: str) -> Notice:
    notice = Notice(path, mechanism)
    _clock.add(notice)
    return notice


def _begin_anew() -> None:
    """The child of a fork has neither the thread nor the waits."""
    global _clock
    _clock = _Clock()


os.register_at_fork(after_in_child=_begin_anew)
