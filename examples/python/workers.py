"""The classic demonstration: three processes that share what only one may use at a time.

Each takes the lock a few times; `+[n]` says that worker n has it, `-[n]` that it has given it back. There is never
another sign between the two of one worker:

    $ python examples/python/workers.py
    +[0] -[0] +[1] -[1] +[2] -[2] +[0] -[0] ...
"""

import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import lockmgr

WORKERS = 3
TURNS = 3


def work(number: int, lock: lockmgr.Lock) -> None:
    """What a worker does. The lock that it was given is the same one, by its file, and its own to acquire."""
    for _ in range(TURNS):
        with lock:
            print(f"+[{number}]", end=" ", flush=True)
            time.sleep(0.01)
            print(f"-[{number}]", end=" ", flush=True)


def main() -> int:
    with tempfile.TemporaryDirectory() as directory:
        lock = lockmgr.Lock(Path(directory) / "workers.lock", timeout=60)
        workers = [multiprocessing.Process(target=work, args=(number, lock)) for number in range(WORKERS)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        print()
        return max(worker.exitcode or 0 for worker in workers)


if __name__ == "__main__":
    sys.exit(main())
