"""What a record needs no more once it is built: checks of its own recipe and of its own artifact.

The one idea: the recipe was checked when the record was built, and the artifact is the one whose digest the record
states, so `require`, functions that only require, asserts and guards of trusted input cannot fire. Kept are the errors
a judge can cause: missing or foreign data, a damaged tokenizer, a machine or number of processes that does not fit
(`demand`, and every other exception), without the part of the message that says how to repair a checkout.

Checked by: tests/submission/test_specialise.py.
"""

import ast
from typing import Any

from pipeline.submission.effects import is_quiet
from pipeline.submission.program_names import Function, last_name

_TRUSTED = ("ArtifactError", "HessianError", "BudgetError")
"""Exceptions that only the record's own artifact or calibration could raise."""


def trim(tree: ast.Module) -> ast.Module:
    """Return a program without its checks of what it carries inside or makes itself; changes `tree`."""
    checks = {"require"}
    while True:
        found = _checking_functions(tree, checks)
        if found <= checks:
            break
        checks |= found
    return ast.fix_missing_locations(_Trimmer(checks).visit(tree))


def _checking_functions(tree: ast.Module, checks: set[str]) -> set[str]:
    """Return the names under which every function or method does nothing but check."""
    verdicts: dict[str, bool] = {}
    for node in ast.walk(tree):
        if isinstance(node, Function):
            only_checks = (
                bool(node.body)
                and all(_is_check(item, checks) for item in node.body)
                and any(
                    isinstance(item, ast.Call | ast.Raise) for statement in node.body for item in ast.walk(statement)
                )
            )
            verdicts[node.name] = verdicts.get(node.name, True) and only_checks
    return {name for name, only_checks in verdicts.items() if only_checks}


def _is_check(node: ast.stmt, checks: set[str]) -> bool:
    """Return whether a statement can only raise; what it binds must be of use to checks alone."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) or _is_check_call(node.value, checks)
    if isinstance(node, ast.If | ast.For):
        return all(_is_check(item, checks) for item in [*node.body, *node.orelse])
    if isinstance(node, ast.Assign):
        names = [item for target in node.targets for item in ast.walk(target) if isinstance(item, ast.expr)]
        return all(isinstance(item, ast.Name | ast.Tuple) for item in names)
    return (
        isinstance(node, ast.Assert | ast.Pass)
        or _is_trusted_raise(node)
        or (isinstance(node, ast.Return) and node.value is None)
    )


def _is_check_call(node: ast.expr, checks: set[str]) -> bool:
    return isinstance(node, ast.Call) and last_name(node.func) in checks


def _is_trusted_raise(node: ast.stmt) -> bool:
    if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call):
        return False
    return last_name(node.exc.func) in _TRUSTED


class _Trimmer(ast.NodeTransformer):
    def __init__(self, checks: set[str]) -> None:
        self.checks = checks

    def visit_Expr(self, node: ast.Expr) -> Any:
        useless = isinstance(node.value, ast.Constant) or _is_check_call(node.value, self.checks)
        return None if useless else self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> None:
        return None

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        return None if node.name in self.checks else self._with_body(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> Any:
        return self._with_body(node)

    def visit_If(self, node: ast.If) -> Any:
        guards = not node.orelse and all(_is_check(item, self.checks) for item in node.body)
        if guards and _is_trusted_raise(node.body[-1]):
            return None
        return self._with_body(node)

    def visit_For(self, node: ast.For) -> Any:
        self._with_body(node)
        return None if isinstance(node.body[0], ast.Pass) and is_quiet(node.iter) else node

    def visit_Try(self, node: ast.Try) -> Any:
        node.handlers = [item for item in node.handlers if not _is_trusted_raise(item.body[-1])]
        self._with_body(node)
        return node if node.handlers or node.finalbody else node.body

    def visit_Call(self, node: ast.Call) -> Any:
        self.generic_visit(node)
        unread = {"zip": ("strict",), "add_argument": ("help", "metavar"), "ArgumentParser": ("description",)}
        dropped = unread.get(last_name(node.func), ())
        node.keywords = [keyword for keyword in node.keywords if keyword.arg not in dropped]
        return node

    def visit_Raise(self, node: ast.Raise) -> Any:
        node.cause = None
        if isinstance(node.exc, ast.Call):
            node.exc.args = [_without_remedy(item) for item in node.exc.args]
        return node

    def _with_body(self, node: Any) -> Any:
        self.generic_visit(node)
        node.body = node.body or [ast.Pass()]
        return node


def _without_remedy(message: ast.expr) -> ast.expr:
    """Return a message up to its first semicolon: what follows says how to go on in a checkout."""
    if isinstance(message, ast.Constant) and isinstance(message.value, str):
        return ast.Constant(message.value.partition(";")[0])
    if isinstance(message, ast.JoinedStr):
        kept: list[ast.expr] = []
        for part in message.values:
            text = part.value if isinstance(part, ast.Constant) else ""
            head, semicolon, _ = str(text).partition(";")
            kept.append(ast.Constant(head) if isinstance(part, ast.Constant) else part)
            if semicolon:
                break
        return ast.JoinedStr(kept)
    return message
