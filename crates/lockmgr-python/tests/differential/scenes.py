"""The scenes that are played with filelock and with ours."""

from __future__ import annotations

import asyncio
import copy
import fractions
import functools
import gc
import importlib
import os
import pathlib
import pickle
import signal
import threading
import weakref
from typing import Any

from stage import Stage, scene


@scene
def names(stage: Stage) -> None:
    """What can be imported."""
    # Those of filelock, whoever plays.
    for name in importlib.import_module("filelock").__all__:
        stage.say(name, hasattr(stage.fl, name))
    for name in ("LeaseSettingsMismatch", "ReleasePendingError", "SoftFileLockProtocolError"):
        bases = getattr(stage.fl, name).__mro__[1:]
        stage.say(f"{name} is", [base.__name__ for base in bases])
    stage.say("asynchronous", [hasattr(stage.fl.asyncio, name) for name in ("AsyncUnixFileLock", "BaseAsyncFileLock")])
    stage.note("import of asyncio", lambda: bool(importlib.import_module(stage.package + ".asyncio")))
    aliases = ("CompromiseReason", "OwnerMode")
    stage.say("aliases", [str(getattr(stage.fl, name)) for name in aliases])
    stage.say("policies", [str(stage.fl.ContextErrorPolicy), str(stage.fl.CloseErrorPolicy)])
    stage.say("options", sorted(stage.fl.LockOptions.__annotations__))


@scene
def soft_locks(stage: Stage) -> None:
    for name in ("SoftFileLock", "AsyncSoftFileLock", "SoftReadWriteLock", "SoftFileLease", "StrictSoftFileLock"):
        stage.note(name, lambda name=name: bool(getattr(stage.fl, name)(stage.path)))


@scene
def timeout_exception(stage: Stage) -> None:
    error = stage.fl.Timeout("x")
    stage.say("repr", repr(error))
    stage.say("str", str(error))
    stage.say("args", error.args)
    stage.say("errno", error.errno)
    stage.say("lock_file", error.lock_file)
    stage.note("lock_file is read-only", lambda: setattr(error, "lock_file", "y"))
    again = pickle.loads(pickle.dumps(error))
    stage.say("pickled", [type(again).__name__, again.lock_file, str(again) == str(error)])
    stage.note("raised", lambda: (_ for _ in ()).throw(error))
    stage.note("with a holder", lambda: stage.fl.Timeout("x", "somebody").lock_file)


@scene
def one_lock(stage: Stage) -> None:
    lock = stage.fl.FileLock(stage.path)
    stage.say("at first", [lock.is_locked, lock.lock_counter, os.path.exists(stage.path)])
    proxy = lock.acquire()
    stage.say("acquire", proxy)
    stage.say("the lock of the proxy", proxy.lock is lock)
    stage.say("acquired", [lock.is_locked, lock.lock_counter])
    with proxy as inner:
        stage.say("in with", [inner is lock, lock.lock_counter])
    stage.say("after with", [lock.is_locked, lock.lock_counter])
    stage.note("release of what is not held", lock.release)
    stage.note("forced release of what is not held", lambda: lock.release(force=True))
    stage.note("exit of what is not held", lambda: lock.__exit__(None, None, None))
    stage.say("the file stays", os.path.exists(stage.path))
    with lock as inner:
        stage.say("with the lock", [inner is lock, lock.is_locked])
    with lock.acquire():
        lock.release()
        stage.say("released inside", lock.is_locked)
    stage.say("in the end", lock.lock_counter)
    with lock:
        pass
    with proxy:
        stage.say("a proxy does not acquire", lock.is_locked)


@scene
def counting(stage: Stage) -> None:
    lock = stage.fl.FileLock(stage.path)
    for _ in range(3):
        lock.acquire()
    stage.say("three times", lock.lock_counter)
    lock.release()
    stage.say("one less", [lock.is_locked, lock.lock_counter])
    lock.release(force=True)
    stage.say("forced", [lock.is_locked, lock.lock_counter])
    with lock, lock:
        stage.say("nested", lock.lock_counter)
    stage.say("out", lock.lock_counter)
    with lock:
        lock.acquire()
    stage.say("with counts down once", lock.lock_counter)
    lock.release(True)
    stage.say("force by position", lock.is_locked)


@scene
def busy_in_another_process(stage: Stage) -> None:
    lock = stage.fl.FileLock(stage.path)
    with stage.holder() as holder:
        stage.note("blocking=False", lambda: lock.acquire(blocking=False))
        stage.note("timeout=0", lambda: lock.acquire(0))
        stage.note("timeout", lambda: lock.acquire(0.05))
        stage.note("timeout by name", lambda: lock.acquire(timeout=0.05, poll_interval=0.01))
        stage.note("Fraction", lambda: lock.acquire(fractions.Fraction(1, 50)))
        stage.note("blocking=False counts more", lambda: lock.acquire(timeout=60, blocking=False))
        stage.note("of the lock", lambda: stage.fl.FileLock(stage.path, 0.05).__enter__())
        stage.note("of the lock, not blocking", lambda: stage.fl.FileLock(stage.path, blocking=False).acquire(60))
        stage.note(
            "blocking after all", lambda: stage.fl.FileLock(stage.path, 0.05, blocking=False).acquire(blocking=True)
        )
        stage.say("nothing is held", [lock.is_locked, lock.lock_counter])
        stage.note("poll_intervall", lambda: lock.acquire(0.01, poll_intervall=0.01))
        assert holder.stdin is not None
        holder.stdin.write("\n")
        holder.stdin.flush()
        stage.note("and then free", lambda: lock.acquire(60))


@scene
def busy_names_the_path_as_given(stage: Stage) -> None:
    with stage.holder():
        os.chdir(stage.directory)
        try:
            stage.fl.FileLock("a.lock").acquire(0)
        except stage.fl.Timeout as error:
            stage.say("lock_file", error.lock_file)
        stage.say("of the lock", stage.fl.FileLock("a.lock").lock_file)


@scene
def killed_holder(stage: Stage) -> None:
    lock = stage.fl.FileLock(stage.path)
    with stage.holder() as holder:
        stage.note("while it lives", lambda: lock.acquire(0))
        holder.kill()
        stage.note("when it is dead", lambda: lock.acquire(60))


@scene
def cancel_check(stage: Stage) -> None:
    lock = stage.fl.FileLock(stage.path)
    asked: list[int] = []

    def third() -> bool:
        asked.append(1)
        return len(asked) >= 3

    stage.note("not asked while it is free", lambda: lock.acquire(cancel_check=lambda: 1 / 0))
    lock.release()
    with stage.holder() as holder:
        stage.note("given up", lambda: lock.acquire(cancel_check=third))
        stage.say("asked until then", len(asked))
        stage.note("any true value", lambda: lock.acquire(cancel_check=lambda: "yes"))
        stage.note("what it raises", lambda: lock.acquire(cancel_check=lambda: 1 / 0))
        stage.note("no callable", lambda: lock.acquire(0.1, cancel_check=5))
        stage.note("a timeout comes first", lambda: lock.acquire(0.05, cancel_check=lambda: False))
        stage.note("not asked when not blocking", lambda: lock.acquire(blocking=False, cancel_check=lambda: 1 / 0))
        stage.note("asked once with 0", lambda: lock.acquire(0, cancel_check=lambda: 1 / 0))
        stage.say("nothing is held", [lock.is_locked, lock.lock_counter])

        def go_on() -> bool:
            assert holder.stdin is not None
            if not holder.stdin.closed:
                holder.stdin.close()
            return False

        stage.note("acquired in between", lambda: lock.acquire(60, cancel_check=go_on))


@scene
def settings_of_acquire(stage: Stage) -> None:
    lock = stage.fl.FileLock(stage.path)
    nan, inf = float("nan"), float("inf")
    for name, value in {"nan": nan, "str": "1", "bool": True, "negative": -5, "inf": inf, "huge": 1e300}.items():
        stage.note(f"timeout {name}", lambda value=value: lock.acquire(value))
        lock.release(force=True)
    for name, value in {"0": 0, "-1": -1, "nan": nan, "inf": inf, "str": "x", "bool": True}.items():
        stage.note(f"poll_interval {name}", lambda value=value: lock.acquire(poll_interval=value))
        lock.release(force=True)
    stage.note("blocking 5", lambda: lock.acquire(blocking=5))
    stage.note("a third position", lambda: lock.acquire(1, 0.5, 1))
    stage.note("unknown", lambda: lock.acquire(unknown=1))


@scene
def settings_of_the_lock(stage: Stage) -> None:
    make = stage.fl.FileLock
    nan, inf = float("nan"), float("inf")
    for name, value in {"nan": nan, "inf": inf, "-7": -7, "str": "1", "None": None, "bool": True, "5": 5}.items():
        stage.note(f"timeout {name}", lambda value=value: make(stage.path, timeout=value).timeout)
    for value in (0o666, 0o600, 0o444, 0, 0o2644, 0o10000, -2, "x", None, True, -1):
        stage.note(f"mode {value}", lambda value=value: make(stage.path, mode=value).mode)
    stage.say("explicit mode", [make(stage.path).has_explicit_mode, make(stage.path, mode=0o600).has_explicit_mode])
    for name, value in {"5": 5, "None": None}.items():
        stage.note(f"blocking {name}", lambda value=value: make(stage.path, blocking=value).blocking)
    for name, value in {"-1": -1, "0": 0, "nan": nan, "str": "1"}.items():
        stage.note(f"poll_interval {name}", lambda value=value: make(stage.path, poll_interval=value).poll_interval)
    for name, value in {"5": 5, "None": None, "-1": -1, "str": "1", "bool": True, "nan": nan}.items():
        stage.note(f"lifetime {name}", lambda value=value: make(stage.path, lifetime=value).lifetime)
    for name in ("context_error_policy", "close_error_policy"):
        stage.note(f"{name} x", lambda name=name: make(stage.path, **{name: "x"}))
        stage.note(name, lambda name=name: getattr(make(stage.path), name))
    stage.note("group", lambda: make(stage.path, context_error_policy="group").context_error_policy)
    stage.note("suppress", lambda: make(stage.path, close_error_policy="suppress").close_error_policy)
    stage.note(
        "fallback_to_soft", lambda: [make(stage.path).fallback_to_soft, make(stage.path, fallback_to_soft=False)]
    )
    stage.note("preserve_lock_file", lambda: make(stage.path, preserve_lock_file=True).preserve_lock_file)
    stage.note("unknown", lambda: make(stage.path, unknown=1))
    stage.note("no path", lambda: make())
    stage.note("path None", lambda: make(None))
    stage.note("path 3", lambda: make(3))
    stage.note("path bytes", lambda: make(b"/tmp/x").lock_file)
    stage.note("path Path", lambda: make(pathlib.Path(stage.path)).lock_file)
    stage.note(
        "by position", lambda: [make(stage.path, 1, 0o600, False).timeout, make(stage.path, 1, 0o600, False).mode]
    )
    stage.note("thread_local by position", lambda: make(stage.path, 1, 0o600, False).is_thread_local())
    stage.note("thread_local", lambda: make(stage.path).is_thread_local())
    stage.note("thread_local by name", lambda: make(lock_file=stage.path, thread_local=False).is_thread_local())


@scene
def properties(stage: Stage) -> None:
    def changed(name: str, value: object) -> Any:
        lock = stage.fl.FileLock(stage.path)
        setattr(lock, name, value)
        return getattr(lock, name)

    nan = float("nan")
    for name in ("timeout", "blocking", "poll_interval", "lifetime"):
        for value in (3, "3", None, nan, -1, True, 2.5):
            stage.note(f"{name} = {value!r}", lambda name=name, value=value: changed(name, value))
    for name in [
        "mode",
        "lock_file",
        "is_locked",
        "lock_counter",
        "is_singleton",
        "on_acquired",
        "context_error_policy",
        "close_error_policy",
        "fallback_to_soft",
        "preserve_lock_file",
        "has_explicit_mode",
    ]:
        stage.note(f"{name} = 3", lambda name=name: changed(name, 3))
    lock = stage.fl.FileLock(stage.path)
    lock.acquire()
    stage.note("__del__", lambda: [lock.__del__(), lock.is_locked, lock.__del__()])
    stage.note("del timeout", lambda: delattr(lock, "timeout"))
    again = stage.fl.FileLock(stage.path)
    stage.note("__init__ again", lambda: again.__init__(stage.path, 3))
    stage.note("an attribute of one's own", lambda: setattr(lock, "mine", 1))
    stage.say("equality", [lock == stage.fl.FileLock(stage.path), lock == lock, isinstance(hash(lock), int)])
    stage.say("weak references", weakref.ref(lock)() is lock)
    timed = stage.fl.FileLock(stage.path)
    timed.timeout = 0.05
    with stage.holder():
        stage.note("a changed timeout counts", timed.acquire)
        timed.blocking = False
        timed.timeout = -1
        stage.note("a changed blocking counts", timed.__enter__)


@scene
def self_deadlock(stage: Stage) -> None:
    held, other = stage.fl.FileLock(stage.path), stage.fl.FileLock(stage.path)
    with held:
        stage.note("without end", other.acquire)
        stage.note("with", other.__enter__)
        stage.note("negative", lambda: other.acquire(-3))
        stage.note("infinite", lambda: other.acquire(float("inf")))
        stage.note(
            "another spelling", lambda: stage.fl.FileLock(os.path.join(stage.directory, ".", "a.lock")).acquire()
        )
        stage.note("with a cancel_check", lambda: other.acquire(cancel_check=lambda: True))
        stage.note("for a time", lambda: other.acquire(0.05))
        stage.note("one attempt", lambda: other.acquire(blocking=False))
        stage.say("nothing has changed", [held.lock_counter, other.lock_counter, other.is_locked])
    stage.note("free", other.acquire)
    os.link(stage.path, stage.path + ".link")
    linked = stage.fl.FileLock(stage.path + ".link")
    stage.note("by a hard link", lambda: linked.acquire(cancel_check=lambda: True))
    other.release()


@scene
def threads_of_their_own(stage: Stage) -> None:
    lock = stage.fl.FileLock(stage.path)
    lock.acquire()
    lock.timeout = 9
    stage.say(
        "another thread sees", stage.in_thread(lambda: [lock.is_locked, lock.lock_counter, lock.timeout, lock.mode])
    )
    stage.say("another thread acquires", stage.in_thread(lambda: lock.acquire(0)))
    stage.say("another thread waits", stage.in_thread(lambda: lock.acquire(0.05)))
    stage.say("another thread releases", stage.in_thread(lambda: lock.release(force=True)))
    stage.say("still held", lock.is_locked)
    lock.release()
    stage.say("then it gets it", stage.in_thread(lambda: [lock.acquire(0), lock.is_locked, lock.release()]))
    stage.say("settings of its own", stage.in_thread(lambda: [setattr(lock, "timeout", 2), lock.timeout]))
    stage.say("which stay its own", lock.timeout)


@scene
def threads_that_share(stage: Stage) -> None:
    lock = stage.fl.FileLock(stage.path, thread_local=False)
    lock.acquire()
    lock.timeout = 9
    stage.say("another thread sees", stage.in_thread(lambda: [lock.is_locked, lock.lock_counter, lock.timeout]))
    stage.say("another thread acquires", stage.in_thread(lambda: [lock.acquire(0), lock.lock_counter]))
    lock.release(force=True)
    lock.acquire()
    stage.say("another thread releases", stage.in_thread(lambda: lock.release()))
    stage.say("released", lock.is_locked)
    lock.acquire()
    lock.acquire()
    stage.say("another thread counts down", stage.in_thread(lambda: [lock.release(), lock.lock_counter]))
    stage.say("another thread releases all", stage.in_thread(lambda: [lock.release(force=True), lock.is_locked]))
    stage.say("and it is free", stage.in_thread(lambda: stage.fl.FileLock(stage.path).acquire(0)))


@scene
def a_thread_that_ends(stage: Stage) -> None:
    lock = stage.fl.FileLock(stage.path)
    thread = threading.Thread(target=lock.acquire)
    thread.start()
    thread.join()
    stage.say("its hold stays", stage.in_thread(lambda: stage.fl.FileLock(stage.path).acquire(0)))
    del lock, thread
    gc.collect()
    stage.say("as long as the object", stage.in_thread(lambda: stage.fl.FileLock(stage.path).acquire(0)))


@scene
def collected(stage: Stage) -> None:
    lock = stage.fl.FileLock(stage.path)
    lock.acquire()
    del lock
    gc.collect()
    stage.note("what nobody refers to is released", lambda: stage.fl.FileLock(stage.path).acquire(0))


@scene
def forked(stage: Stage) -> None:
    lock = stage.fl.FileLock(stage.path)
    lock.acquire()
    stage.say(
        "the child sees", stage.in_child(lambda: [lock.is_locked, lock.lock_counter, lock.lock_file, lock.timeout])
    )
    stage.say("release", stage.in_child(lambda: lock.release()))
    stage.say("forced release", stage.in_child(lambda: [lock.release(force=True), lock.is_locked]))
    stage.say("exit", stage.in_child(lambda: lock.__exit__(None, None, None)))
    stage.say("acquire", stage.in_child(lambda: lock.acquire(0)))
    stage.say("acquire, waiting", stage.in_child(lambda: lock.acquire()))
    stage.say("with", stage.in_child(lambda: lock.__enter__()))
    stage.say("another object", stage.in_child(lambda: stage.fl.FileLock(stage.path).acquire(0)))
    stage.note("the parent still has it", lambda: stage.fl.FileLock(stage.path).acquire(0))
    lock.release()
    stage.say("acquire what was not held", stage.in_child(lambda: lock.acquire(0)))
    stage.say("another object, free", stage.in_child(lambda: stage.fl.FileLock(stage.path).acquire(0)))
    shared = stage.fl.FileLock(stage.path, thread_local=False)
    stage.say("a shared one", stage.in_child(lambda: shared.acquire(0)))
    single = stage.fl.FileLock(stage.path, is_singleton=True)
    again = lambda: stage.fl.FileLock(stage.path, is_singleton=True)  # noqa: E731
    stage.say("a singleton is the parent's", stage.in_child(lambda: again() is single))
    stage.say("the child has its own", stage.in_child(lambda: [again().acquire(0), again().is_locked]))
    with single:
        stage.say("and it is another party", stage.in_child(lambda: again().acquire(0)))


@scene
def child_outlives_parent(stage: Stage) -> None:
    program = (
        "import os, signal\nlock = fl.FileLock(path)\nlock.acquire()\nchild = os.fork()\n"
        "if child == 0:\n    os.closerange(0, 3)\n    signal.pause()\nsay()\nprint(child, flush=True)\ninput()\n"
    )
    with stage.elsewhere(program) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        holder.kill()
        holder.wait()
        stage.note("a copy in a child keeps nothing", lambda: stage.fl.FileLock(stage.path).acquire(20))
        os.kill(child, signal.SIGKILL)


@scene
def pickled(stage: Stage) -> None:
    lock = stage.fl.FileLock(stage.path)
    stage.note("pickle", lambda: pickle.dumps(lock))
    stage.note("deepcopy", lambda: copy.deepcopy(lock))
    stage.note("copy", lambda: copy.copy(lock))
    stage.note("ReadWriteLock", lambda: pickle.dumps(stage.fl.ReadWriteLock(stage.path + "2")))
    stage.note("AsyncFileLock", lambda: pickle.dumps(stage.fl.AsyncFileLock(stage.path)))


@scene
def singletons(stage: Stage) -> None:
    make = stage.fl.FileLock
    one = make(stage.path, is_singleton=True)
    stage.say("the same", make(stage.path, is_singleton=True) is one)
    stage.say("is_singleton", [one.is_singleton, make(stage.path).is_singleton])
    stage.say("another spelling", make(os.path.join(stage.directory, ".", "a.lock"), is_singleton=True) is one)
    os.chdir(stage.directory)
    stage.say("relative", make("a.lock", is_singleton=True) is one)
    stage.say("a Path", make(pathlib.Path(stage.path), is_singleton=True) is one)
    stage.say("by name", make(lock_file=stage.path, is_singleton=True) is one)
    stage.say("one that is none", make(stage.path) is one)
    for name, value in {
        "timeout": 3,
        "mode": 0o600,
        "blocking": False,
        "thread_local": False,
        "poll_interval": 0.2,
        "context_error_policy": "group",
        "close_error_policy": "raise",
        "fallback_to_soft": False,
        "preserve_lock_file": True,
        "on_acquired": print,
    }.items():
        stage.note(
            f"another {name}", lambda name=name, value=value: make(stage.path, is_singleton=True, **{name: value})
        )
    stage.note("a timeout by position", lambda: make(stage.path, 3, is_singleton=True))
    stage.note("the same timeout", lambda: make(stage.path, -1, is_singleton=True) is one)
    stage.note("a timeout twice", lambda: make(stage.path, -1, timeout=-1, is_singleton=True))
    stage.note("an unknown option", lambda: make(stage.path, is_singleton=True, tiemout=3))
    lasting: list[Any] = []
    stage.note("with a lifetime", lambda: lasting.append(make(stage.path + "2", is_singleton=True, lifetime=3)))
    stage.note("the same lifetime", lambda: make(stage.path + "2", is_singleton=True, lifetime=3) is lasting[0])
    stage.note("no lifetime at all", lambda: make(stage.path + "2", is_singleton=True, lifetime=-3))
    again = make(stage.path, is_singleton=True)
    with one, again:
        stage.say("entered again", one.lock_counter)

    class Sub(stage.fl.FileLock):  # type: ignore[misc,name-defined]
        pass

    stage.say("of a subclass", Sub(stage.path, is_singleton=True) is one)
    one.timeout = 7
    stage.note("a changed timeout", lambda: make(stage.path, is_singleton=True))
    stage.note("asked for as it is", lambda: make(stage.path, 7, is_singleton=True) is one)
    del one, again
    gc.collect()
    stage.note("gone", lambda: make(stage.path, 3, is_singleton=True).timeout)
    os.symlink(stage.path, "link")
    one = make(stage.path, is_singleton=True)
    stage.say("a link is another file", make("link", is_singleton=True) is one)
    os.symlink(stage.directory, "sub")
    stage.say("by way of a link", make("sub/a.lock", is_singleton=True) is one)


@scene
def subclasses(stage: Stage) -> None:
    base = stage.fl.FileLock
    path = stage.path

    class Extra(base):  # type: ignore[misc,valid-type]
        def __init__(
            self,
            lock_file: str,
            timeout: float = -1,
            mode: int = 0o644,
            thread_local: bool = True,
            *,
            my_param: object = None,
            **others: Any,
        ) -> None:
            super().__init__(lock_file, timeout, mode, thread_local)
            self.my_param = my_param

    stage.note("an argument of its own", lambda: Extra(path, my_param=4).my_param)
    stage.note(
        "beside others", lambda: [Extra(path, 5, my_param=4).timeout, Extra(path, timeout=6, my_param=4).timeout]
    )
    stage.note(
        "as a singleton",
        lambda: Extra(path, my_param=4, is_singleton=True) is Extra(path, my_param=4, is_singleton=True),
    )

    class Narrow(base):  # type: ignore[misc,valid-type]
        def __init__(self, lock_file: str, timeout: float = -1) -> None:
            super().__init__(lock_file, timeout)

    stage.note("narrow", lambda: Narrow(path, 5).timeout)
    stage.note("an option it does not know", lambda: Narrow(path, mode=0o600))
    stage.note("as it would be anyway", lambda: Narrow(path, poll_interval=0.05, blocking=True).timeout)

    class NarrowAsync(stage.fl.AsyncFileLock):  # type: ignore[misc,name-defined]
        def __init__(self, lock_file: str, timeout: float = -1) -> None:
            super().__init__(lock_file, timeout)

    usual = {"loop": None, "executor": None, "run_in_executor": True}
    stage.note("asynchronous, as it would be", lambda: NarrowAsync(path, 3, **usual).timeout)
    stage.note("asynchronous, not known", lambda: NarrowAsync(path, run_in_executor=False))

    class Counted(base):  # type: ignore[misc,valid-type]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self.calls: list[str] = []
            super().__init__(*arguments, **options)

        def acquire(self, timeout: float | None = None, poll_interval: float = 0.05) -> Any:
            self.calls.append("acquire")
            return super().acquire(timeout, poll_interval)

        def release(self, force: bool = False) -> None:
            self.calls.append("release")
            super().release(force)

    counted = Counted(path)
    with counted:
        stage.say("with goes by acquire()", counted.calls)
    stage.say("and by release()", counted.calls)
    with counted.acquire():
        pass
    stage.say("a proxy, too", counted.calls)

    @counted
    def decorated() -> int:
        return 1

    stage.say("a decorator, too", [decorated(), len(counted.calls)])

    class Mixin:
        def hello(self) -> int:
            return 1

    class Mixed(Mixin, base):  # type: ignore[misc,valid-type]
        pass

    stage.note("mixed", lambda: Mixed(path).hello())

    class New(base):  # type: ignore[misc,valid-type]
        def __new__(cls, *arguments: Any, **options: Any) -> Any:
            return super().__new__(cls)

    stage.note("with __new__", lambda: New(path).lock_file)

    class Slots(base):  # type: ignore[misc,valid-type]
        __slots__ = ("z",)

    stage.note("with __slots__", lambda: Slots(path).is_locked)
    stage.note(
        "kinds",
        lambda: [
            issubclass(base, stage.fl.BaseFileLock),
            isinstance(base(path), stage.fl.BaseFileLock),
            issubclass(stage.fl.UnixFileLock, base),
            issubclass(stage.fl.AsyncFileLock, stage.fl.BaseFileLock),
            issubclass(stage.fl.AsyncFileLock, stage.fl.BaseAsyncFileLock),
        ],
    )

    for kind in (stage.fl.BaseFileLock, stage.fl.BaseAsyncFileLock):
        stage.note(f"{kind.__name__} itself", lambda kind=kind: bool(kind(path)))

    def hooks() -> bool:
        class Hooked(base):  # type: ignore[misc,valid-type]
            def _acquire(self) -> None:
                super()._acquire()

        with Hooked(path) as lock:
            return bool(lock.is_locked)

    stage.note("with _acquire()", hooks)


@scene
def decorated(stage: Stage) -> None:
    lock = stage.fl.FileLock(stage.path)

    @lock
    def plain(x: int, *, y: int = 2) -> list[object]:
        """Says something."""
        return [x + y, lock.is_locked]

    stage.note("a function", lambda: plain(1, y=5))
    stage.say("its name", [plain.__name__, plain.__doc__])
    stage.say("afterwards", lock.is_locked)

    @lock
    def nested(depth: int) -> int:
        return depth and nested(depth - 1) + lock.lock_counter

    stage.note("that calls itself", lambda: nested(3))

    class Thing:
        @stage.fl.FileLock(stage.path)
        def method(self) -> int:
            return 7

    stage.note("a method", lambda: Thing().method())

    @lock
    def fails() -> None:
        raise KeyError("x")

    stage.note("that raises", fails)
    stage.say("released", lock.is_locked)
    with stage.holder():
        stage.note("busy", lambda: stage.fl.FileLock(stage.path, 0)(lambda: 1)())

    async def coroutine() -> bool:
        return bool(lock.is_locked)

    stage.note("a coroutine function", lambda: asyncio.new_event_loop().run_until_complete(lock(coroutine)()))

    stage.note("a partial of one", lambda: bool(lock(functools.partial(coroutine))))

    def generator() -> Any:
        yield lock.is_locked

    stage.note("a generator", lambda: list(lock(generator)()))


@scene
def bodies_that_fail(stage: Stage) -> None:
    lock = stage.fl.FileLock(stage.path)

    def body() -> None:
        with lock:
            raise KeyError("body")

    stage.note("the error goes on", body)
    stage.say("released", [lock.is_locked, lock.lock_counter])

    class Fails(stage.fl.FileLock):  # type: ignore[misc,name-defined]
        def release(self, force: bool = False) -> None:
            super().release(force)
            raise OSError("release")

    def both(policy: str) -> None:
        with Fails(stage.path, context_error_policy=policy):
            raise KeyError("body")

    stage.note("chain", lambda: both("chain"))
    stage.note("group", lambda: both("group"))

    def only() -> None:
        with Fails(stage.path, context_error_policy="group"):
            pass

    stage.note("only the release", only)


@scene
def on_acquired(stage: Stage) -> None:
    make = stage.fl.FileLock
    seen: list[object] = []

    def look(fd: int) -> None:
        seen.append(
            [
                os.fstat(fd).st_ino == os.stat(stage.path).st_ino,
                os.get_inheritable(fd),
                lock.is_locked,
                lock.lock_counter,
            ]
        )

    lock = make(stage.path, on_acquired=look)
    stage.say("property", lock.on_acquired is look)
    with lock, lock:
        stage.say("once for each acquisition", seen)
    with lock:
        pass
    stage.say("and again", len(seen))

    def fails(fd: int) -> None:
        raise ValueError("callback")

    failing = make(stage.path, on_acquired=fails)
    stage.note("that raises", failing.acquire)
    stage.say("nothing is held", [failing.is_locked, failing.lock_counter])
    stage.note("and it is free", lambda: make(stage.path).acquire(0))
    writing = make(stage.path, on_acquired=lambda fd: os.write(fd, b"mine"))
    for _ in range(2):
        with writing:
            pass
    stage.say("it can be written", pathlib.Path(stage.path).read_text())

    def again(fd: int) -> None:
        seen.append(entering.acquire(0))
        entering.release()

    entering = make(stage.path, on_acquired=again)
    stage.note("that enters again", entering.acquire)
    stage.say("counted", entering.lock_counter)
    entering.release()
    releasing: Any = make(stage.path, on_acquired=lambda fd: releasing.release())
    stage.note("that releases", releasing.acquire)
    stage.say("is not held", releasing.is_locked)
    stage.note("no callable", lambda: make(stage.path, on_acquired=5).acquire())
    stage.note("still free", lambda: make(stage.path).acquire(0))


@scene
def lock_files(stage: Stage) -> None:
    make = stage.fl.FileLock

    def attempt(path: str, **options: Any) -> Any:
        lock = make(path, **options)
        lock.acquire(0)
        lock.release()
        return True

    join = os.path.join
    path = stage.path
    stage.note("parents are made", lambda: attempt(join(stage.directory, "x", "y", "z.lock")))
    pathlib.Path(path).write_text("data")
    stage.note("what is in it", lambda: [attempt(path), pathlib.Path(path).read_text()])
    stage.note("a file in the way", lambda: attempt(join(path, "b.lock")))
    os.symlink(path, join(stage.directory, "link"))
    stage.note("a symbolic link", lambda: attempt(join(stage.directory, "link")))
    os.mkdir(join(stage.directory, "directory"))
    stage.note("a directory", lambda: attempt(join(stage.directory, "directory")))
    os.mkfifo(join(stage.directory, "fifo"))
    stage.note("a FIFO", lambda: attempt(join(stage.directory, "fifo")))
    stage.note("an empty path", lambda: attempt(""))
    stage.note("a NUL", lambda: attempt("a\0b"))
    stage.note("bytes", lambda: attempt(os.fsencode(join(stage.directory, "bytes"))))
    os.symlink(join(stage.directory, "later"), join(stage.directory, "dangling"))
    stage.note("a directory by a link to nothing", lambda: attempt(join(stage.directory, "dangling", "b.lock")))
    stage.note("beside what is not there", lambda: attempt(join(stage.directory, "nowhere", "..", "b.lock")))
    stage.say("which is made", os.path.exists(join(stage.directory, "nowhere")))
    os.symlink("loop", join(stage.directory, "loop"))
    stage.note("a directory by a link to itself", lambda: attempt(join(stage.directory, "loop", "b.lock")))
    for mode in (-1, 0o600, 0o666):
        for umask in (0o000, 0o022, 0o077):
            name = join(stage.directory, f"mode{mode}-{umask}")
            os.umask(umask)
            attempt(name, mode=mode)
            stage.say(f"mode {mode:#o}, umask {umask:#o}", oct(os.stat(name).st_mode))
    os.umask(0o022)
    name = join(stage.directory, "kept")
    attempt(name, mode=0o666)
    os.chmod(name, 0o600)
    attempt(name, mode=0o666)
    stage.say("the mode of a file that is there", oct(os.stat(name).st_mode))


@scene
def a_directory_that_changes(stage: Stage) -> None:
    os.chdir(stage.directory)
    os.mkdir("one")
    os.mkdir("two")
    os.chdir("one")
    lock = stage.fl.FileLock("a.lock")
    os.chdir(os.path.join(stage.directory, "two"))
    lock.acquire()
    here = [name for name in ("one", "two") if os.path.exists(os.path.join(stage.directory, name, "a.lock"))]
    stage.say("which file it is", here)


@scene
def deleted_lock_file(stage: Stage) -> None:
    lock = stage.fl.FileLock(stage.path)
    lock.acquire()
    os.unlink(stage.path)
    other = stage.fl.FileLock(stage.path)
    stage.note("a foreign rm lets another one in", lambda: other.acquire(0))
    stage.note("release", lock.release)
    other.release()
    stage.note("and again", lambda: lock.acquire(0))
    stage.say("on the file that is there", os.path.exists(stage.path))
    lock.release()
    # Replaced while it is waited for: whoever gets it then has to have the one that is there.
    lock.acquire()
    waiting = threading.Event()
    came: list[str] = []

    def wait() -> None:
        waiting.set()
        mine = stage.fl.FileLock(stage.path)
        with mine:
            came.append(stage.outcome(lambda: stage.fl.FileLock(stage.path).acquire(0)))

    thread = threading.Thread(target=wait)
    thread.start()
    waiting.wait()
    os.rename(stage.path, stage.path + ".old")
    lock.release()
    thread.join(20)
    stage.say("replaced while waited for", came)


@scene
def signals(stage: Stage) -> None:
    lock = stage.fl.FileLock(stage.path)
    ran: list[int] = []

    def handler(number: int, frame: object) -> None:
        ran.append(number)

    def alarmed(call: Any) -> Any:
        """The signal comes while the call waits; or before, on a machine that is slow."""
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        return call()

    def raises(number: int, frame: object) -> None:
        raise KeyError("signal")

    with stage.holder():
        signal.signal(signal.SIGALRM, handler)
        stage.note("the wait goes on", lambda: alarmed(lambda: lock.acquire(1)))
        stage.say("the handler ran", len(ran))
        signal.signal(signal.SIGALRM, raises)
        stage.note("what it raises", lambda: alarmed(lambda: lock.acquire(60)))
        stage.say("nothing is held", [lock.is_locked, lock.lock_counter])
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        stage.note("Ctrl-C", lambda: alarmed(lock.acquire))
        stage.note("Ctrl-C with a cancel_check", lambda: alarmed(lambda: lock.acquire(cancel_check=lambda: False)))
    stage.note("afterwards", lambda: lock.acquire(20))


@scene
def descriptors(stage: Stage) -> None:
    lock, unlock = stage.fl.lock_descriptor, stage.fl.unlock_descriptor
    one, two = (open(stage.path, "w") for _ in range(2))  # noqa: SIM115
    stage.note("lock", lambda: lock(one.fileno()))
    stage.note("another one", lambda: lock(two.fileno(), blocking=False))
    for value in (1, 0, None):
        stage.note(f"blocking {value}", lambda value=value: lock(one.fileno(), blocking=value))
    stage.note("the same again", lambda: lock(one.fileno(), blocking=False))
    stage.note("excludes a FileLock", lambda: stage.fl.FileLock(stage.path).acquire(0))
    stage.note("unlock", lambda: unlock(one.fileno()))
    stage.note("unlock again", lambda: unlock(one.fileno()))
    stage.note("a FileLock gets it", lambda: stage.fl.FileLock(stage.path).acquire(0))
    stage.note("a file object", lambda: [lock(one), unlock(one)])
    stage.note("not open", lambda: lock(999))
    stage.note("not open, unlock", lambda: unlock(999))
    stage.note("negative", lambda: lock(-1))
    stage.note("no descriptor", lambda: lock("x"))
    stage.note("only to read", lambda: lock(os.open(stage.path, os.O_RDONLY)))
    for name, value in {"0": 0, "nan": float("nan"), "-1": -1, "str": "x"}.items():
        stage.note(f"poll_interval {name}", lambda value=value: lock(one.fileno(), poll_interval=value))


def _loop(play: Any) -> None:
    asyncio.run(play)


@scene
def async_one(stage: Stage) -> None:
    make = stage.fl.AsyncFileLock
    stage.note("thread_local", lambda: make(stage.path, thread_local=True))
    stage.note("thread_local without an executor", lambda: make(stage.path, thread_local=True, run_in_executor=False))
    lock = make(stage.path)
    stage.note("with", lock.__enter__)
    stage.note("exit", lambda: lock.__exit__(None, None, None))
    stage.say(
        "properties",
        [
            lock.loop,
            lock.executor,
            lock.run_in_executor,
            lock.is_thread_local(),
            lock.timeout,
            lock.mode,
            lock.blocking,
        ],
    )

    async def play() -> None:
        proxy = await lock.acquire()
        stage.say("proxy", [proxy, proxy.lock is lock])
        stage.say("acquired", [lock.is_locked, lock.lock_counter])
        async with proxy as inner:
            stage.say("in with", [inner is lock, lock.lock_counter])
        stage.say("released", lock.is_locked)
        async with lock as inner, lock:
            stage.say("counted", [inner is lock, lock.lock_counter])
        stage.say("out", lock.lock_counter)
        await stage.note_async("release of what is not held", lock.release())
        await stage.note_async("forced", lock.release(force=True))
        await lock.acquire()
        await lock.acquire()
        await lock.release(force=True)
        stage.say("forced releases all", lock.is_locked)
        await lock.acquire()
        await asyncio.create_task(lock.release())
        stage.say("released by another task", lock.is_locked)

        async def fails() -> None:
            async with lock:
                raise KeyError("body")

        await stage.note_async("a body that raises", fails())
        stage.say("released then", lock.is_locked)
        await stage.note_async("poll_intervall", _call(lambda: lock.acquire(poll_intervall=1)))
        await stage.note_async("nan", _call(lambda: lock.acquire(float("nan"))))
        await stage.note_async("another loop's", _call(lambda: lock.acquire(0)))

    _loop(play())
    stage.say("held when its loop is gone", lock.is_locked)

    async def finish() -> None:
        await lock.release()

    _loop(finish())
    stage.say("released under another loop", lock.is_locked)


async def _call(call: Any) -> Any:
    return await call()


@scene
def async_busy(stage: Stage) -> None:
    async def play() -> None:
        lock = stage.fl.AsyncFileLock(stage.path)
        with stage.holder() as holder:
            await stage.note_async("blocking=False", lock.acquire(blocking=False))
            await stage.note_async("timeout=0", lock.acquire(0))
            await stage.note_async("timeout", lock.acquire(0.05))
            asked: list[int] = []
            await stage.note_async(
                "cancel_check", lock.acquire(cancel_check=lambda: asked.append(1) or len(asked) >= 3)
            )
            stage.say("asked", len(asked))
            await stage.note_async("what it raises", lock.acquire(cancel_check=lambda: 1 / 0))
            await stage.note_async("asked once with 0", lock.acquire(0, cancel_check=lambda: 1 / 0))
            await stage.note_async("not blocking", lock.acquire(blocking=False, cancel_check=lambda: 1 / 0))
            task = asyncio.create_task(lock.acquire())
            await asyncio.sleep(0.1)
            stage.say("waits", task.done())
            task.cancel()
            await stage.note_async("cancelled", task)

            async def timed() -> None:
                async with asyncio.timeout(0.1):
                    await lock.acquire()

            await stage.note_async("asyncio.timeout", timed())
            await stage.note_async("wait_for", asyncio.wait_for(lock.acquire(), 0.1))
            stage.say("nothing is held", [lock.is_locked, lock.lock_counter])
            task = asyncio.create_task(lock.acquire(20))
            await asyncio.sleep(0.05)
            assert holder.stdin is not None
            holder.stdin.close()
            await stage.note_async("handed over", task)

    _loop(play())


@scene
def async_deadlock(stage: Stage) -> None:
    async def play() -> None:
        held, other = stage.fl.AsyncFileLock(stage.path), stage.fl.AsyncFileLock(stage.path)
        async with held:
            await stage.note_async("in the same task", other.acquire())
            await stage.note_async("for a time", other.acquire(0.05))
            task = asyncio.create_task(other.acquire())
            await asyncio.sleep(0.1)
            stage.say("another task waits", task.done())
        await stage.note_async("and gets it", task)

    _loop(play())


@scene
def async_shared(stage: Stage) -> None:
    async def play() -> None:
        lock = stage.fl.AsyncFileLock(stage.path)
        inside: list[int] = []

        async def work(number: int) -> None:
            async with lock:
                inside.append(number)
                await asyncio.sleep(0.05)
                inside.append(number)

        await asyncio.gather(work(1), work(2))
        stage.say("two tasks", inside)

    _loop(play())


@scene
def async_decorator(stage: Stage) -> None:
    lock = stage.fl.AsyncFileLock(stage.path)

    async def coroutine() -> bool:
        return bool(lock.is_locked)

    stage.note("a coroutine function", lambda: asyncio.new_event_loop().run_until_complete(lock(coroutine)()))
    stage.note("a function", lambda: lock(lambda: 1)())


@scene
def async_singletons(stage: Stage) -> None:
    make = stage.fl.AsyncFileLock
    one = make(stage.path, is_singleton=True)
    stage.say("the same", make(stage.path, is_singleton=True) is one)
    stage.note("another loop", lambda: make(stage.path, is_singleton=True, loop=asyncio.new_event_loop()))
    stage.note("another run_in_executor", lambda: make(stage.path, is_singleton=True, run_in_executor=False))
    stage.note("another timeout", lambda: make(stage.path, is_singleton=True, timeout=3))
    stage.note("of the other kind", lambda: stage.fl.FileLock(stage.path, is_singleton=True) is one)
    stage.note("executor", lambda: setattr(one, "executor", None))
    stage.note("loop", lambda: setattr(one, "loop", None))


@scene
def readers_and_writers(stage: Stage) -> None:
    make = stage.fl.ReadWriteLock
    lock = make(stage.path)
    stage.say("attributes", [lock.lock_file, lock.timeout, lock.blocking])
    stage.say(
        "one for each file",
        [make(stage.path) is lock, make.get_lock(stage.path) is lock, make(stage.path, is_singleton=False) is lock],
    )
    stage.note("another timeout", lambda: make(stage.path, timeout=3))
    stage.note("another blocking", lambda: make(stage.path, blocking=False))
    stage.note("get_lock with another timeout", lambda: make.get_lock(stage.path, timeout=3))
    proxy = lock.acquire_read()
    stage.say("proxy", [proxy, proxy.lock is lock])
    stage.note("read again", lock.acquire_read)
    stage.note("write while reading", lock.acquire_write)
    stage.note("release", lock.release)
    with proxy as inner:
        stage.say("with a proxy", inner is lock)
    stage.note("release of what is not held", lock.release)
    stage.note("forced", lambda: lock.release(force=True))
    lock.acquire_write()
    stage.note("read while writing", lock.acquire_read)
    stage.note("write again", lock.acquire_write)
    lock.release()
    lock.release()
    stage.note("all released", lock.release)
    with lock.read_lock() as value:
        stage.say("read_lock", value)
    with lock.write_lock(timeout=1, blocking=True) as value:
        stage.say("write_lock", value)
    lock.acquire_write()
    lock.acquire_write()
    lock.release(force=True)
    stage.note("forced releases all", lock.release)

    def fails() -> None:
        with lock.write_lock():
            raise KeyError("body")

    stage.note("a body that raises", fails)
    stage.note("is released", lock.release)


@scene
def readers_exclude_writers(stage: Stage) -> None:
    make = stage.fl.ReadWriteLock
    one, two = make(stage.path), make(stage.path, is_singleton=False)
    with one.read_lock():
        stage.note("two readers", lambda: two.acquire_read(0))
        two.release()
        stage.note("a writer, 0", lambda: two.acquire_write(0))
        stage.note("a writer, not blocking", lambda: two.acquire_write(blocking=False))
        stage.note("a writer, for a time", lambda: two.acquire_write(0.1))
    with one.write_lock():
        stage.note("a reader", lambda: two.acquire_read(0.1))
        stage.note("a second writer", lambda: two.acquire_write(0))
        stage.note("as made", lambda: make(stage.path, 0.05, is_singleton=False).acquire_read())
        stage.note("as made, not blocking", lambda: make(stage.path, blocking=False, is_singleton=False).acquire_read())
        stage.note("None is as made", lambda: make(stage.path, 0.05, is_singleton=False).acquire_write(None))
        other = "lock = fl.ReadWriteLock(path)\ntry:\n    lock.acquire_read(0)\nexcept fl.Timeout:\n    say()\n"
        with stage.elsewhere(other):
            stage.say("another process", "is excluded")
    stage.note("free", lambda: two.acquire_write(0))


@scene
def readwrite_settings(stage: Stage) -> None:
    make = stage.fl.ReadWriteLock
    lock = make(stage.path)
    for name, value in {"-2": -2, "nan": float("nan"), "str": "1", "bool": True}.items():
        stage.note(f"timeout {name}", lambda value=value: lock.acquire_read(value))
        lock.release(force=True)
    stage.note("timeout inf", lambda: lock.acquire_read(float("inf")))
    lock.release()
    for name, value in {"None": None, "str": "x", "inf": float("inf"), "nan": float("nan")}.items():
        stage.note(
            f"made with timeout {name}", lambda value=value: make(stage.path + "2", value, is_singleton=False).timeout
        )
    stage.note("timeout can be changed", lambda: [setattr(lock, "timeout", 3), lock.timeout])
    stage.note("no directory", lambda: make(os.path.join(stage.directory, "no", "a.lock")))
    stage.note("bytes", lambda: make(os.fsencode(stage.path)))
    os.chdir(stage.directory)
    stage.note("a relative path", lambda: make("b.lock").lock_file)
    pathlib.Path("file").touch()
    stage.note("a file in place of the directory", lambda: make("file/a.lock"))
    for value in (0, "x", None):
        stage.note(f"blocking {value}", lambda value=value: make(stage.path + "2", blocking=value, is_singleton=False))
        stage.note(f"acquire, blocking {value}", lambda value=value: make("b.lock").acquire_read(blocking=value))
    make("b.lock").release(force=True)
    make("c.lock").acquire_write()
    stage.say("the mode of the file", oct(os.stat("c.lock").st_mode))
    stage.note("__init__ again", lambda: make("b.lock").__init__("b.lock"))
    lock = make(stage.path + "3")
    stage.note("close", lock.close)
    stage.note("close again", lock.close)
    stage.note("closed", lambda: lock.acquire_read(0))
    stage.note("forced release when closed", lambda: lock.release(force=True))
    held = make(stage.path + "4", is_singleton=False)
    held.acquire_write()
    held.close()
    stage.note("close releases", lambda: make(stage.path + "4", is_singleton=False).acquire_write(0))
    gone = make(stage.path + "5", is_singleton=False)
    gone.acquire_write()
    del gone
    gc.collect()
    stage.note("what nobody refers to is released", lambda: make(stage.path + "5", is_singleton=False).acquire_write(0))


@scene
def readwrite_threads(stage: Stage) -> None:
    lock = stage.fl.ReadWriteLock(stage.path)
    lock.acquire_read()
    stage.say("a second reader", stage.in_thread(lambda: [lock.acquire_read(0), lock.release()]))
    stage.say("a writer beside a reader", stage.in_thread(lambda: lock.acquire_write(0)))
    lock.release(force=True)
    lock.acquire_write()
    stage.say("a second writer", stage.in_thread(lambda: lock.acquire_write(0)))
    stage.say("a reader beside a writer", stage.in_thread(lambda: lock.acquire_read(0)))
    stage.say("another thread releases", stage.in_thread(lambda: lock.release()))
    stage.say("by force", stage.in_thread(lambda: lock.release(force=True)))
    stage.note("released", lock.release)
    lock.acquire_read()
    stage.say("another thread releases a reader", stage.in_thread(lambda: lock.release()))
    stage.say("a reader, by force", stage.in_thread(lambda: lock.release(force=True)))
    stage.note("free", lambda: stage.fl.ReadWriteLock(stage.path, is_singleton=False).acquire_write(0))


@scene
def readwrite_forked(stage: Stage) -> None:
    lock = stage.fl.ReadWriteLock(stage.path)
    stage.say("not held: acquire", stage.in_child(lambda: lock.acquire_read(0)))
    stage.say("not held: another object", stage.in_child(lambda: stage.fl.ReadWriteLock(stage.path).acquire_read(0)))
    lock.acquire_write()
    stage.say("acquire", stage.in_child(lambda: lock.acquire_read(0)))
    stage.say("release", stage.in_child(lambda: lock.release()))
    stage.say("close", stage.in_child(lambda: lock.close()))
    stage.say("another object", stage.in_child(lambda: stage.fl.ReadWriteLock(stage.path).acquire_read(0)))
    stage.note("the parent still has it", lock.release)


@scene
def readwrite_async(stage: Stage) -> None:
    async def play() -> None:
        lock = stage.fl.AsyncReadWriteLock(stage.path)
        other = stage.fl.AsyncReadWriteLock(stage.path, is_singleton=False)
        stage.say("attributes", [lock.lock_file, lock.timeout, lock.blocking, lock.loop])
        proxy = await lock.acquire_read()
        stage.say("proxy", [proxy, proxy.lock is lock])
        await stage.note_async("read again", lock.acquire_read())
        await stage.note_async("write while reading", lock.acquire_write())
        await stage.note_async("two readers", other.acquire_read(0))
        await stage.note_async("its release", other.release())
        await stage.note_async("a writer", other.acquire_write(0.1))
        await stage.note_async("release", lock.release())
        async with proxy as inner:
            stage.say("with a proxy", inner is lock)
        await stage.note_async("release of what is not held", lock.release())
        await stage.note_async("forced", lock.release(force=True))
        async with lock.write_lock() as value:
            stage.say("write_lock", value)
            await stage.note_async("a reader", other.acquire_read(0.1))
            task = asyncio.create_task(other.acquire_write())
            await asyncio.sleep(0.1)
            task.cancel()
            await stage.note_async("cancelled", task)
        async with lock.read_lock(timeout=1):
            stage.say("read_lock", "entered")
        async with lock.write_lock():
            same = stage.fl.AsyncReadWriteLock(stage.path)
            await stage.note_async("what went through another object", same.release())
            await stage.note_async("by force", same.release(force=True))
            await asyncio.create_task(same.close())
            other_kind = stage.fl.ReadWriteLock(stage.path, is_singleton=False)
            stage.note("close of another object", lambda: other_kind.acquire_read(0))
        for name, options in {"timeout": {"timeout": 3}, "blocking": {"blocking": False}}.items():
            stage.note(f"another {name}", lambda options=options: stage.fl.AsyncReadWriteLock(stage.path, **options))
        await stage.note_async("free", other.acquire_write(0))
        await other.release()
        await stage.note_async("close", other.close())
        await stage.note_async("closed", other.acquire_read())
        await stage.note_async("close again", other.close())

    _loop(play())
