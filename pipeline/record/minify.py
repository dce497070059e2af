"""The smallest text of a program, and the smallest file that runs a text.

`minify` makes the source smaller: short names, no spaces. `wrap` makes the file smaller: the source compressed with
brotli inside a string literal; the text is registered with `linecache` before it is compiled, so that
`inspect.getsource` (Triton, torch.compile) and `traceback` see real lines.

Class and function names change; attributes and fields do not: state-dict keys survive. Neither literals nor builtins
become variables: that shortens the text but not the compressed text.

Source: linecache.cache entries (size, mtime, lines, name); an mtime of None is never checked against the disk.
Checked by: tests/record/test_minify.py.
"""

import ast
import builtins

import brotli
import python_minifier

_STUB = (
    "#coding:l1\nimport brotli,linecache as c;f=__file__;s=brotli.decompress(",
    ".encode('l1')).decode();c.cache[f]=0,None,s.splitlines(1),f;exec(compile(s,f,'exec'))\n",
)
_WINDOW_BITS = 18
"""Of brotli: more than any program needs; a larger one makes no file smaller."""


def minify(source: str) -> str:
    """Return a shorter source text that runs the same."""
    return python_minifier.minify(
        source,
        remove_literal_statements=True,
        rename_locals=True,
        rename_globals=True,
        hoist_literals=False,
        convert_posargs_to_args=False,
        preserve_globals=dir(builtins),
    )


def wrap(source: str) -> bytes:
    """Return the smallest file that runs `source`: the text itself, or compressed, proven to unwrap to it."""
    if source.splitlines() != source.split("\n")[: len(source.splitlines())]:
        raise ValueError("source: got line ends other than \\n, expected none: line numbers would shift")
    data = brotli.compress(source.encode(), mode=brotli.MODE_TEXT, quality=11, lgwin=_WINDOW_BITS)
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
