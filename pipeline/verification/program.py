"""train_gpt.py as it is shipped: its source, unwrapped within bounds, and the files of the folder that it needs.

The one idea: nothing is run. A wrapper is a call of known decoders on a literal, which is decoded here up to a size; a
file of the folder is needed where an import, or the last part of a path in any literal, names it. So code may count
that is not needed, where a literal happens to have its name; what hides its name from literals is listed beside.

Checked by: tests/verification/test_program.py.
"""

import ast
import base64
import bz2
import fnmatch
import itertools
import lzma
import re
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import brotli
import zstandard

from pipeline.verification.findings import Finding, Place, finding
from pipeline.verification.folder import PROGRAM, Record
from pipeline.verification.reading import source_digest

MOST_SOURCE_BYTES = 600_000
"""Of train_gpt.py, and of what each of its wrappers holds."""
MOST_MODULE_BYTES = 300_000
"""Of all local modules that it needs."""
_MOST_TOKENS = 120_000
_LONGEST_LITERAL, _MOST_PATTERNS = 1000, 50
_TOKEN = re.compile(rb"'(?:[^'\\\n]|\\.)*+'|\"(?:[^\"\\\n]|\\.)*+\"|\w+|\\.|[^\w\s]")
_DEEPEST_WRAP = 4
_MOST_DECODED = 8
_OF_RECORDS = {"submission.json", "audit.json", "README.md", "requirements.txt", "LICENSE", PROGRAM}
"""Files that a program may name without needing them to run; its logs and its tokenizer are others."""
_CODE = (".py", ".pyc", ".so", ".pyd", ".cu", ".cpp", ".c", ".sh", ".zip", ".whl", ".gz")
_HUMAN = "train_gpt_human.py"
"""Our source for people, which no program needs."""
_IMPORTERS = {"import_module", "__import__", "find_spec", "run_module"}


class ShippedCode(NamedTuple):
    """The code of a record."""

    source: str | None
    """Of train_gpt.py, unwrapped; None for what is no text."""
    sizes: dict[str, int]
    """train_gpt.py and every file that it needs -> bytes on disk; empty without train_gpt.py."""
    known_sizes: dict[int, str]
    """Sizes that a log may honestly call its code -> what has them."""
    others: dict[str, int]
    """Code that it does not seem to need -> bytes."""
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
        absent = finding("program", "not stated", f"{PROGRAM}: not there, or not read")
        return ShippedCode(None, {}, {}, {}, set(), [absent])
    try:
        layers = unwrapped_layers(content)
        names = {PROGRAM: len(content), **_needed(record, layers)}
        source: str | None = layers[-1].decode("utf-8", "replace")
        found = [finding("program", "agreement", f"{PROGRAM} compiles")]
    except Exception as error:  # whatever foreign code makes of being read
        is_bound = isinstance(error, OverflowError)
        reason = f"is not read: {error}" if is_bound else f"does not compile: {type(error).__name__}: {error}"
        names, source, layers = {PROGRAM: len(content)}, None, [content]
        found = [finding("program", "contradiction", f"{PROGRAM} {reason}", Place(PROGRAM, None, None))]
    known = {size: name for name, size in names.items() if name.endswith(".py")}
    known |= {sum(names.values()): "all code on disk", len(layers[-1]): f"{PROGRAM}, unwrapped", len(content): PROGRAM}
    others = {name: size for name, size in record.listing.sizes.items() if name.endswith(_CODE) and name not in names}
    others.pop(_HUMAN, None)
    return ShippedCode(source, names, known, others, {source_digest(layer) for layer in layers}, found)


def unwrapped_layers(content: bytes) -> list[bytes]:
    """Return a program's own text, then what its wrappers hold, one in the other; nothing is run.

    Raises SyntaxError for what is no Python, OverflowError for a wrapper that unpacks to more than any program.
    """
    layers = [content]
    for _ in range(_DEEPEST_WRAP):
        inner = next(_payloads(_parsed(layers[-1])), None)
        if inner is None:
            break
        layers.append(inner)
    return layers


def _parsed(content: bytes) -> ast.Module:
    """Return the syntax tree of a source that is no denser than people write: a tree is a thousand times its tokens."""
    if sum(1 for _ in itertools.islice(_TOKEN.finditer(content), _MOST_TOKENS + 1)) > _MOST_TOKENS:
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
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and _decoder_name(node) in _UNPACKERS)
    for node in itertools.islice(calls, _MOST_DECODED):
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
    "fromhex": (lambda data: bytes.fromhex(data.decode()),),
}
_UNPACKERS: dict[str, tuple[_Decoder, ...]] = {"decompress": (_lzma, _bz2, _zlib, _zstd, _brotli)}
"""Name of a call -> what it may be; one of another name hides nothing that is counted."""


def _needed(record: Record, layers: Sequence[bytes]) -> dict[str, int]:
    """Return the files of the folder that a program imports or names, those that these need too, and their bytes."""
    needed: dict[str, int] = {}
    waiting, parsed = list(layers), -sum(map(len, layers))
    models = {int(figure.value) for run in record.all_runs for figure in run.all("model bytes")}
    exempt = {*_OF_RECORDS, *(log.name for log in record.logs)}
    exempt |= {name for name, size in record.listing.sizes.items() if size in models}
    while waiting:
        text = waiting.pop()
        parsed += len(text)
        if parsed > MOST_MODULE_BYTES:
            raise OverflowError(f"it imports more than {MOST_MODULE_BYTES:,} bytes of local modules")
        for found in sorted(_named_files(_parsed(text), record)):
            if found not in needed and found not in exempt and not _is_tokenizer(record, found):
                needed[found] = record.listing.sizes[found]
                content = record.read(found, MOST_SOURCE_BYTES) if found.endswith(".py") else None
                waiting += [content] if content is not None else []
    return dict(sorted(needed.items()))


def _named_files(tree: ast.Module, record: Record) -> set[str]:
    """Return the files of the folder that imports and literals name, at any depth: paths may be put together."""
    modules: set[str] = set()
    names: set[str] = set()
    patterns: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules.update(part for alias in node.names for part in alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            modules.update([*(node.module or "").split("."), *(alias.name for alias in node.names)])
        elif isinstance(node, ast.Call) and _decoder_name(node) in _IMPORTERS:
            literals = (each.value for each in node.args if isinstance(each, ast.Constant))
            modules.update(part for value in literals if isinstance(value, str) for part in value.split("."))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) <= _LONGEST_LITERAL:
            last = {word.rpartition("/")[2] for word in re.split(r"[\s,;]+", node.value)}
            patterns.update(word for word in last if "*" in word and re.search(r"\w", word))
            names |= last
    globs = sorted(patterns)[:_MOST_PATTERNS]
    return {name for name in record.listing.sizes if _is_named(PurePosixPath(name), modules, names, globs)}


def _is_named(path: PurePosixPath, modules: set[str], names: set[str], globs: Sequence[str]) -> bool:
    is_package = path.name == "__init__.py" and path.parent.name in modules
    is_module = path.suffix in (".py", ".pyc", ".so", ".pyd") and path.name.partition(".")[0] in modules
    is_matched = any(fnmatch.fnmatchcase(path.name, pattern) for pattern in globs)
    return is_package or is_module or path.name in names or is_matched


def _is_tokenizer(record: Record, name: str) -> bool:
    """Return whether a file is a tokenizer's, which the challenge does not count: a model that is no text, its list."""
    path = PurePosixPath(name)
    if path.suffix == ".vocab":
        return str(path.with_suffix(".model")) in record.listing.sizes
    return path.suffix == ".model" and record.is_binary(name)
