"""Short names for the attributes, methods and fields of a program's own classes.

A name is replaced everywhere or nowhere, and only when nothing but the program can mean it: no foreign object has an
attribute of that name, no module registers a tensor or part under it (the keys of a state dict), no call passes a
keyword and no string asks for an attribute of that name.

Checked by: tests/submission/test_specialise.py.
"""

import ast
import collections
import string

from pipeline.submission.flow import Flow
from pipeline.submission.program_names import Function, last_name
from pipeline.submission.prune import classes_used_whole

FOREIGN_NAMES = frozenset({
    "_generator", "_module", "_parts", "_root", "_subclasses", "add", "args", "attention", "average", "backward",
    "base", "block", "bos_id", "bytes", "classes", "close", "compile", "config", "count", "data", "decoder",
    "defaults", "device", "dim", "discard", "dtype", "embedding_dim", "empty", "encoder", "fields", "format",
    "forward", "grad", "group", "identity", "is_quantized", "items", "keys", "kind", "layout", "load_state_dict",
    "loads", "log", "memory", "name", "names", "number", "open", "owner", "package", "parallel", "parameters",
    "parent", "parts", "path", "quantization", "read", "readable", "reshape", "root", "save", "seed", "sha256",
    "shape", "size", "start", "state", "state_dict", "step", "stop", "stream", "stride", "take", "test", "trace",
    "train", "update", "values", "vocab_size", "weight", "windows", "write"
})  # fmt: skip
"""Names of our own attributes that objects of torch, numpy, sentencepiece or the standard library have as well."""


def shorten(tree: ast.Module, flow: Flow) -> ast.Module:
    """Return the program with short attribute names; `flow` is the analysis of exactly this tree."""
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    counts = collections.Counter(node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    renamed = [name for name in own_names(tree, flow) if len(name) > 1]
    letters = [a + b for a in ["", *string.ascii_lowercase] for b in string.ascii_letters]
    free = iter(sorted({name for name in letters if name not in used and name not in _WORDS}, key=_by_length))
    mapping = {name: next(free) for name in sorted(renamed, key=lambda name: (-counts[name], name))}
    return ast.fix_missing_locations(_Renamer(mapping).visit(tree))


_WORDS = {"as", "if", "in", "is", "or", "to", "at", "mT", "mH", "T", "H"}


def _by_length(name: str) -> tuple[int, str]:
    return len(name), name


def own_names(tree: ast.Module, flow: Flow) -> list[str]:
    """Return the attribute names that may be replaced, sorted."""
    whole = classes_used_whole(tree, flow)
    own: set[str] = set()
    taken: set[str] = set(FOREIGN_NAMES)
    for info in flow.names.classes.values():
        closed = flow.names.is_closed(info.name)
        methods = [name for name in info.methods if not name.startswith("__") and name not in ("forward", "backward")]
        own.update(methods)
        (taken if info.name in whole else own).update(info.fields)
        for function in info.methods.values():
            for node in ast.walk(function):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                    (own if closed else taken).add(node.attr)
        for item in info.node.body:
            if isinstance(item, ast.Assign):
                taken.update(last_name(target) for target in item.targets)
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg:
            taken.add(node.arg)
        elif isinstance(node, ast.Call) and last_name(node.func) in ("getattr", "hasattr", "setattr", "__setattr__"):
            taken.update(item.value for part in tree.body for item in ast.walk(part)
                         if isinstance(item, ast.Constant) and isinstance(item.value, str))  # fmt: skip
    return sorted(own - taken)


class _Renamer(ast.NodeTransformer):
    def __init__(self, mapping: dict[str, str]) -> None:
        self.mapping = mapping

    def visit_Attribute(self, node: ast.Attribute) -> ast.Attribute:
        self.generic_visit(node)
        node.attr = self.mapping.get(node.attr, node.attr)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        self.generic_visit(node)
        for item in node.body:
            if isinstance(item, Function):
                item.name = self.mapping.get(item.name, item.name)
            elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                item.target.id = self.mapping.get(item.target.id, item.target.id)
        return node
