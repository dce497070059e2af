"""From the readable text of a program to the bytes of train_gpt.py: what is not needed goes, the rest gets small.

`without_unused` leaves what the recipe uses, `minify` makes names short, `wrap` compresses the source into a string
literal; the text is registered with `linecache` before it is compiled, so that `inspect.getsource` (Triton,
torch.compile) and `traceback` see real lines.

Class and function names change; attributes and fields do not: state-dict keys survive. Neither literals nor builtins
become variables: that shortens the text but not the compressed text.

Source: linecache.cache entries (size, mtime, lines, name); an mtime of None is never checked against the disk.
Checked by: tests/record/test_ship.py, tests/record/test_wrap.py, tests/stages/test_audit.py.
"""

import ast
import builtins

import brotli
import python_minifier

from pipeline.record.fixed import fix_attributes
from pipeline.record.reachable import filled, remove_unreachable, remove_unread
from pipeline.record.settle import settle
from pipeline.record.trim import Bare, without_checks

_STUB = (
    "#coding:l1\nimport brotli,linecache as c;f=__file__;s=brotli.decompress(",
    ".encode('l1')).decode();c.cache[f]=0,None,s.splitlines(1),f;exec(compile(s,f,'exec'))\n",
)


def shipped_program(source: str, readable: bool) -> bytes:
    """Return the bytes of train_gpt.py: the smallest file, or the source itself when `readable`."""
    return source.encode() if readable else wrap(minify(without_unused(source)))


def without_unused(source: str) -> str:
    """Return the text of a program without what its record does not need."""
    tree = remove_unreachable(without_checks(ast.parse(source)))
    tree = remove_unreachable(settle(remove_unreachable(fix_attributes(settle(tree)))))
    tree = Bare().visit(tree)
    for _ in range(2):  # what only an unread method reads is unread
        tree = remove_unread(remove_unreachable(tree))
    return ast.unparse(filled(remove_unreachable(tree)))


def minify(source: str) -> str:
    """Return a shorter source text that runs the same."""
    return python_minifier.minify(
        source,
        remove_literal_statements=True,
        rename_globals=True,
        hoist_literals=False,
        preserve_globals=dir(builtins),
    )


def wrap(source: str) -> bytes:
    """Return the smallest file that runs `source`: the text itself, or compressed, proven to unwrap to it."""
    if source.splitlines() != source.split("\n")[: len(source.splitlines())]:
        raise ValueError("source: got line ends other than \\n, expected none: line numbers would shift")
    # A window of 256 KiB holds any program: a larger one makes no file smaller.
    data = brotli.compress(source.encode(), mode=brotli.MODE_TEXT, quality=11, lgwin=18)
    content = latin1_literal(data).join(_STUB).encode("latin-1")
    if unwrap(content) != source:
        raise RuntimeError("the wrapped form does not unwrap to its source")
    return min(content, source.encode(), key=len)


def is_wrapped(content: bytes) -> bool:
    """Return whether a file is in the compressed form of `wrap`."""
    return content.startswith(_STUB[0].encode())


def unwrap(content: bytes) -> str:
    """Return the source text that a file made by `wrap` runs, without running it."""
    if not is_wrapped(content):
        return content.decode()
    text = content.decode("latin-1")
    if not text.endswith(_STUB[1]):
        raise ValueError("wrapped file: got an unknown end, expected the one that wrap writes")
    literal = text.removeprefix(_STUB[0]).removesuffix(_STUB[1])
    return brotli.decompress(ast.literal_eval(literal).encode("latin-1")).decode()


def latin1_literal(data: bytes) -> str:
    """Return the shortest one-line string literal whose latin-1 encoding is `data`.

    Only NUL, CR, LF, backslash and the rarer of the two quotes need an escape.
    """
    quote = "'" if data.count(b"'") <= data.count(b'"') else '"'
    escapes = {0: "\\0", 10: "\\n", 13: "\\r", 92: "\\\\", ord(quote): "\\" + quote}
    parts = []
    for index, byte in enumerate(data):
        before_digit = byte == 0 and data[index + 1 : index + 2].isdigit()
        parts.append("\\x00" if before_digit else escapes.get(byte, chr(byte)))
    return quote + "".join(parts) + quote
