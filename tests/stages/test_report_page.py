"""`fairway report --html` of a finished run: complete, the same twice, and without a fault in a browser."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.reports.test_page import SECTION_KEYS, Reader

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


FIGURES = 9
"""On the page of one finished run."""


def write_page(project, path: Path, *arguments: str) -> str:
    done = project.run("fairway", "report", "--html", str(path), *arguments)
    assert done.stderr == ""  # HOSTILE: no home to write to
    return path.read_text("utf-8")


@pytest.fixture(scope="module")
def made(finished, tmp_path_factory) -> Path:
    """Return the page of the finished run."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    write_page(finished, path)
    return path


def test_a_page_shows_everything_from_one_file_the_same_twice(finished, made, tmp_path):
    text = made.read_text("utf-8")
    reader = Reader(text)
    assert reader.open == []
    assert reader.sections == SECTION_KEYS
    assert "Not there yet" not in text
    assert not re.search(r"https?://|<script|@import|src=", text)
    assert text.count("<figure>") == text.count('role="img"') == text.count("aria-label=") - text.count("<table>") - 1
    assert text.count("<figure>") == FIGURES
    assert "block 2, runs 2 times" in text
    assert "Verdict: pass; 0 of" in text
    assert len(text) < 400_000
    assert write_page(finished, tmp_path / "again.html") == text


def test_another_run_stands_beside_this_one(finished, made, tmp_path):
    text = write_page(finished, tmp_path / "two.html", f"../{finished.root.name}")
    assert f"seed 1 of {finished.root.name}" in text
    assert f"seed 1 of ../{finished.root.name}" in text
    assert text.count('role="img"') == FIGURES + 3  # byte map, blocks and visits are a run's own


def test_what_is_wrong_is_one_line(finished, tmp_path):
    for arguments, code, said in (
        (["--html", str(tmp_path / "page.html"), str(tmp_path)], 1, "FOLDER: got"),
        (["--html", str(tmp_path)], 1, "directory"),
        ([str(tmp_path)], 2, "FOLDER goes with --html"),
        (["--html", str(tmp_path / "page.html"), "--json"], 2, "exclude each other"),
    ):
        done = finished.run("fairway", "report", *arguments, check=False)
        assert done.returncode == code, done.stderr
        assert said in done.stderr
        assert "Traceback" not in done.stderr
        assert code == 2 or len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "page.html").exists()


@pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome to open the page with")
def test_a_browser_shows_it_without_a_network_and_without_a_complaint(made, tmp_path):
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--proxy-server=127.0.0.1:9", "--enable-logging=stderr"]
    command = [str(BROWSER), *options, f"--user-data-dir={tmp_path}", "--dump-dom", made.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "CONSOLE" not in done.stderr
    assert Reader(done.stdout).sections == SECTION_KEYS
    assert done.stdout.count("<figure>") == FIGURES
