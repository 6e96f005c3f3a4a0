"""What `pip install` has put where."""

from __future__ import annotations

import subprocess
import sysconfig
from importlib import metadata
from pathlib import Path

import lockmgr


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
