"""The frame of an artifact file: sections with declared lengths and digests, and brotli streams that cannot explode.

Layout (little endian): magic, version; for each section its stored length, its raw length and the first 8 bytes of the
sha256 of its stored bytes; then the stored sections, nothing after them.

Source: ours.
Checked by: tests/codec/test_container.py (mutations, bombs).
"""

import hashlib
import struct
from collections.abc import Mapping

import brotli

from pipeline.base.checks import FairwayError, require

ARTIFACT_MAGIC = b"FWYA"
ARTIFACT_VERSION = 3
SECTION_LIMITS = {"header": 1 << 20, "values": 1 << 26, "codes": 1 << 26}
"""Largest raw bytes a section may declare: several times what any record needs, and little memory for a bomb."""
_PREFIX = struct.Struct("<4sB")
_SECTION_ENTRY = struct.Struct("<II8s")
_READ_BYTES = 1 << 16


class ArtifactError(FairwayError):
    """An artifact file is damaged, hostile or not one of ours."""


def join_sections(raw: Mapping[str, bytes]) -> bytes:
    """Return the file that holds the sections `raw`; raises ValueError for one that is too large to read back.

    Codes are stored as they are, everything else as one brotli stream.
    """
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


def split_sections(content: bytes) -> dict[str, bytes]:
    """Return the raw sections of a file; raises ArtifactError, having allocated no more than the declared lengths."""
    prefix_bytes = _PREFIX.size + len(SECTION_LIMITS) * _SECTION_ENTRY.size
    if content[: len(ARTIFACT_MAGIC)] != ARTIFACT_MAGIC:
        raise ArtifactError("not an artifact: wrong magic bytes")
    if len(content) < prefix_bytes:
        raise ArtifactError(f"truncated: {len(content)} bytes hold no section table")
    version = _PREFIX.unpack_from(content)[1]
    if version != ARTIFACT_VERSION:
        raise ArtifactError(f"format version {version}, this program reads version {ARTIFACT_VERSION}: quantize again")
    stored, offset = {}, prefix_bytes
    entries = _SECTION_ENTRY.iter_unpack(content[_PREFIX.size : prefix_bytes])
    for (name, limit), (length, raw_length, digest) in zip(SECTION_LIMITS.items(), entries, strict=True):
        if raw_length > limit:
            raise ArtifactError(f"section {name} declares {raw_length} bytes, the limit is {limit}")
        payload = content[offset : offset + length]
        offset += length
        if len(payload) != length:
            raise ArtifactError(f"truncated: section {name} ends {length - len(payload)} bytes early")
        if _digest(payload) != digest:
            raise ArtifactError(f"section {name} is damaged: its sha256 does not match")
        stored[name] = payload, raw_length
    if offset != len(content):
        raise ArtifactError(f"{len(content) - offset} bytes follow the last section")
    return {name: _raw_section(*entry, name) for name, entry in stored.items()}


def _raw_section(stored: bytes, raw_length: int, name: str) -> bytes:
    """Return the `raw_length` bytes that a section stores, never holding more than a read beyond them."""
    parts, size = [], 0
    if name == "codes":
        parts, size = [stored], len(stored)
    else:
        decoder, pending = brotli.Decompressor(), stored
        try:
            while not decoder.is_finished() and size <= raw_length:
                part = decoder.process(pending, output_buffer_limit=min(raw_length - size, 1 << 24) + _READ_BYTES)
                if not part and not decoder.is_finished() and decoder.can_accept_more_data():
                    break
                parts.append(part)
                size, pending = size + len(part), b""
        except brotli.error:
            raise ArtifactError(f"section {name} is not a sound brotli stream") from None
        if not decoder.is_finished():
            size = -1
    if size != raw_length:
        raise ArtifactError(f"section {name} does not hold the {raw_length} bytes it declares")
    return b"".join(parts)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:8]
