"""Run this in one terminal, and then in another one:

    $ python examples/python/two_terminals.py          $ python examples/python/two_terminals.py
    It is mine. Press Enter to give it back.           Held by pid 4242 (python examples/…). Waiting.
    ⏎
    Given back.                                        It is mine. Press Enter to give it back.

The second one is told who has the lock, and waits for it without costing anything. Ctrl-C ends the wait; whatever
ends the first one, even a SIGKILL, lets the second one in.
"""

import sys

import lockmgr


def main(lock_file: str = "/tmp/two-terminals.lock") -> int:
    lock = lockmgr.Lock(lock_file, note="the example with two terminals")
    try:
        try:
            lock.acquire(timeout=0)
        except lockmgr.Timeout as busy:
            for holder in busy.holders:
                print(f"Held by pid {holder.pid} ({holder.command}). Waiting.", flush=True)
            lock.acquire()
        print("It is mine. Press Enter to give it back.", flush=True)
        sys.stdin.readline()
        lock.release()
        print("Given back.", flush=True)
    except KeyboardInterrupt:
        print("Never mind.", flush=True)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
