"""What `pip install` has put where."""

from __future__ import annotations

import inspect
import pydoc
import subprocess
import sysconfig
from importlib import metadata
from pathlib import Path

import lockmgr
import pytest


def test_the_command_is_the_native_binary() -> None:
    command = Path(sysconfig.get_path("scripts")) / "lockmgr"
    assert command.read_bytes()[:4] == b"\x7fELF"
    out = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout
    assert out.strip() == f"lockmgr {lockmgr.__version__}"


def test_the_package_is_typed_and_needs_nothing() -> None:
    distribution = metadata.distribution("lockmgr")
    assert distribution.version == lockmgr.__version__
    assert not [it for it in distribution.requires or [] if "extra ==" not in it]
    assert (Path(lockmgr.__file__).parent / "py.typed").exists()
    assert (Path(lockmgr.__file__).parent / "_lockmgr.pyi").exists()
    assert not distribution.entry_points


def test_names_are_there_once_and_in_order() -> None:
    assert sorted(lockmgr.__all__) == list(lockmgr.__all__)
    for name in lockmgr.__all__:
        assert hasattr(lockmgr, name)


@pytest.mark.parametrize("name", ["FileLock", "AsyncFileLock", "ReadWriteLock", "AsyncReadWriteLock", "Lock"])
def test_help_says_how_one_is_made(name: str) -> None:
    kind = getattr(lockmgr, name)
    parameters = inspect.signature(kind).parameters
    assert next(iter(parameters)) in ("lock_file", "path_or_name")
    assert parameters["timeout"].default in (-1, None)
    # Where the line is broken is Python's matter.
    told = "".join(pydoc.render_doc(kind, renderer=pydoc.plaintext).replace("|", " ").split())
    assert f"{name}({next(iter(parameters))}" in told


def test_a_subclass_is_made_in_its_own_way() -> None:
    class Narrow(lockmgr.FileLock):
        def __init__(self, path: str, *, extra: int) -> None:
            super().__init__(path)

    assert list(inspect.signature(Narrow).parameters) == ["path", "extra"]


@pytest.mark.parametrize("kind", [lockmgr.Holder, lockmgr.Waiter, lockmgr.LockInfo])
def test_help_says_what_fields_are(kind: type) -> None:
    for field in kind._fields:  # type: ignore[attr-defined]
        assert "Alias" not in getattr(kind, field).__doc__, field
