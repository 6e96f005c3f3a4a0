"""Runs one scene with one package, in a process of its own, and prints what came of it as JSON.

    python stage.py PACKAGE SCENE DIRECTORY

A scene is written against filelock's interface and knows nothing of the package that it plays with. What came
of each step is noted in words that do not depend on the package: an exception is the built-in classes by
which one would catch it, a lock is "lock", a proxy is "proxy".
"""

from __future__ import annotations

import builtins
import importlib
import json
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

#: Only a scene that fails ever takes so long.
BOUND = 30.0

SCENES: dict[str, Callable[[Stage], Any]] = {}


def scene(play: Callable[[Stage], Any]) -> Callable[[Stage], Any]:
    """Lists a scene under its name."""
    assert play.__name__ not in SCENES, f"two scenes are called {play.__name__}"
    SCENES[play.__name__] = play
    return play


class Stage:
    """Where a scene is played."""

    def __init__(self, package: str, directory: str) -> None:
        self.package = package
        self.fl: ModuleType = importlib.import_module(package)
        self.directory = directory
        self.path = os.path.join(directory, "a.lock")
        self.notes: dict[str, str] = {}

    def note(self, label: str, call: Callable[[], Any]) -> None:
        """Notes what comes of a call."""
        assert label not in self.notes, f"two steps are called {label}"
        self.notes[label] = self.outcome(call)

    def say(self, label: str, value: object) -> None:
        self.note(label, lambda: value)

    async def note_async(self, label: str, awaitable: Any) -> None:
        """Notes what comes of something that is awaited."""
        try:
            value = await awaitable
        except BaseException as error:
            caught = error
            self.note(label, lambda: _raise(caught))
        else:
            self.say(label, value)

    def outcome(self, call: Callable[[], Any]) -> str:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                text = self.words(call())
            except BaseException as error:
                text = "raises " + self.kind(error)
        told = sorted({one.category.__name__ for one in warned if one.category is not ResourceWarning})
        return text + "".join(f", warns {name}" for name in told)

    def kind(self, error: BaseException) -> str:
        """What an `except` could name to catch it."""
        together = getattr(error, "exceptions", None)
        if together is not None:
            return "group of " + " and ".join(map(self.kind, together))
        dull = (object, BaseException, Exception)
        names = [one.__name__ for one in type(error).__mro__ if one not in dull and _is_known(self, one)]
        text = " ".join(sorted(names))
        if error.__context__ is not None and isinstance(error.__context__, KeyError):
            text += ", after KeyError"
        return text

    def words(self, value: Any) -> str:
        """The value, without what differs from run to run."""
        name = type(value).__name__
        if isinstance(value, (tuple, list)):
            return "[" + ", ".join(map(self.words, value)) + "]"
        if "Proxy" in name:
            return "proxy"
        if name.endswith(("FileLock", "ReadWriteLock")):
            return "lock"
        return repr(value).replace(os.path.realpath(self.directory), "DIR").replace(self.directory, "DIR")

    def in_thread(self, call: Callable[[], Any]) -> str:
        """What comes of a call in another thread."""
        came: list[str] = []
        thread = threading.Thread(target=lambda: came.append(self.outcome(call)), daemon=True)
        thread.start()
        thread.join(BOUND)
        return came[0] if came else "never comes back"

    def in_child(self, call: Callable[[], Any]) -> str:
        """What comes of a call in a forked child."""
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(write, self.outcome(call).encode())
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as pipe:
            text = pipe.read()
        os.waitpid(child, 0)
        return text

    @contextmanager
    def elsewhere(self, program: str) -> Iterator[subprocess.Popen[str]]:
        """Another process, with `fl` and `path`, that has printed a line."""
        words = [sys.executable, "-c", ELSEWHERE.format(package=self.package) + program, self.path]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            try:
                yield process
            finally:
                process.kill()

    def holder(self) -> Any:
        """Another process that holds the lock until it is told to go on."""
        return self.elsewhere("lock = fl.FileLock(path)\nlock.acquire()\nsay()\ninput()\nlock.release()\nsay()\n")


ELSEWHERE = """\
import importlib, sys
fl = importlib.import_module("{package}")
path = sys.argv[1]
def say():
    print("ready", flush=True)
"""


def _is_known(stage: Stage, kind: type) -> bool:
    return (
        kind is stage.fl.Timeout
        or getattr(builtins, kind.__name__, None) is kind
        or kind.__module__ == "asyncio.exceptions"
    )


def _raise(error: BaseException) -> None:
    raise error


def main() -> None:
    package, name, directory = sys.argv[1:]
    import scenes  # noqa: F401  (lists them)

    os.umask(0o022)
    stage = Stage(package, directory)
    # Not this module once more, which runs as __main__.
    sys.modules["stage"].SCENES[name](stage)
    Path(directory, "notes.json").write_text(json.dumps(stage.notes))
    sys.stdout.flush()
    # Threads that are left waiting are not waited for.
    os._exit(0)


if __name__ == "__main__":
    sys.modules["stage"] = sys.modules["__main__"]
    main()
