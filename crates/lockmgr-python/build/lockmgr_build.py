"""The PEP 517 backend: maturin, and before it the command `lockmgr`.

maturin puts one crate into a wheel, and the command is another crate's binary. So each build first
makes the command with cargo, in the same profile, and lays it where maturin's `data` setting takes
scripts from. A Python entry point in its place would start an interpreter for every `lockmgr run`.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import maturin

ROOT = Path(__file__).resolve().parents[3]
# As `data` in pyproject.toml has it.
SCRIPTS = ROOT / "target" / "python" / "data" / "scripts"

get_requires_for_build_wheel = maturin.get_requires_for_build_wheel
get_requires_for_build_editable = maturin.get_requires_for_build_editable

# maturin wants the folder to be there.
SCRIPTS.mkdir(parents=True, exist_ok=True)
prepare_metadata_for_build_wheel = maturin.prepare_metadata_for_build_wheel
prepare_metadata_for_build_editable = maturin.prepare_metadata_for_build_editable


def build_wheel(
    wheel_directory: str,
    config_settings: dict[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    build_command("release", config_settings)
    name: str = maturin.build_wheel(wheel_directory, config_settings, metadata_directory)
    return name


def build_editable(
    wheel_directory: str,
    config_settings: dict[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    build_command("dev", config_settings)
    name: str = maturin.build_editable(wheel_directory, config_settings, metadata_directory)
    return name


def build_sdist(sdist_directory: str, config_settings: dict[str, Any] | None = None) -> str:
    raise RuntimeError(
        "lockmgr has no source distribution: build a wheel from a checkout (pip wheel .), or install it (pip install .)"
    )


def build_command(default: str, config_settings: dict[str, Any] | None) -> None:
    """Builds the command with the profile that the extension module is going to be built with."""
    profile = wanted_profile(default, config_settings)
    cargo = [os.environ.get("CARGO", "cargo"), "build", "--package", "lockmgr-cli", "--bin", "lockmgr"]
    cargo += ["--profile", profile, "--message-format", "json-render-diagnostics"]
    built = subprocess.run(cargo, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    messages = [json.loads(line) for line in built.stdout.splitlines() if line.startswith(b"{")]
    (program,) = [message["executable"] for message in messages if message.get("executable")]
    # Replaced at once, for somebody may be running the old one.
    new = SCRIPTS / ".lockmgr.new"
    shutil.copy(program, new)
    new.replace(SCRIPTS / "lockmgr")


def wanted_profile(default: str, config_settings: dict[str, Any] | None) -> str:
    """Returns what `--profile` says where maturin looks for its arguments."""
    given = (config_settings or {}).get("build-args") or os.environ.get("MATURIN_PEP517_ARGS", "")
    words = shlex.split(given) if isinstance(given, str) else list(given)
    for index, word in enumerate(words):
        if word == "--profile" and index + 1 < len(words):
            return words[index + 1]
        if word.startswith("--profile="):
            return word.removeprefix("--profile=")
    return default
