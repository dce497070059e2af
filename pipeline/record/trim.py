"""What a record needs no more once it is built: checks of its own recipe and of its own artifact.

The one idea: the recipe was checked when the record was built, and the artifact is the one whose digest the record
states, so `require`, functions that only require, asserts and guards of trusted input cannot fire. Kept are the errors
a judge can cause: missing or foreign data, a damaged tokenizer, a machine or number of processes that does not fit
(`require_always`, and every other exception), without the part of the message that says how to repair a checkout.

Checked by: tests/record/test_specialise.py.
"""

import ast
from typing import Any

from pipeline.record.effects import Effects
from pipeline.record.program_names import ProgramNames, last_name

_TRUSTED = ("ArtifactError", "HessianError", "BudgetError")
"""Exceptions that only the record's own artifact or calibration could raise."""


def trim(tree: ast.Module) -> ast.Module:
    """Return a program without its checks of what it carries inside or makes itself; changes `tree`."""
    checks = _Checks(tree)
    return ast.fix_missing_locations(_Trimmer(checks).visit(tree))


class _Checks:
    """The functions of a program that can only raise, and the statements that can."""

    def __init__(self, tree: ast.Module) -> None:
        names = ProgramNames(tree)
        self.is_quiet = Effects(tree, names).is_quiet
        self.names = {"require"} & set(names.functions)
        by_name: dict[str, list[ast.FunctionDef]] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                by_name.setdefault(node.name, []).append(node)
        shared = names.local_names | {"__init__"}
        while added := {
            name
            for name, nodes in by_name.items()
            if name not in self.names | shared and all(self._only_checks(node) for node in nodes)
        }:
            self.names |= added

    def _only_checks(self, node: ast.FunctionDef) -> bool:
        raises = any(isinstance(item, ast.Raise) or self.is_call(item) for item in ast.walk(node))
        return raises and not node.decorator_list and all(self.is_check(item) for item in node.body)

    def is_check(self, node: ast.stmt) -> bool:
        """Return whether a statement can do nothing but raise what a record never does."""
        if isinstance(node, ast.Expr):
            return isinstance(node.value, ast.Constant) or self.is_call(node.value)
        if isinstance(node, ast.If | ast.For):
            start = node.test if isinstance(node, ast.If) else node.iter
            return self.is_quiet(start) and all(self.is_check(item) for item in [*node.body, *node.orelse])
        if isinstance(node, ast.Assign):
            names = [item for target in node.targets for item in ast.walk(target) if isinstance(item, ast.expr)]
            return self.is_quiet(node.value) and all(isinstance(item, ast.Name | ast.Tuple) for item in names)
        if isinstance(node, ast.Return):
            return node.value is None
        return isinstance(node, ast.Assert | ast.Pass) or self.is_trusted(node)

    def is_call(self, node: ast.AST) -> bool:
        """Return whether an expression calls a check, with arguments that have no effect."""
        if not isinstance(node, ast.Call) or last_name(node.func) not in self.names:
            return False
        parts = [*node.args, *node.keywords]
        if isinstance(node.func, ast.Attribute):
            parts.append(node.func.value)
        return all(self.is_quiet(item) for item in parts)

    @staticmethod
    def is_trusted(node: ast.stmt) -> bool:
        """Return whether a statement raises what only the record's own artifact could cause."""
        raises = isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
        return raises and isinstance(node, ast.Raise) and last_name(node.exc.func) in _TRUSTED  # type: ignore


class _Trimmer(ast.NodeTransformer):
    def __init__(self, checks: _Checks) -> None:
        self.checks = checks

    def visit_Expr(self, node: ast.Expr) -> Any:
        return None if self.checks.is_check(node) else node

    def visit_Assert(self, node: ast.Assert) -> Any:
        return None if self.checks.is_quiet(node.test) else ast.Expr(node.test)

    def visit_If(self, node: ast.If) -> Any:
        guards = not node.orelse and all(self.checks.is_check(item) for item in node.body)
        if guards and self.checks.is_trusted(node.body[-1]):
            return None if self.checks.is_quiet(node.test) else ast.Expr(node.test)
        self._with_body(node)
        empty = not node.orelse and all(isinstance(item, ast.Pass) for item in node.body)
        return None if empty and self.checks.is_quiet(node.test) else node

    def visit_Try(self, node: ast.Try) -> Any:
        node.handlers = [item for item in node.handlers if not self.checks.is_trusted(item.body[-1])]
        if not node.handlers:
            node.body, node.orelse = node.body + node.orelse, []
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

    visit_FunctionDef = visit_ClassDef = visit_With = visit_While = visit_For = _with_body


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
