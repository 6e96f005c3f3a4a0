"""`FileLock`, with the interface and the habits of the package filelock, over the kernel's waits."""

from __future__ import annotations

import builtins
import contextlib
import fcntl
import math
import os
import sys
import threading
import warnings
import weakref
from abc import ABCMeta
from collections.abc import Callable, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, TypedDict, TypeVar

from ._errors import shown
from ._lockmgr import FileLockBase, ProxyBase

if TYPE_CHECKING:
    import inspect

    from typing_extensions import Self

ContextErrorPolicy = Literal["chain", "group"]
CloseErrorPolicy = Literal["default", "raise", "suppress"]

_L = TypeVar("_L")
_F = TypeVar("_F", bound=Callable[..., Any])


class LockOptions(TypedDict, total=False):
    """The options of a FileLock, for those who pass them on."""

    timeout: float
    mode: int
    thread_local: bool
    blocking: bool
    is_singleton: bool
    poll_interval: float
    lifetime: float | None
    context_error_policy: ContextErrorPolicy
    close_error_policy: CloseErrorPolicy
    fallback_to_soft: bool
    preserve_lock_file: bool
    on_acquired: Callable[[int], object] | None


#: What everybody who makes a lock without saying anything gets. -1 is for "nothing was said".
_DEFAULTS: dict[str, Any] = {
    "timeout": -1,
    "mode": -1,
    "thread_local": True,
    "blocking": True,
    "is_singleton": False,
    "poll_interval": 0.05,
    "lifetime": None,
    "context_error_policy": "chain",
    "close_error_policy": "default",
    "fallback_to_soft": True,
    "preserve_lock_file": False,
    "on_acquired": None,
}
_POSITIONAL = ("timeout", "mode", "thread_local")
_CHANGEABLE = ("timeout", "blocking", "poll_interval", "executor")
_PERMISSIONS = 0o777
_OWNER_MAY = 0o600
_USUAL_MODE = 0o644


@contextlib.contextmanager
def wait_told(path: Any) -> Generator[None]:
    """Around a wait of a task: the logger is told of it when it takes long."""
    logging = sys.modules.get("logging")
    if logging is None or not logging.getLogger("lockmgr").isEnabledFor(logging.INFO):
        yield
        return
    from . import _log

    notice = _log.begin(os.path.abspath(os.fsdecode(path)), "flock")
    try:
        yield
    finally:
        notice.end()


class AcquireReturnProxy(ProxyBase, Generic[_L]):
    """What acquire() returns: for `with`, which releases."""

    __slots__ = ()

    if TYPE_CHECKING:

        def __new__(cls, lock: _L) -> Self: ...

        @property
        def lock(self) -> _L: ...

        def __enter__(self) -> _L: ...


def both_failed(body: BaseException, release: BaseException, group: bool) -> BaseException:
    """Returns the exception of a `with` whose body and whose release have failed."""
    # Python 3.10 has none.
    exception_group = getattr(builtins, "BaseExceptionGroup", None)
    if group and exception_group is not None:
        text = "the body of the with statement failed, and so did the release of its lock"
        # Side by side, not one because of the other.
        release.__context__ = None
        together: BaseException = exception_group(text, [body, release])
        return together
    release.__context__ = body
    return release


class _Registry:
    """Which locks there is to be one of for each lock file."""

    def __init__(self) -> None:
        self.guard = threading.RLock()
        self.locks: weakref.WeakKeyDictionary[type, weakref.WeakValueDictionary[Any, Any]]
        self.locks = weakref.WeakKeyDictionary()

    def of(self, cls: type) -> weakref.WeakValueDictionary[Any, Any]:
        return self.locks.setdefault(cls, weakref.WeakValueDictionary())

    def forget_parent(self) -> None:
        # Another thread of the parent may have had the guard.
        self.__init__()  # type: ignore[misc]


registry = _Registry()
os.register_at_fork(after_in_child=registry.forget_parent)


def place_of(lock_file: str | bytes | os.PathLike[Any]) -> Any:
    """Returns what all spellings of a lock file have in common. A link at the end is another file."""
    path: Any = os.fspath(lock_file)
    directory, name = os.path.split(path)
    # As the kernel does: `..` is above what a link leads to, and what ends in a slash is a directory.
    if os.fsdecode(name) in ("", ".", ".."):
        return os.path.realpath(path)
    return os.path.join(os.path.realpath(directory), name)


class FileLockMeta(ABCMeta):
    """Makes a lock, or finds the one that there is to be one of."""

    # Types are checked by __init__.
    if not TYPE_CHECKING:

        def __call__(self, *args, **kwds):
            if not kwds:
                return super().__call__(*args)
            if not kwds.get("is_singleton", False):
                return super().__call__(*args, **self._understood(kwds))
            if not args and "lock_file" not in kwds:
                raise TypeError(f"{self.__name__}() needs the path of the lock file")
            given = self._defaults() | dict(zip(_POSITIONAL, args[1:], strict=False)) | kwds
            with registry.guard:
                locks = registry.of(self)
                place = place_of(args[0] if args else kwds["lock_file"])
                lock = locks.get(place)
                if lock is None:
                    lock = super().__call__(*args, **self._understood(kwds))
                    lock._lockmgr_options |= {"is_singleton": True, "given": given}
                    locks[place] = lock
                    return lock
            # What would be wrong with a call that makes one is wrong with this one.
            try:
                signature_of_init(self).bind(None, *args, **self._understood(kwds))
            except TypeError as error:
                raise TypeError(f"{self.__name__}(): {error}") from None
            _check_lifetime(self, given["lifetime"])
            self._compare(lock, given)
            return lock

    @property
    def __signature__(cls) -> inspect.Signature:
        """What help() and others show: how one is made."""
        return signature_of(cls)

    def _understood(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Leaves out what a subclass does not know of and what says nothing new."""
        parameters = signature_of_init(cls).parameters
        if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
            return options
        defaults = cls._defaults()
        return {
            name: value
            for name, value in options.items()
            if name in parameters or name not in defaults or value != defaults[name]
        }

    def _defaults(cls) -> dict[str, Any]:
        return _DEFAULTS

    def _compare(cls, lock: Any, given: dict[str, Any]) -> None:
        """What is asked for a second time has to be asked for in the same way."""
        different = []
        for name in cls._defaults():
            if name == "lifetime":
                continue  # It says nothing, whatever it is.
            # What can be changed counts as it is now.
            there = getattr(lock, name) if name in _CHANGEABLE else lock._lockmgr_options["given"][name]
            wanted = given[name]
            if there is not wanted and there != wanted:
                different.append(f"{name} is {there!r} there and {wanted!r} here")
        if different:
            text = f"{shown(lock.lock_file)}: the one lock for this file was made otherwise: "
            raise ValueError(text + "; ".join(different))


_signatures: weakref.WeakKeyDictionary[type, inspect.Signature] = weakref.WeakKeyDictionary()


def signature_of_init(cls: type) -> inspect.Signature:
    """Returns the signature of the class's __init__."""
    found = _signatures.get(cls)
    if found is None:
        import inspect  # Heavy, and rarely needed.

        found = _signatures[cls] = inspect.signature(cls.__init__)  # type: ignore[misc]
    return found


def signature_of(cls: type) -> inspect.Signature:
    """Returns the arguments that an object is made with, whatever the class does with them before __init__."""
    found = signature_of_init(cls)
    return found.replace(parameters=list(found.parameters.values())[1:])


class BaseFileLock(FileLockBase, contextlib.ContextDecorator, metaclass=FileLockMeta):
    """What all locks with filelock's interface have in common; see FileLock."""

    #: The options as they were given. One attribute, whose name no subclass has.
    _lockmgr_options: dict[str, Any]

    def __init__(
        self,
        lock_file: str | os.PathLike[str],
        timeout: float = -1,
        mode: int = -1,
        thread_local: bool = True,
        *,
        blocking: bool = True,
        is_singleton: bool = False,
        poll_interval: float = 0.05,
        lifetime: float | None = None,
        context_error_policy: ContextErrorPolicy = "chain",
        close_error_policy: CloseErrorPolicy = "default",
        fallback_to_soft: bool = True,
        preserve_lock_file: bool = False,
        on_acquired: Callable[[int], object] | None = None,
    ) -> None:
        if context_error_policy not in ("chain", "group"):
            raise ValueError(f"context_error_policy is 'chain' or 'group', not {context_error_policy!r}")
        if close_error_policy not in ("default", "raise", "suppress"):
            text = "close_error_policy is 'default', 'raise' or 'suppress'"
            raise ValueError(f"{text}, not {close_error_policy!r}")
        _check_lifetime(type(self), lifetime)
        _check_mode(mode)
        self._set_up(
            os.fspath(lock_file),
            timeout=timeout,
            mode=None if mode == -1 else mode,
            thread_local=bool(thread_local),
            blocking=blocking,
            poll_interval=poll_interval,
            groups_errors=context_error_policy == "group",
            on_acquired=on_acquired,
        )
        self._lockmgr_options = {
            "mode": mode,
            "is_singleton": is_singleton,
            "context_error_policy": context_error_policy,
            "close_error_policy": close_error_policy,
            "fallback_to_soft": fallback_to_soft,
            "preserve_lock_file": preserve_lock_file,
        }

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        for name in ("_acquire", "_release"):
            if hasattr(cls, name):
                raise TypeError(
                    f"{cls.__name__}.{name}: lockmgr takes its locks in the kernel and not by {name}(); "
                    "override acquire() and release()"
                )
        # The native ones go the short way, which a subclass may not know of.
        changed = cls.acquire is not FileLockBase.acquire or cls.release is not FileLockBase.release
        if changed and cls.__enter__ is FileLockBase.__enter__:
            cls.__enter__ = _enter  # type: ignore[method-assign]
        if changed and cls.__exit__ is FileLockBase.__exit__:
            cls.__exit__ = _exit  # type: ignore[method-assign]

    def __call__(self, func: _F) -> _F:
        """Decorates a function: each call is made under the lock."""
        import inspect  # Heavy, and rarely needed.

        if inspect.iscoroutinefunction(func) or inspect.isasyncgenfunction(func):
            raise TypeError(
                f"{_name(func)} is async and would run when the lock is released again; "
                "use AsyncFileLock, or `with` inside it"
            )
        if inspect.isgeneratorfunction(func):
            raise TypeError(
                f"{_name(func)} is a generator and would run when the lock is released again; use `with` inside it"
            )
        return super().__call__(func)

    @property
    def mode(self) -> int:
        """The permissions of a lock file that is created; 0o644 stands for those that the umask leaves."""
        mode: int = self._lockmgr_options["mode"]
        return _USUAL_MODE if mode == -1 else mode

    @property
    def has_explicit_mode(self) -> bool:
        """Whether mode was given."""
        return bool(self._lockmgr_options["mode"] != -1)

    @property
    def is_singleton(self) -> bool:
        """Whether there is one such lock for the lock file."""
        return bool(self._lockmgr_options["is_singleton"])

    @property
    def lifetime(self) -> float | None:
        """None. A lock of the kernel does not go out of date."""
        return None

    @lifetime.setter
    def lifetime(self, value: float | None) -> None:
        _check_lifetime(type(self), value)

    @property
    def context_error_policy(self) -> ContextErrorPolicy:
        """What becomes of the two errors when the body of a `with` and the release both fail."""
        policy: ContextErrorPolicy = self._lockmgr_options["context_error_policy"]
        return policy

    @property
    def close_error_policy(self) -> CloseErrorPolicy:
        """As it was given. Releasing closes no descriptor here, so there is nothing to fail."""
        policy: CloseErrorPolicy = self._lockmgr_options["close_error_policy"]
        return policy

    @property
    def fallback_to_soft(self) -> bool:
        """As it was given. Nothing falls back: where there are no kernel locks, acquiring fails."""
        return bool(self._lockmgr_options["fallback_to_soft"])

    @property
    def preserve_lock_file(self) -> bool:
        """As it was given. The lock file always stays."""
        return bool(self._lockmgr_options["preserve_lock_file"])

    @property
    def locked(self) -> bool:
        """As is_locked."""
        return self.is_locked

    def __del__(self) -> None:
        # It is released anyhow when it is gone; this is for subclasses that call it.
        with contextlib.suppress(Exception):
            FileLockBase.release(self, True)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            f"cannot pickle or copy a {type(self).__name__}: a lock belongs to its process; "
            "pass the path on and make another one there"
        )

    def __repr__(self) -> str:
        state = "locked" if self.is_locked else "unlocked"
        return f"<{type(self).__name__} {self.lock_file!r}, {state}>"


def _name(func: Callable[..., Any]) -> str:
    # That of a functools.partial is what it is made of.
    while not hasattr(func, "__qualname__") and hasattr(func, "func"):
        func = func.func
    return str(getattr(func, "__qualname__", repr(func)))


def _enter(self: Any) -> Any:
    self.acquire()
    return self


def _exit(
    self: Any,
    exc_type: type[BaseException] | None = None,
    exc_value: BaseException | None = None,
    traceback: TracebackType | None = None,
) -> None:
    try:
        self.release()
    except BaseException as release:
        if exc_value is None:
            raise
        raise both_failed(exc_value, release, self.context_error_policy == "group") from None


def _check_lifetime(cls: type, lifetime: float | None) -> None:
    if lifetime is None:
        return
    if isinstance(lifetime, bool) or not isinstance(lifetime, (int, float)):
        raise TypeError(f"lifetime is a number of seconds or None, and no {type(lifetime).__name__}")
    # An int is finite, and may be too great to be asked.
    if (isinstance(lifetime, float) and not math.isfinite(lifetime)) or lifetime < 0:
        raise ValueError(f"lifetime is a finite number of seconds from 0 on, not {lifetime!r}")
    text = f"{cls.__name__} has no use for lifetime: the kernel frees the lock when its holder is gone"
    warnings.warn(text, UserWarning, stacklevel=3)


def _check_mode(mode: int) -> None:
    if isinstance(mode, bool) or not isinstance(mode, int):
        raise TypeError(f"mode is an int of permission bits, and no {type(mode).__name__}")
    if mode == -1:
        return
    if not 0 <= mode <= _PERMISSIONS:
        raise ValueError(f"mode is permission bits from 0o000 to 0o777, not {mode:#o}")
    if mode & _OWNER_MAY != _OWNER_MAY:
        raise ValueError(f"mode {mode:#o} would keep the owner from opening the lock file again")


class FileLock(BaseFileLock):
    """A lock with the interface of filelock.FileLock, whose waits are the kernel's.

        from lockmgr import FileLock, Timeout

        lock = FileLock("app.lock", timeout=10)
        with lock:
            ...

    It excludes everybody who takes flock(2) locks: filelock, too. For new programs there is Lock.

    Arguments:

    - lock_file: its path; a relative one is taken from the current directory of this moment.
      Directories above it are made. The file stays when the lock is released.
    - timeout: how many seconds acquire() and `with` wait at the most; 0 is one attempt, a negative
      number no limit.
    - mode: the exact permissions of a lock file that is created; else 0666 less the umask.
    - thread_local: each thread acquires for itself, and has timeout, blocking and poll_interval for
      itself. With False the hold can be released by another thread; it still excludes the others.
    - blocking: False is one attempt, whatever timeout says.
    - is_singleton: one object for the lock file, so that a thread which holds it enters again.
    - poll_interval: how often cancel_check is asked. Nothing else is polled.
    - on_acquired: called with a descriptor of the lock file, which it may write, each time the lock has
      been acquired; what it raises gives the lock up.
    - context_error_policy: when the body of a `with` and the release fail, "chain" raises the release's
      error with the other as its context, "group" both in an exception group.
    - lifetime, close_error_policy, fallback_to_soft, preserve_lock_file are accepted, and there is
      nothing for them to do.

    acquire() returns an object for `with`, and raises Timeout, which says who has the lock. A thread that
    holds it enters again, counted. One that would wait for ever for what it holds by another object gets
    DeadlockError, a RuntimeError. In a forked child an inherited lock cannot be used: make another one.
    """

    def lock(self) -> Self:
        """Acquires the lock unless it is held already; returns the object itself."""
        if not self.is_locked:
            self.acquire()
        return self

    def unlock(self) -> None:
        """Releases the lock, however often it was acquired. Without effect when it is not held."""
        self.release(force=True)


#: filelock's name for it.
UnixFileLock = FileLock


def lock_descriptor(fd: int, *, blocking: bool = True, poll_interval: float = 0.05) -> bool:
    """Takes the lock of a FileLock on a file that the program has opened itself.

    Asleep in the kernel until it is free; with blocking=False one attempt, and False if it is taken.
    poll_interval has nothing to do.
    """
    if isinstance(poll_interval, bool) or not isinstance(poll_interval, (int, float)):
        raise TypeError(f"poll_interval is a number of seconds, and no {type(poll_interval).__name__}")
    if not math.isfinite(poll_interval) or poll_interval <= 0:
        raise ValueError(f"poll_interval is a finite number of seconds above 0, not {poll_interval}")
    if not isinstance(blocking, bool):
        raise TypeError(f"blocking is True or False, and no {type(blocking).__name__}")
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if blocking else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def unlock_descriptor(fd: int) -> None:
    """Gives back what lock_descriptor() has taken."""
    fcntl.flock(fd, fcntl.LOCK_UN)
