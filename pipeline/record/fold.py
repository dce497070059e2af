"""What a fixed recipe leaves of a program: branches that cannot run go, expressions with one value become that value.

Checked by: tests/record/test_specialise.py.
"""

import ast
from typing import Any

from pipeline.record.effects import Effects
from pipeline.record.flow import Flow
from pipeline.record.lattice import Const, Instance, Items, Known, Reference, plain_values, single
from pipeline.record.program_names import Function, own_nodes

_SHORT = 16
_YIELDS = ast.Yield | ast.YieldFrom
_PLAIN = ("NoneType", "bool", "int", "float", "str")


def fold(tree: ast.Module, flow: Flow) -> ast.Module:
    """Return the program with what its own constants decide decided; `flow` is the analysis of this tree."""
    return ast.fix_missing_locations(_Folder(tree, flow).visit(tree))


class _Folder(ast.NodeTransformer):
    def __init__(self, tree: ast.Module, flow: Flow) -> None:
        self.flow = flow
        self.is_quiet = Effects(tree, flow.names, flow.known).is_quiet

    def generic_visit(self, node: ast.AST) -> ast.AST:
        was_full = {name for name, body in ast.iter_fields(node) if isinstance(body, list) and body}
        super().generic_visit(node)
        if "body" in was_full and not node.body and not isinstance(node, ast.Module):  # type: ignore[attr-defined]
            node.body = [ast.Pass()]  # type: ignore[attr-defined]
        return node

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, ast.stmt) and not self._runs(node):
            return None
        if isinstance(node, ast.expr) and (literal := self._literal(node)) is not None:
            return literal
        return super().visit(node)

    def _runs(self, node: ast.stmt) -> bool:
        if isinstance(node, Function):
            return node in self.flow.ran
        if isinstance(node, ast.ClassDef | ast.AnnAssign | ast.Import | ast.ImportFrom | ast.Pass | ast.Nonlocal):
            return True
        return node in self.flow.reached

    def _literal(self, node: ast.expr) -> ast.expr | None:
        if not isinstance(getattr(node, "ctx", None) or ast.Load(), ast.Load) or isinstance(node, ast.Constant):
            return None
        known = self.flow.known.get(node)
        found = single(known) if known else None
        if not known or not self.is_quiet(node):
            return None
        if found is None and isinstance(node, ast.Name | ast.Attribute):
            return self._function(known) or self._short_tuple(known)
        if found is None or found.kind not in _PLAIN:
            return None
        if found.kind == "float" and found.text in ("inf", "nan", "-inf"):
            return None
        longer = isinstance(node, ast.BinOp | ast.Call | ast.UnaryOp) or found.kind == "str"
        if longer and len(found.text) > len(ast.unparse(node)):
            return None
        return _constant(found.value)

    def _function(self, known: Known | None) -> ast.expr | None:
        (atom,) = known if known and len(known) == 1 else (None,)
        named = isinstance(atom, Reference) and atom.name not in self.flow.names.local_names
        return ast.Name(atom.name, ast.Load()) if named and isinstance(atom, Reference) else None

    def visit_FormattedValue(self, node: ast.FormattedValue) -> ast.expr:
        node.value = self.visit(node.value)  # a format stays as it is
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.expr:
        self.generic_visit(node)
        parts: list[ast.expr] = []
        for part in node.values:
            plain = isinstance(part, ast.FormattedValue) and part.conversion == -1 and part.format_spec is None
            if plain and isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.Constant):
                part = ast.Constant(str(part.value.value))
            if parts and isinstance(part, ast.Constant) and isinstance(parts[-1], ast.Constant):
                part = ast.Constant(parts.pop().value + part.value)  # type: ignore[attr-defined]
            parts.append(part)
        return parts[0] if len(parts) == 1 and isinstance(parts[0], ast.Constant) else ast.JoinedStr(parts)

    def _short_tuple(self, known: Known | None) -> ast.expr | None:
        values = plain_values(known) if known else None
        if not values or len(values) > 1 or not isinstance(values[0], tuple) or len(repr(values[0])) > _SHORT:
            return None
        return ast.parse(repr(values[0]), mode="eval").body

    def _truth(self, node: ast.expr) -> bool | None:
        possible = self.flow.test(node)
        (only,) = possible if len(possible) == 1 else (None,)
        return only

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        generated = any(isinstance(item, _YIELDS) for item in own_nodes(node))
        self.generic_visit(node)
        if generated and not any(isinstance(item, _YIELDS) for item in own_nodes(node)):
            node.body.append(ast.Expr(ast.YieldFrom(ast.Tuple([], ast.Load()))))  # it still gives a generator
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> Any:
        kept = [self.visit(item) if isinstance(item, Function) else item for item in node.body]
        node.body = [item for item in kept if item is not None] or [ast.Pass()]
        return node

    def visit_If(self, node: ast.If) -> Any:
        only = self._truth(node.test)
        if only is None or not self.is_quiet(node.test):
            return self.generic_visit(node)
        kept = [self.visit(item) for item in (node.body if only else node.orelse)]
        return [item for part in kept for item in (part if isinstance(part, list) else [part]) if item is not None]

    def visit_While(self, node: ast.While) -> Any:
        return None if self._truth(node.test) is False and self.is_quiet(node.test) else self.generic_visit(node)

    def visit_For(self, node: ast.For) -> Any:
        known = self.flow.known.get(node.iter)
        empty = bool(known) and all(isinstance(atom, Items) and not atom.values for atom in known or ())
        return None if empty and self.is_quiet(node.iter) else self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> Any:
        only = self._truth(node.test)
        if only is None or not self.is_quiet(node.test):
            return self.generic_visit(node)
        return self.visit(node.body if only else node.orelse)

    def visit_BoolOp(self, node: ast.BoolOp) -> Any:
        stops = isinstance(node.op, ast.Or)
        kept: list[ast.expr] = []
        for item in node.values:
            only = self._truth(item)
            if only is (not stops) and self.is_quiet(item) and item is not node.values[-1]:
                continue
            kept.append(self.visit(item))
            if only is stops:
                break
        return kept[0] if len(kept) == 1 else ast.BoolOp(node.op, kept)

    def visit_Call(self, node: ast.Call) -> Any:
        if self.flow.names.meaning(node.func) == "dataclasses.asdict":
            literal = self._plain(self.flow.known.get(node.args[0], frozenset()))
            if literal is not None:
                return literal
        self.generic_visit(node)
        bare = self.flow.names.meaning(node.func) == "dataclasses.replace" and len(node.args) == 1 and not node.keywords
        return node.args[0] if bare else node

    def visit_Assign(self, node: ast.Assign) -> Any:
        self.generic_visit(node)
        same = [target.id for target in node.targets if isinstance(target, ast.Name)] == [getattr(node.value, "id", "")]
        return None if same else node

    def _plain(self, known: Known) -> ast.expr | None:
        """Return the literal that `asdict` gives for a config whose values are all known."""
        (atom,) = known if len(known) == 1 else (None,)
        if isinstance(atom, Const):
            return _constant(atom.value)
        if isinstance(atom, Items):
            parts = [self._plain(value) for value in atom.values]
            found = [part for part in parts if part is not None]
            if len(found) < len(parts):
                return None
            if atom.keys is not None:
                return _dict(list(atom.keys), found)
            return None if atom.is_view else ast.Tuple(found, ast.Load())
        if not isinstance(atom, Instance) or atom.site is None:
            return None
        names = [name for info in reversed(self.flow.names.line(atom.class_name)) for name in info.fields]
        values = [self._plain(self.flow.field(atom, name)) for name in names]
        given = [value for value in values if value is not None]
        return _dict(names, given) if len(given) == len(names) else None


def _constant(value: Any) -> ast.expr:
    # A negative constant is a sign and a number, which binds less tightly than a power.
    if isinstance(value, int | float) and not isinstance(value, bool) and str(value).startswith("-"):
        return ast.UnaryOp(ast.USub(), ast.Constant(-value))
    return ast.Constant(value)


def _dict(keys: list[str], values: list[ast.expr]) -> ast.Dict:
    return ast.Dict([ast.Constant(key) for key in keys], values)
