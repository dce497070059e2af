"""What a recipe decides of its program is decided: settings become constants, branches that no setting takes go.

The one idea: the last statement of a program hands `main` its recipe, so every object of a configuration class is
known. What is annotated with such a class holds one of its objects; a name that is assigned once holds what it is
assigned. An expression that is the same plain value for all of them is that value. Nothing is followed through calls:
what a name holds is read off the annotations and the function it is in.

Rests on annotations that are true (mypy), on configuration objects that nobody makes or changes elsewhere (classes that
the program itself calls and fields that it replaces are left alone), and on conditions that only give values.

Source: constant folding and removal of dead branches, as in any compiler.
Checked by: tests/record/test_settle.py, tests/record/test_ship.py.
"""

import ast
import builtins
import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, NamedTuple

from pipeline.record.reachable import bound_names, defined_names, replacing_calls

Names = dict[str, list[Any]]
"""Name -> all values that it can have, plain ones and `Thing`s; what is not in it is not known."""
_UNKNOWN = (LookupError, ValueError, TypeError)  # what looking for values raises where the recipe does not say


class Thing(NamedTuple):
    """An object of a recipe, with those of its fields that nobody replaces."""

    kind: str
    fields: Names


def settle(tree: ast.Module) -> ast.Module:
    """Return a program, which ends with the call that hands it its recipe, without what that recipe decides."""
    return _Settler(tree).visit(tree)


class _Settler(ast.NodeTransformer):
    def __init__(self, tree: ast.Module) -> None:
        body, call = tree.body[:-1], tree.body[-1]
        self.classes = {node.name: node for node in body if isinstance(node, ast.ClassDef)}
        self.unions = {defined_names(node)[0]: union for node in body if (union := _union(node))}
        self.made, self.once = set(_names_used(body)), Counter(bound_names(tree))
        functions = [node for node in body if isinstance(node, ast.FunctionDef)]
        self.functions = {node.name: node for node in functions if self.once[node.name] == 1}
        self.bound = {*self.once, *dir(builtins)}
        self.changed = {keyword.arg for call in replacing_calls(ast.walk(tree)) for keyword in call.keywords}
        self.settings: dict[str, list[Thing]] = {}
        for argument in getattr(getattr(call, "value", None), "args", ()):
            self._setting(argument)
        self.settings = {kind: things for kind, things in self.settings.items() if kind not in self.made}
        self.names: Names = {}

    def _setting(self, node: ast.expr) -> Any:
        """Return the value of a part of the recipe; its objects are noted by class."""
        match node:
            case ast.Call(func=ast.Name(id=kind)):
                values = {str(keyword.arg): [self._setting(keyword.value)] for keyword in node.keywords}
                thing = Thing(kind, {name: values[name] for name in values if not {name, None} & self.changed})
                self.settings.setdefault(kind, []).append(thing)
                return thing
            case ast.Dict():
                return Thing("", {"values": [self._setting(value) for value in node.values]})
            case ast.Tuple():
                return tuple(self._setting(part) for part in node.elts)
        return ast.literal_eval(node)

    def of_annotation(self, node: ast.expr | None) -> list[Any]:
        """Return all values that what is annotated so can have."""
        match node:
            case ast.Constant(value=value):
                return [None] if value is None else self.of_annotation(_expression(str(value)))
            case ast.BinOp():
                return self.of_annotation(node.left) + self.of_annotation(node.right)
        name = _name(node)
        if name in self.unions:
            return self.of_annotation(self.unions[name])
        if self.is_never_made(name):
            return []
        return self.settings[name]

    def is_never_made(self, name: str) -> bool:
        """Return whether no object of a type exists: of a class that is only asked for, or is not even there."""
        if name in self.classes:
            is_form = {"Protocol", "TypedDict"} & set(map(_name, self.classes[name].bases))
            return name not in self.made and name not in self.settings and not is_form
        return name != "" and name not in self.bound

    def values(self, node: ast.expr) -> list[Any]:
        """Return all values that what is assigned can have: also what a call gives, which is still made."""
        match node:
            case ast.Call(func=ast.Name(id=name)):
                return self.of_annotation(self.functions[name].returns)
            case ast.Call(func=ast.Attribute(value=owner, attr=attr)):
                (method,) = {self._item(each.kind, attr) for each in self.known(owner) if isinstance(each, Thing)}
                return self.of_annotation(getattr(method, "returns", None))
        return self.known(node)

    def known(self, node: ast.expr) -> list[Any]:
        """Return all values that an expression can have; one of `_UNKNOWN` is raised where that is not known."""
        match node:
            case ast.Constant() | ast.Tuple():
                return [ast.literal_eval(node)]
            case ast.Name():
                return self.names[node.id]
            case ast.Attribute():
                things = [each for each in self.known(node.value) if isinstance(each, Thing)]  # None has no attributes
                found = [value for each in things for value in self._field(each, node.attr)]
                return list({repr(value) if _is_plain(value) else id(value): value for value in found}.values())
        raise LookupError("a call may do something besides, an operator is left to the run")

    def _field(self, thing: Thing, attr: str) -> list[Any]:
        """Return an attribute's values; none where there is no such attribute, so that another object must be meant."""
        is_missing = self._item(thing.kind, attr) is None and not self.classes[thing.kind].bases
        return [] if is_missing else thing.fields[attr]

    def _item(self, kind: str, name: str) -> ast.stmt | None:
        """Return the statement of a class that defines a name."""
        return next((item for item in self.classes[kind].body if name in defined_names(item)), None)

    def visit(self, node: ast.AST) -> Any:
        """Write an expression as its only value, if that is plain, after all that is inside of it."""
        node = super().visit(node)
        if isinstance(node, ast.expr) and isinstance(getattr(node, "ctx", None) or ast.Load(), ast.Load):
            with contextlib.suppress(*_UNKNOWN):
                values = self._outcomes(node)
                if len(values) == 1 and _is_plain(values[0]) and not isinstance(node, ast.Constant):
                    return _expression(repr(values[0]))
        return node

    def _outcomes(self, node: ast.expr) -> list[Any]:
        """Return the values of an expression whose parts are written as far as they are known."""
        match node:
            case ast.Call(func=ast.Name(id="isinstance"), args=[value, kinds]):
                wanted = {_name(each) for each in _alternatives(kinds)}
                if wanted <= {"float", "tuple"}:
                    return [type(ast.literal_eval(value)).__name__ in wanted]
                if all(map(self.is_never_made, wanted)) and not any(
                    isinstance(each, ast.Call) for each in ast.walk(value)
                ):
                    return [False]
                if not wanted <= self.classes.keys() - self.made:
                    raise LookupError("classes above those of settings, or others")
                return list({isinstance(each, Thing) and each.kind in wanted for each in self.known(value)})
            case ast.Compare(ops=[ast.Is() | ast.IsNot() as op], comparators=[ast.Constant(value=None)]):
                return list({(each is None) == isinstance(op, ast.Is) for each in self.known(node.left)})
            case ast.Compare() | ast.UnaryOp():
                for part in ast.iter_child_nodes(node):
                    if isinstance(part, ast.expr):
                        ast.literal_eval(part)
                return [eval(compile(ast.Expression(node), "<constants>", "eval"), {})]
        return self.known(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        outer = self.names  # what a class gives its objects is no name of the module
        self.names = {**outer, "self": self.settings.get(node.name, [])}
        self.generic_visit(node)
        self.names = outer
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        outer = self.names, self.once
        self.once = Counter(bound_names(node))
        self.names = dict(self.names)  # what an inner function binds again is bound twice in this one
        for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]:
            if argument.annotation and self.once[argument.arg] == 1:
                _note(self.names, argument.arg, self.of_annotation, argument.annotation)
        was_generator, node.body = _yields(node), self._block(node.body)
        self.names, self.once = outer
        if was_generator and not _yields(node):  # else it would be another kind of function
            node.body += ast.parse("if 0:\n    yield").body
        return node

    def visit_FormattedValue(self, node: ast.FormattedValue) -> ast.AST:
        return node  # a text inside of a text would need other quotes

    def visit_Assign(self, node: ast.Assign | ast.AnnAssign) -> ast.AST:
        node.value = node.value and self.visit(node.value)
        for target, value in _assignments(node):
            if isinstance(target, ast.Name) and self.once[target.id] == 1:  # assigned nowhere else
                _note(self.names, target.id, self.values, value)
        return node

    visit_AnnAssign = visit_Assign

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        node.test = self.visit(node.test)
        truth = _truth(node.test)
        return self.generic_visit(node) if truth is None else self.visit(node.body if truth else node.orelse)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        decided = isinstance(node.op, ast.Or)
        *first, last = node.values
        kept = [each for each in first if _truth(each) in (None, decided)]
        cut = next((number for number, each in enumerate(kept) if _truth(each) is decided), None)
        node.values = [*kept, last] if cut is None else kept[: cut + 1]
        return node if len(node.values) > 1 else node.values[0]

    def visit_If(self, node: ast.If) -> Any:
        node.test = self.visit(node.test)
        truth = _truth(node.test)
        if truth is not None:
            return self._block(node.body if truth else node.orelse)
        node.body, node.orelse = self._block(node.body), self._block(node.orelse)
        return node

    def visit_For(self, node: ast.For) -> Any:
        self.generic_visit(node)
        return node.orelse if ast.unparse(node.iter) in ("range(0)", "()") else node

    def _block(self, body: list[ast.stmt]) -> list[ast.stmt]:
        """Return the statements of a block up to the first after which none runs."""
        kept: list[ast.stmt] = []
        for statement in body:
            done = self.visit(statement)
            kept += done if isinstance(done, list) else [done]
            if kept and isinstance(kept[-1], ast.Return | ast.Raise | ast.Continue | ast.Break):
                break
        return kept


def _note(names: Names, name: str, find: Callable[[Any], list[Any]], node: ast.expr | None) -> None:
    """Note the values that `find` finds, if it can."""
    names.pop(name, None)
    with contextlib.suppress(*_UNKNOWN):
        names[name] = find(node)


@cache
def _expression(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def _truth(node: ast.expr) -> bool | None:
    """Return whether a condition holds, None when that is not known; one known part may decide it."""
    if isinstance(node, ast.BoolOp):
        decided = isinstance(node.op, ast.Or)
        return decided if any(_truth(each) is decided for each in node.values) else None
    return bool(node.value) if isinstance(node, ast.Constant) else None


def _assignments(node: ast.Assign | ast.AnnAssign) -> Iterable[tuple[ast.expr, ast.expr]]:
    """Return (target, value) of an assignment, pairs of tuples taken apart."""
    match node:
        case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)):
            return zip(targets, values, strict=False)
        case ast.Assign(targets=[target], value=value) | ast.AnnAssign(target=target, value=ast.expr() as value):
            return [(target, value)]
    return []


def _names_used(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Yield the names that make something: not in annotations, in unions of types or as what isinstance asks for."""
    pending = list(nodes)
    while pending:
        node = pending.pop()
        yield _name(node)
        if not _union(node):
            types = [getattr(node, "annotation", None), getattr(node, "returns", None)]
            types += node.args[1:] if isinstance(node, ast.Call) and _name(node.func) == "isinstance" else []
            pending += [child for child in ast.iter_child_nodes(node) if child not in types]


def _alternatives(kinds: ast.expr) -> list[ast.expr]:
    """Return the classes of `A`, `A | B` or `(A, B)`."""
    if isinstance(kinds, ast.BinOp):
        return _alternatives(kinds.left) + _alternatives(kinds.right)
    return kinds.elts if isinstance(kinds, ast.Tuple) else [kinds]


def _union(node: ast.AST) -> ast.expr | None:
    """Return the union of types that a statement gives a name."""
    match node:
        case ast.Assign(targets=[ast.Name()], value=ast.BinOp() as value) if all(map(_name, _alternatives(value))):
            return value
    return None


def _name(node: ast.AST | None) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _is_plain(value: Any) -> bool:
    return not isinstance(value, Thing) and (not isinstance(value, tuple) or all(map(_is_plain, value)))


def _yields(function: ast.FunctionDef) -> bool:
    """Return whether a function itself gives values one by one."""
    pending: list[ast.AST] = [*function.body]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Yield | ast.YieldFrom):
            return True
        pending += [] if isinstance(node, ast.FunctionDef | ast.Lambda) else ast.iter_child_nodes(node)
    return False
