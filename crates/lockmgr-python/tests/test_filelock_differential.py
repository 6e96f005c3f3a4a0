"""Each scene is played with PyPI's filelock and with ours, and what comes of it is compared.

What differs is listed in differential/differences.py, and explained in docs/from-filelock.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "differential"
sys.path.insert(0, str(HERE))

import differences  # noqa: E402
import scenes  # noqa: E402, F401
import stage  # noqa: E402

pytest.importorskip("filelock", reason="SKIPPED: the scenes need PyPI's filelock")

PACKAGES = ("filelock", "lockmgr.filelock")


def play(package: str, name: str, directory: Path) -> dict[str, str]:
    directory.mkdir()
    words = [sys.executable, str(HERE / "stage.py"), package, name, str(directory)]
    played = subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)
    assert played.returncode == 0, f"{name} with {package}:\n{played.stdout}{played.stderr}"
    notes: dict[str, str] = json.loads((directory / "notes.json").read_text())
    return notes


def catches(theirs: str, ours: str) -> bool:
    """Whether an `except` clause that was written for the one catches the other, too."""
    raises = "raises "
    if raises not in theirs or raises not in ours:
        return theirs == ours
    (before, names), (other, classes) = theirs.split(raises, 1), ours.split(raises, 1)
    return before == other and set(names.strip("'").split()) <= set(classes.strip("'").split())


@pytest.mark.parametrize("name", stage.SCENES)
def test_scene(name: str, tmp_path: Path) -> None:
    with ThreadPoolExecutor(len(PACKAGES)) as pool:
        plays = [pool.submit(play, package, name, tmp_path / package) for package in PACKAGES]
        theirs, ours = (one.result() for one in plays)
    assert list(theirs) == list(ours)
    wrong = []
    for label, there in theirs.items():
        here, key = ours[label], f"{name}: {label}"
        listed = differences.DIFFERENCES.get(key)
        if listed is not None:
            if (there, here) != (listed.theirs, listed.ours):
                wrong.append(f"{key}: {there} there and {here} here; listed are {listed.theirs} and {listed.ours}")
        elif there != here and not catches(there, here):
            wrong.append(f"{key}: {there} there and {here} here, and no difference is listed")
    assert not wrong, "\n".join(wrong)


def test_differences_are_of_scenes() -> None:
    """What is listed is looked at by some scene: its name is one, and the scene fails if the outcomes are not these."""
    for key in differences.DIFFERENCES:
        assert key.split(": ")[0] in stage.SCENES, key


def test_differences_are_explained() -> None:
    document = (Path(__file__).parents[3] / "docs" / "from-filelock.md").read_text()
    headings = {line.removeprefix("### ") for line in document.splitlines() if line.startswith("### ")}
    missing = {one.why for one in differences.DIFFERENCES.values()} - headings
    assert not missing, f"docs/from-filelock.md does not explain: {missing}"


def test_release_of_filelock() -> None:
    """The list was made with one release; a newer one has to be looked at."""
    import filelock

    assert filelock.__version__ == differences.FILELOCK
