"""The frame of an artifact file: sections with declared lengths and digests.

Layout (little endian): magic, version; for each section its stored length, its raw length and the first 8 bytes of the
sha256 of its stored bytes; then the stored sections, nothing after them.

Source: ours.
Checked by: tests/codec/test_container.py.
"""

import hashlib
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import brotli

from pipeline.base.checks import FairwayError, require, require_always

ARTIFACT_MAGIC = b"FWYA"
ARTIFACT_VERSION = 3
SECTION_LIMITS = {"header": 1 << 20, "values": 1 << 26, "codes": 1 << 26}
"""Largest raw bytes a section may declare: several times what any record needs, and little memory for a bomb."""
_PREFIX = struct.Struct("<4sB")
_SECTION_ENTRY = struct.Struct("<II8s")


class ArtifactError(FairwayError):
    """An artifact file is damaged, hostile or not one of ours."""


class StoredSection(NamedTuple):
    """A section as it lies in the file; codes as they are, everything else as one brotli stream."""

    name: str
    content: bytes
    raw_length: int


def join_sections(raw: Mapping[str, bytes]) -> bytes:
    """Return the file that holds the sections `raw`; raises ValueError for one that is too large to read back."""
    entries, stored = [], []
    for name, limit in SECTION_LIMITS.items():
        content = raw[name]
        require(
            len(content) <= limit,
            f"artifact section {name}",
            f"{len(content)} bytes",
            f"at most {limit}, which is what the reader accepts",
        )
        stored.append(content if name == "codes" else brotli.compress(content, quality=11, lgwin=24))
        entries.append(_SECTION_ENTRY.pack(len(stored[-1]), len(content), _digest(stored[-1])))
    return b"".join([_PREFIX.pack(ARTIFACT_MAGIC, ARTIFACT_VERSION), *entries, *stored])


def stored_sections(content: bytes) -> Iterator[StoredSection]:
    """Yield the sections of a file; raises ValueError for another format or version and for any damage."""
    offset = _PREFIX.size + len(SECTION_LIMITS) * _SECTION_ENTRY.size
    require_always(content[: len(ARTIFACT_MAGIC)] == ARTIFACT_MAGIC, "artifact", content[:4], "the magic bytes of one")
    require_always(len(content) >= offset, "artifact: bytes", len(content), f"at least {offset}: it is truncated")
    version = _PREFIX.unpack_from(content)[1]
    require_always(version == ARTIFACT_VERSION, "format version", version, f"{ARTIFACT_VERSION}: quantize again")
    entries = _SECTION_ENTRY.iter_unpack(content[_PREFIX.size : offset])
    for name, (length, raw_length, digest) in zip(SECTION_LIMITS, entries, strict=True):
        stored = content[offset : offset + length]
        found, what = _digest(stored), f"sha256 of section {name}"
        require_always(found == digest, what, found.hex(), f"{digest.hex()}: the file is damaged")
        yield StoredSection(name, stored, raw_length)
        offset += length
    require_always(offset == len(content), "artifact: bytes", len(content), f"{offset}, the end of its sections")


def split_sections(content: bytes) -> dict[str, bytes]:
    """Return the raw sections of a file of one's own, whose sizes need no check; raises ValueError."""
    return {
        name: stored if name == "codes" else brotli.decompress(stored) for name, stored, _ in stored_sections(content)
    }


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:8]
