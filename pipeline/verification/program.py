"""train_gpt.py as it is shipped: its source, unwrapped within bounds, and the files of the folder that it needs.

The one idea: nothing is run. A wrapper is a call of known decoders on a literal, which is decoded here up to a size; a
local module is one that is imported and lies in the folder; a file is opened where a literal names it.

Checked by: tests/verification/test_program.py.
"""

import ast
import base64
import bz2
import lzma
import re
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

import brotli
import zstandard

from pipeline.base.checks import one_line
from pipeline.verification.findings import Finding, Place, finding
from pipeline.verification.folder import PROGRAM, Record
from pipeline.verification.reading import source_digest

MOST_SOURCE_BYTES = 600_000
_MOST_TOKENS = 120_000
_TOKEN = re.compile(rb"'(?:[^'\\\n]|\\.)*+'|\"(?:[^\"\\\n]|\\.)*+\"|\w+|[^\w\s]")
_DEEPEST_WRAP = 4
_NO_CODE = (".log", ".md", ".model", ".vocab", ".txt", ".fwy")
"""Ends of files that a program may name without needing them to run: what it writes, and tokenizers."""


class ShippedCode(NamedTuple):
    """The code of a record."""

    source: str | None
    """Of train_gpt.py, unwrapped; None for what is no text."""
    sizes: dict[str, int]
    """train_gpt.py and every file that it needs -> bytes on disk; empty without train_gpt.py."""
    known_sizes: dict[int, str]
    """Sizes that a log may honestly call its code -> what has them."""
    digests: set[str]
    """Of the texts that a log may print as its source."""
    findings: list[Finding]

    @property
    def has_command_line(self) -> bool:
        """Whether it parses arguments, so that `--help` tries something."""
        names = (each for node in ast.walk(_parsed((self.source or "").encode())) for each in _names_of(node))
        return "ArgumentParser" in names


def _names_of(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, ast.alias):
        yield node.name


def read_program(record: Record) -> ShippedCode:
    """Return what a folder ships as code; what is wrong with it is among the findings."""
    content = record.read(PROGRAM, MOST_SOURCE_BYTES)
    if content is None:
        return ShippedCode(
            None, {}, {}, set(), [finding("program", "not stated", f"{PROGRAM}: not there, or not read")]
        )
    try:
        source = unwrapped(content)
        names = {PROGRAM: len(content), **_needed(record, source)}
        found = [finding("program", "agreement", f"{PROGRAM} compiles")]
    except Exception as error:  # whatever foreign code makes of being read
        said = f"{PROGRAM} does not compile: {type(error).__name__}: {one_line(error, 100)}"
        names, source = {PROGRAM: len(content)}, None
        found = [finding("program", "contradiction", said, Place(PROGRAM, None, None))]
    whole = sum(names.values())
    known = {whole: "all code on disk", **{size: name for name, size in names.items()}}
    text = content if source is None else source.encode("utf-8", "replace")
    known.setdefault(len(text), f"{PROGRAM}, unwrapped")
    digests = {source_digest(content), source_digest(text)}
    return ShippedCode(source, names, known, digests, found)


def unwrapped(content: bytes) -> str:
    """Return the source that a program runs: its own text, or what its wrappers hold; nothing is run.

    Raises SyntaxError for what is no Python, ValueError for a wrapper that unpacks to more than any program.
    """
    for _ in range(_DEEPEST_WRAP):
        tree = _parsed(content)
        inner = next(_payloads(tree), None)
        if inner is None:
            break
        content = inner
    return content.decode("utf-8", "replace")


def _parsed(content: bytes) -> ast.Module:
    """Return the syntax tree of a source that is no denser than people write: a tree is a thousand times its tokens."""
    if sum(1 for _ in _TOKEN.finditer(content)) > _MOST_TOKENS:
        raise OverflowError(f"it has more than {_MOST_TOKENS:,} tokens")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(content)


def _payloads(tree: ast.Module) -> Iterator[bytes]:
    """Yield what the decoders of a short program unpack to, where that is Python."""
    if len(tree.body) > 40:
        return
    constants = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _decoder_name(node) in _UNPACKERS:
            payload = _decoded(node, constants)
            if isinstance(payload, bytes) and b"\0" not in payload:
                yield payload


def _decoder_name(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _decoded(node: ast.expr, constants: dict[str, ast.expr], depth: int = 0) -> str | bytes | None:
    """Return what an expression of literals and known decoders is; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
        return node.value
    if isinstance(node, ast.Name) and node.id in constants and depth < 9:
        return _decoded(constants[node.id], constants, depth + 1)
    if not isinstance(node, ast.Call) or depth > 9:
        return None
    name = _decoder_name(node)
    if name == "encode" and isinstance(node.func, ast.Attribute):
        text = _decoded(node.func.value, constants, depth + 1)
        return text.encode("latin-1", "replace") if isinstance(text, str) else None
    inner = _decoded(node.args[0], constants, depth + 1) if node.args else None
    if inner is None:
        return None
    data = inner.encode("latin-1", "replace") if isinstance(inner, str) else inner
    for decode in (_TEXT_DECODERS | _UNPACKERS).get(name, ()):
        try:
            return decode(data)
        except (ValueError, EOFError, OSError, lzma.LZMAError, zlib.error, brotli.error, zstandard.ZstdError):
            continue
    return None


def _bounded(content: bytes, is_whole: bool) -> bytes:
    if len(content) > MOST_SOURCE_BYTES:
        raise OverflowError(f"a wrapper unpacks to more than {MOST_SOURCE_BYTES:,} bytes")
    if not is_whole:
        raise ValueError("a wrapper that ends early")
    return content


def _lzma(data: bytes) -> bytes:
    unpacker = lzma.LZMADecompressor()
    return _bounded(unpacker.decompress(data, MOST_SOURCE_BYTES + 1), unpacker.eof)


def _bz2(data: bytes) -> bytes:
    unpacker = bz2.BZ2Decompressor()
    return _bounded(unpacker.decompress(data, MOST_SOURCE_BYTES + 1), unpacker.eof)


def _zlib(data: bytes) -> bytes:
    unpacker = zlib.decompressobj(wbits=47)
    return _bounded(unpacker.decompress(data, MOST_SOURCE_BYTES + 1), unpacker.eof)


def _brotli(data: bytes) -> bytes:
    unpacker = brotli.Decompressor()
    content = unpacker.process(data, output_buffer_limit=MOST_SOURCE_BYTES + 1)
    return _bounded(content, unpacker.is_finished())


def _zstd(data: bytes) -> bytes:
    content = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(data).read(MOST_SOURCE_BYTES + 1)
    return _bounded(content, True)


_Decoder = Callable[[bytes], bytes]
_TEXT_DECODERS: dict[str, tuple[_Decoder, ...]] = {
    "b85decode": (base64.b85decode,),
    "a85decode": (base64.a85decode,),
    "b64decode": (base64.b64decode,),
    "z85decode": (base64.b85decode,),
    "fromhex": (lambda data: bytes.fromhex(data.decode()),),
}
_UNPACKERS: dict[str, tuple[_Decoder, ...]] = {"decompress": (_lzma, _bz2, _zlib, _zstd, _brotli)}
"""Name of a call -> what it may be; one of another name hides nothing that is counted."""


def _needed(record: Record, source: str) -> dict[str, int]:
    """Return the files of the folder that a program imports or opens, those that these need too, and their bytes."""
    needed: dict[str, int] = {}
    waiting, parsed = [(PROGRAM, source)], 0
    while waiting:
        name, text = waiting.pop()
        parsed += len(text)
        if parsed > len(source) + MOST_SOURCE_BYTES:
            raise OverflowError(f"it imports more than {MOST_SOURCE_BYTES:,} bytes of local modules")
        for found in sorted(_named_files(name, _parsed(text.encode("utf-8", "replace")), record)):
            if found not in needed and found != PROGRAM:
                needed[found] = record.listing.sizes[found]
                content = record.read(found, MOST_SOURCE_BYTES) if found.endswith(".py") else None
                waiting += [(found, content.decode("utf-8", "replace"))] if content is not None else []
    return dict(sorted(needed.items()))


def _named_files(name: str, tree: ast.Module, record: Record) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (file for alias in node.names for file in _module_files(alias.name, name, record))
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            for each in (module, *(f"{module}.{alias.name}".strip(".") for alias in node.names)):
                yield from _module_files(each, name, record)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            literal = node.value.removeprefix("./")
            is_code = not literal.endswith(_NO_CODE) and literal not in ("submission.json", "audit.json")
            if is_code and literal in record.listing.sizes:
                yield literal


def _module_files(module: str, importer: str, record: Record) -> Iterator[str]:
    path = PurePosixPath(*module.split("."))
    for base in (PurePosixPath(), PurePosixPath(importer).parent):
        parents = [PurePosixPath(*path.parts[: depth + 1]) / "__init__.py" for depth in range(len(path.parts))]
        for file in (path.with_suffix(".py") if path.name else path, *parents):
            if str(base / file) in record.listing.sizes:
                yield str(base / file)
