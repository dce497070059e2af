"""The smallest text of a program, and the smallest file that runs a text.

`minify` makes the source smaller: no annotations, no docstrings, short names. `wrap` makes the file smaller: the source
compressed with brotli inside a string literal, in the cheapest of three forms; the text is registered with `linecache`
before it is compiled, so that `inspect.getsource` (Triton, torch.compile) and tracebacks see real lines.

Class and function names change, and parameters before a `/`, which goes afterwards; attributes and fields do not:
state-dict keys survive. Neither literals nor builtins become variables: that shortens the text but not the compressed
text.

Source: linecache.cache entries (size, mtime, lines, name); an mtime of None is never checked against the disk.
Checked by: tests/record/test_minify.py.
"""

import ast
import base64
import builtins

import brotli
import python_minifier

from pipeline.record.reachable import remove_unreachable

_FIELD_BASES = ("NamedTuple", "TypedDict")
_BASE85_STUB = (
    "import base64,brotli,linecache as c;f=__file__;s=brotli.decompress(base64.b85decode(",
    ")).decode();c.cache[f]=0,None,s.splitlines(1),f;exec(compile(s,f,'exec'))\n",
)
_LATIN1_STUB = (
    "#coding:l1\nimport brotli,linecache as c;f=__file__;s=brotli.decompress(",
    ".encode('l1')).decode();c.cache[f]=0,None,s.splitlines(1),f;exec(compile(s,f,'exec'))\n",
)
_BROTLI_WINDOWS = range(16, 25)


def minify(source: str) -> str:
    """Return a shorter source text that runs the same; annotations are gone except where fields are declared.

    What only annotations referred to is removed with them. Field annotations of dataclasses and named tuples, which
    declare the fields, become `int`.
    """
    bare = python_minifier.minify(source, **_OFF, remove_annotations=True)  # type: ignore[arg-type]
    tree = remove_unreachable(_FieldAnnotations().visit(ast.parse(bare)))
    text = ast.unparse(ast.fix_missing_locations(tree))
    short = python_minifier.minify(
        text,
        remove_literal_statements=True,
        rename_locals=True,
        rename_globals=True,
        hoist_literals=False,
        convert_posargs_to_args=False,
        preserve_globals=dir(builtins),
    )
    return _without_slashes(short)


def _without_slashes(source: str) -> str:
    """Return source without the `/` behind parameters, which allowed the minifier to rename them."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.arguments):
            node.args, node.posonlyargs = [*node.posonlyargs, *node.args], []
    return python_minifier.unparse(tree)


def wrapped_forms(source: str) -> dict[str, bytes]:
    """Return the files that run `source`: `plain`, `base85` (ASCII) and `latin1`, each proven to unwrap to it."""
    if source.splitlines() != source.split("\n")[: len(source.splitlines())]:
        raise ValueError("source: got line ends other than \\n, expected none: line numbers would shift")
    compressed = [_brotli(source.encode(), window) for window in _BROTLI_WINDOWS]
    forms = {
        "plain": source.encode(),
        "base85": min((_base85_file(data) for data in compressed), key=len),
        "latin1": min((_latin1_file(data) for data in compressed), key=len),
    }
    for name, content in forms.items():
        if unwrap(content) != source:
            raise RuntimeError(f"wrapped form {name} does not unwrap to its source")
    return forms


def wrap(source: str) -> bytes:
    """Return the smallest of `wrapped_forms(source)`."""
    return min(wrapped_forms(source).values(), key=len)


def is_wrapped(content: bytes) -> bool:
    """Return whether a file is in one of the compressed forms of `wrapped_forms`."""
    return content.startswith((_LATIN1_STUB[0].encode(), _BASE85_STUB[0].encode()))


def unwrap(content: bytes) -> str:
    """Return the source text that a file made by `wrap` runs, without running it."""
    if content.startswith(_LATIN1_STUB[0].encode()):
        literal = _between(content.decode("latin-1"), _LATIN1_STUB)
        return brotli.decompress(ast.literal_eval(literal).encode("latin-1")).decode()
    if content.startswith(_BASE85_STUB[0].encode()):
        literal = _between(content.decode("ascii"), _BASE85_STUB)
        return brotli.decompress(base64.b85decode(ast.literal_eval(literal))).decode()
    return content.decode()


_OFF = {
    "remove_pass": False,
    "combine_imports": False,
    "hoist_literals": False,
    "rename_locals": False,
    "rename_globals": False,
    "convert_posargs_to_args": False,
}


class _FieldAnnotations(ast.NodeTransformer):
    """Shorten annotations that declare fields; drop those without a value that declare nothing."""

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        self.generic_visit(node)
        declares = _declares_fields(node)
        body: list[ast.stmt] = []
        for statement in node.body:
            if isinstance(statement, ast.AnnAssign) and declares:
                if not _is_pseudo_field(statement.annotation):
                    statement.annotation = ast.Name("int", ast.Load())
            elif isinstance(statement, ast.AnnAssign) and statement.value is None:
                continue
            body.append(statement)
        node.body = body or [ast.Pass()]
        return node


def _declares_fields(node: ast.ClassDef) -> bool:
    decorators = {_last_name(item.func if isinstance(item, ast.Call) else item) for item in node.decorator_list}
    return "dataclass" in decorators or any(_last_name(base) in _FIELD_BASES for base in node.bases)


def _is_pseudo_field(annotation: ast.expr) -> bool:
    """Return whether dataclass reads meaning from the annotation: ClassVar, InitVar, KW_ONLY."""
    base = annotation.value if isinstance(annotation, ast.Subscript) else annotation
    return _last_name(base) in ("ClassVar", "InitVar", "KW_ONLY")


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _brotli(data: bytes, window: int) -> bytes:
    return brotli.compress(data, mode=brotli.MODE_TEXT, quality=11, lgwin=window)


def _base85_file(data: bytes) -> bytes:
    return (_BASE85_STUB[0] + "'" + base64.b85encode(data).decode() + "'" + _BASE85_STUB[1]).encode("ascii")


def _latin1_file(data: bytes) -> bytes:
    return (_LATIN1_STUB[0] + latin1_literal(data) + _LATIN1_STUB[1]).encode("latin-1")


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


def _between(text: str, stub: tuple[str, str]) -> str:
    if not text.endswith(stub[1]):
        raise ValueError("wrapped file: got an unknown end, expected the one that wrap writes")
    return text[len(stub[0]) : -len(stub[1])]
