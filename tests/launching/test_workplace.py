"""A workplace is gone when its owner is, whatever ended him: the folder, the program in it and what that started."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.launching.workplace import kill_group, workplace

OWNER = """
import subprocess, sys, time
from pipeline.launching.workplace import workplace

# One write each: lines of two processes do not mix.
CHILD = "import os, time; os.fork(); os.write(1, str(os.getpid()).encode() + bytes([10])); time.sleep(600)"
with workplace() as place:
    (place.folder / "file").write_bytes(b"")
    child = place.start([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True)
    print(place.folder, *(child.stdout.readline().strip() for _ in range(2)), flush=True)
    time.sleep(600)
"""


def is_running(pid: str) -> bool:
    """Return whether a process runs; one that nobody waits for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc: Linux")
def test_nothing_outlives_an_owner_that_is_killed(repo: Path):
    with subprocess.Popen([sys.executable, "-c", OWNER], cwd=repo, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        folder, *programs = owner.stdout.readline().split()
        found = [is_running(pid) for pid in programs]
        owner.send_signal(signal.SIGKILL)
    assert found == [True, True]
    deadline = time.monotonic() + 30
    while os.path.exists(folder) or any(map(is_running, programs)):
        assert time.monotonic() < deadline, "the folder or a program is still there"
        time.sleep(0.01)


def test_a_workplace_ends_with_its_block():
    with workplace() as place:
        process = place.start(
            [sys.executable, "-c", "import os; print(os.getcwd())"], stdout=subprocess.PIPE, text=True
        )
        assert process.communicate()[0].strip() == str(place.folder)
        kill_group(process)
    assert not place.folder.exists()


def test_what_a_stranger_locked_is_removed_and_what_he_linked_stays(tmp_path: Path):
    """Root opens what is locked anyway: as root this shows the links only."""
    outside = tmp_path / "outside"
    (outside / "file").mkdir(parents=True)
    outside.chmod(0o711)
    with workplace() as place:
        (place.folder / "locked" / "deep").mkdir(parents=True)
        (place.folder / "locked" / "deep" / "link").symlink_to(outside)
        (place.folder / "link").symlink_to(outside)
        for name in ("locked/deep", "locked", ""):
            (place.folder / name).chmod(0)
    assert not place.folder.exists()
    assert outside.stat().st_mode & 0o777 == 0o711
    assert (outside / "file").is_dir()


def test_a_child_in_a_session_of_its_own_ends_with_the_program():
    parent = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with workplace() as place:
        process = place.start([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        child = process.stdout.readline().strip()
        assert is_running(child)
        kill_group(process)
        process.stdout.close()
    assert not is_running(child)
