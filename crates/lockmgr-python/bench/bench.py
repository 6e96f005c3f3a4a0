"""What the Python package costs, beside its peers and the raw system calls: `cargo xtask bench --python`.

One run measures all of them in turns, so that a machine whose speed drifts is unfair to nobody. Prints the tables in
Markdown; everything is a median, losses included.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import multiprocessing
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import fasteners
import filelock
import lockmgr
import portalocker

#: Longer than any wait here.
ENOUGH = 60.0


class RawPair:
    """flock and unlock on a descriptor that stays open."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)

    def acquire(self) -> None:
        fcntl.flock(self.fd, fcntl.LOCK_EX)

    def release(self) -> None:
        fcntl.flock(self.fd, fcntl.LOCK_UN)


class RawOpen:
    """open, flock and close."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = -1

    def acquire(self) -> None:
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        fcntl.flock(self.fd, fcntl.LOCK_EX)

    def release(self) -> None:
        os.close(self.fd)


class Classic:
    """lockmgr.LockMgr, whose file comes and goes."""

    def __init__(self, path: str) -> None:
        self.lock = lockmgr.LockMgr(path)

    def acquire(self) -> None:
        assert self.lock.acquire_lock(wait=True, timeout=ENOUGH)

    def release(self) -> None:
        self.lock.release_lock()


class Fasteners:
    """fasteners' lock, whose timeout is an argument of acquire."""

    def __init__(self, path: str) -> None:
        self.lock = fasteners.InterProcessLock(path)

    def acquire(self) -> None:
        assert self.lock.acquire(timeout=ENOUGH)

    def release(self) -> None:
        self.lock.release()


class InLoop:
    """lockmgr.Lock in a task of asyncio."""

    def __init__(self, path: str) -> None:
        self.lock = lockmgr.Lock(path, timeout=ENOUGH)
        self.loop = asyncio.new_event_loop()

    def acquire(self) -> None:
        self.loop.run_until_complete(self.wait())

    async def wait(self) -> None:
        await self.lock.acquire_async()

    def release(self) -> None:
        self.lock.release()


@dataclass
class Contender:
    """A way to lock a file."""

    name: str
    make: Callable[[str], Any]
    #: Whether `with` is what its users write; else acquire and release.
    is_context: bool = True
    uncontended: bool = True
    contended: bool = True

    def cycles(self, lock: Any, count: int) -> float:
        """Returns how long so many uncontended cycles take, in seconds."""
        numbers = range(count)
        if self.is_context:
            since = time.perf_counter()
            for _ in numbers:
                with lock:
                    pass
            return time.perf_counter() - since
        acquire, release = lock.acquire, lock.release
        since = time.perf_counter()
        for _ in numbers:
            acquire()
            release()
        return time.perf_counter() - since


def contenders() -> list[Contender]:
    def portalocker_lock(path: str) -> Any:
        return portalocker.Lock(path, timeout=ENOUGH)

    found = [
        Contender("raw `fcntl.flock`, open descriptor", RawPair, is_context=False),
        Contender("raw open + `fcntl.flock` + close", RawOpen, is_context=False, contended=False),
        Contender("**`lockmgr.Lock`**", lambda path: lockmgr.Lock(path, timeout=ENOUGH)),
        Contender("**`lockmgr.Lock(fair=True)`**", lambda path: lockmgr.Lock(path, timeout=ENOUGH, fair=True)),
    ]
    # The compatible class is another module's.
    compatible = getattr(lockmgr, "FileLock", None)
    if compatible is not None:
        found.append(Contender("**`lockmgr.FileLock`**", lambda path: compatible(path, timeout=ENOUGH)))
    found += [
        Contender("**`lockmgr.LockMgr`**", Classic, is_context=False),
        Contender("**`lockmgr.Lock`** in asyncio", InLoop, is_context=False, uncontended=False),
        Contender(f"`filelock` {metadata.version('filelock')}", lambda path: filelock.FileLock(path, timeout=ENOUGH)),
        Contender(f"`portalocker` {metadata.version('portalocker')}", portalocker_lock),
        Contender(f"`fasteners` {metadata.version('fasteners')}", Fasteners, is_context=False),
    ]
    return found


def locked(contender: Contender, lock: Any) -> contextlib.AbstractContextManager[Any]:
    """A `with` for whatever it is."""
    if contender.is_context:
        return lock  # type: ignore[no-any-return]
    return Held(lock)


class Held:
    """`with`, of what has none."""

    def __init__(self, lock: Any) -> None:
        self.lock = lock

    def __enter__(self) -> None:
        self.lock.acquire()

    def __exit__(self, *exception: object) -> None:
        self.lock.release()


def table(title: str, columns: list[str], rows: list[list[str]]) -> str:
    lines = [f"**{title}**", "", "| " + " | ".join(columns) + " |"]
    lines.append("| --- |" + " ---: |" * (len(columns) - 1))
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def uncontended(directory: str, rounds: int) -> str:
    chosen = [it for it in contenders() if it.uncontended]
    locks = [it.make(os.path.join(directory, f"uncontended-{number}.lock")) for number, it in enumerate(chosen)]
    counts = [max(1, int(0.01 / (it.cycles(lock, 20) / 20))) for it, lock in zip(chosen, locks, strict=True)]
    times: list[list[float]] = [[] for _ in chosen]
    for _ in range(rounds):
        for number, (it, lock, count) in enumerate(zip(chosen, locks, counts, strict=True)):
            times[number].append(it.cycles(lock, count) / count)
    medians = [statistics.median(it) for it in times]
    (theirs,) = (median for it, median in zip(chosen, medians, strict=True) if it.name.startswith("`filelock`"))
    rows = [
        [
            it.name,
            f"{median * 1e6:.2f} µs",
            f"1/{theirs / median:.1f}" if median < theirs else f"{median / theirs:.2f}×",
        ]
        for it, median in zip(chosen, medians, strict=True)
    ]
    return table("Uncontended: one cycle of `with lock: pass`", ["", "median", "of `filelock`"], rows)


def waiter(number: int, path: str, rounds: int, ready: Any, go: Any, granted: Any) -> None:
    """The process that waits: says when it is about to, and when it had the lock."""
    it = contenders()[number]
    lock = it.make(path)
    for index in range(rounds):
        go.recv()
        ready.send(True)
        with locked(it, lock):
            granted[index] = time.monotonic()
        ready.send(True)


def handoff(directory: str, rounds: int) -> str:
    """From the release in one process to the end of the wait in another."""
    context = multiprocessing.get_context("spawn")
    everybody = [(number, it) for number, it in enumerate(contenders()) if it.contended]
    scenes = []
    for number, it in everybody:
        path = os.path.join(directory, f"handoff-{number}.lock")
        ready, ready_there = context.Pipe(duplex=False)
        go_there, go = context.Pipe(duplex=False)
        granted = context.RawArray("d", rounds)
        process = context.Process(target=waiter, args=(number, path, rounds, ready_there, go_there, granted))
        process.start()
        # The holder is a plain one of the same kind.
        holder = contenders()[0 if it.name.startswith("raw") else number]
        lock = lockmgr.Lock(path, timeout=ENOUGH) if it.name.endswith("asyncio") else holder.make(path)
        scenes.append((it, holder, lock, ready, go, granted, process, []))
    chance = random.Random(1)
    for index in range(rounds):
        # Where in its pause a poller is, shall be chance.
        pause = chance.uniform(0.02, 0.12)
        for _, holder, lock, ready, go, granted, _, times in scenes:
            with as_context(lock, locked(holder, lock)):
                go.send(True)
                ready.recv()
                time.sleep(pause)
                released = time.monotonic()
            ready.recv()
            times.append(granted[index] - released)
    rows = []
    raw = statistics.median(scenes[0][-1])
    for it, *_, process, times in scenes:
        process.join(ENOUGH)
        median = statistics.median(times)
        rows.append([it.name, f"{median * 1e6:.1f} µs", f"{median / raw:.2f}×"])
    title = "Hand-off to a process that waits with a timeout (the raw one: without)"
    return table(title, ["waiter", "median", "against raw"], rows)


def as_context(lock: Any, held: Any) -> Any:
    return lock if isinstance(lock, lockmgr.Lock) else held


def sleeper(number: int, path: str, seconds: float, told: Any) -> None:
    """The process whose waiting is paid for here."""
    made: dict[str, Callable[[], Any]] = {
        "**`lockmgr.Lock`**": lambda: lockmgr.Lock(path).acquire(seconds),
        "**`lockmgr.Lock(fair=True)`**": lambda: lockmgr.Lock(path, fair=True).acquire(seconds),
        "**`lockmgr.FileLock`**": lambda: lockmgr.FileLock(path).acquire(timeout=seconds),
        "**`lockmgr.LockMgr`**": lambda: lockmgr.LockMgr(path).acquire_lock(True, seconds),
        "**`lockmgr.Lock`** in asyncio": lambda: asyncio.run(in_loop(path, seconds)),
        "`filelock`": lambda: filelock.FileLock(path).acquire(timeout=seconds),
        "`portalocker`": lambda: portalocker.Lock(path, timeout=seconds).acquire(),
        "`fasteners`": lambda: fasteners.InterProcessLock(path).acquire(timeout=seconds),
    }
    name = contenders()[number].name
    wait = made.get(name) or made[name.split(" ")[0]]

    def cpu() -> float:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime

    before = cpu()
    since = time.monotonic()
    with contextlib.suppress(Exception):
        wait()
    used, passed = cpu() - before, time.monotonic() - since
    told.send((used, passed))


async def in_loop(path: str, seconds: float) -> None:
    await lockmgr.Lock(path).acquire_async(seconds)


def waiting(directory: str, seconds: float, rounds: int) -> str:
    """What a wait of some seconds costs, the last one's look for the holder included."""
    context = multiprocessing.get_context("spawn")
    chosen = [(number, it) for number, it in enumerate(contenders()) if it.contended and not it.name.startswith("raw")]
    used: dict[int, list[float]] = {number: [] for number, _ in chosen}
    with contextlib.ExitStack() as held:
        paths = {number: os.path.join(directory, f"waiting-{number}.lock") for number, _ in chosen}
        for number, it in chosen:
            keeper = lockmgr.Lock(paths[number]) if it.name.endswith("asyncio") else it.make(paths[number])
            held.enter_context(as_context(keeper, locked(it, keeper)))
        for _ in range(rounds):
            sleepers = []
            for number, _ in chosen:
                here, there = context.Pipe(duplex=False)
                process = context.Process(target=sleeper, args=(number, paths[number], seconds, there))
                process.start()
                sleepers.append((number, here, process))
            for number, here, process in sleepers:
                cpu, passed = here.recv()
                process.join(ENOUGH)
                assert passed >= seconds * 0.99, f"{contenders()[number].name} waited for {passed} s only"
                used[number].append(cpu)
    rows = [[it.name, f"{statistics.median(used[number]) * 1e3:.2f} ms"] for number, it in chosen]
    return table(f"CPU time of a wait of {seconds:g} s that ends in a timeout", ["waiter", "median"], rows)


PROCESSES = 8
SECTION = 10e-6


def competitor(number: int, path: str, start: Any, end: Any, told: Any) -> None:
    it = contenders()[number]
    lock = it.make(path)
    start.wait()
    count, longest = 0, 0.0
    clock = time.perf_counter
    stop = clock() + end.value
    asked = clock()
    while asked < stop:
        with locked(it, lock):
            now = clock()
            over = now + SECTION
            while clock() < over:
                pass
        longest = max(longest, now - asked)
        count += 1
        asked = clock()
    told.send((count, longest))


def competition(directory: str, seconds: float, runs: int) -> str:
    """Throughput and fairness of processes that want the lock all the time."""
    context = multiprocessing.get_context("fork")
    chosen = [
        (number, it)
        for number, it in enumerate(contenders())
        if it.contended and not it.name.endswith("asyncio") and "LockMgr" not in it.name
    ]
    results: dict[int, list[tuple[float, float, float]]] = {number: [] for number, _ in chosen}
    for _ in range(runs):
        for number, _ in chosen:
            path = os.path.join(directory, f"competition-{number}.lock")
            start, end = context.Barrier(PROCESSES), context.RawValue("d", seconds)
            here, processes = [], []
            for _ in range(PROCESSES):
                told, tells = context.Pipe(duplex=False)
                here.append(told)
                processes.append(context.Process(target=competitor, args=(number, path, start, end, tells)))
            for process in processes:
                process.start()
            told_all = [told.recv() for told in here]
            for process in processes:
                process.join(ENOUGH)
            counts = [count for count, _ in told_all]
            share = min(counts) / max(counts)
            results[number].append((sum(counts) / seconds, share, max(longest for _, longest in told_all)))
    rows = []
    for number, it in chosen:
        rate, share, longest = (statistics.median(column) for column in zip(*results[number], strict=True))
        rows.append([it.name, f"{rate:,.0f}", f"{share:.2f}", f"{longest * 1e3:,.1f} ms"])
    title = f"{PROCESSES} processes, sections of 10 µs"
    return table(title, ["", "acquisitions a second", "least / most of a process", "longest wait"], rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes")
    quick = parser.parse_args().quick
    version = ".".join(map(str, sys.version_info[:3]))
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o700)
        print(f"CPython {version}.\n")
        print(uncontended(directory, 10 if quick else 60))
        print(handoff(directory, 10 if quick else 100))
        print(waiting(directory, 1 if quick else 5, 1 if quick else 3))
        print("<!-- end of summary -->\n")
        print(competition(directory, 0.5 if quick else 3, 1 if quick else 3))
    return 0


if __name__ == "__main__":
    sys.exit(main())
