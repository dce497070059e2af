"""Which expressions of a program do nothing but give a value, so that an unused one can go.

Checked by: tests/submission/test_specialise.py.
"""

import ast

_QUIET_CALLS = {"isinstance", "len", "getattr", "hasattr", "int", "float", "bool", "tuple", "list", "dict", "set",
                "range", "min", "max", "sum", "sorted", "abs", "str", "cast", "zip", "enumerate", "id",
                "replace", "Path"}  # fmt: skip
_QUIET_METHODS = {"mean", "item", "numel", "format", "join", "index", "items", "keys", "values", "get"}
_QUIET_NODES = (
    ast.Name, ast.Attribute, ast.Constant, ast.Compare, ast.BoolOp, ast.UnaryOp, ast.BinOp, ast.Tuple, ast.List,
    ast.Subscript, ast.IfExp, ast.Slice, ast.Dict, ast.Set, ast.expr_context, ast.operator, ast.cmpop, ast.boolop,
    ast.unaryop, ast.keyword, ast.Lambda, ast.JoinedStr, ast.FormattedValue, ast.Starred, ast.GeneratorExp,
    ast.ListComp,
    ast.SetComp, ast.DictComp, ast.comprehension,
)  # fmt: skip


def is_quiet(node: ast.AST, quiet_names: frozenset[str] = frozenset()) -> bool:
    """Return whether evaluating `node` changes nothing; failing does not count, as the program is proven to run.

    `quiet_names`: functions and classes of the program whose calls are quiet.
    """
    if isinstance(node, ast.Lambda):
        return True
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute) and node.func.attr in _QUIET_METHODS:
            return all(is_quiet(item, quiet_names) for item in [node.func.value, *node.args, *node.keywords])
        known = isinstance(node.func, ast.Name) and (node.func.id in _QUIET_CALLS or node.func.id in quiet_names)
        return known and all(is_quiet(item, quiet_names) for item in [*node.args, *node.keywords])
    return isinstance(node, _QUIET_NODES) and all(is_quiet(item, quiet_names) for item in ast.iter_child_nodes(node))
