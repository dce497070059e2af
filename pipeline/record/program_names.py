"""The functions, classes and annotations of a flattened program, looked up by name.

Checked by: tests/record/test_specialise.py.
"""

import ast
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from pipeline.record.foreign import PROTOCOL_METHODS, foreign

Function = ast.FunctionDef | ast.AsyncFunctionDef
_TRANSPARENT = {"property", "cached_property", "staticmethod", "no_grad", "inference_mode"}
"""Decorators after which a call still returns what the function returns."""
_TUPLE_NAMES = frozenset(dir(tuple))


class Field(NamedTuple):
    """A declared field of a dataclass or named tuple, or an attribute that a class body annotates."""

    name: str
    annotation: ast.expr
    default: ast.expr | None


class ClassInfo:
    """One class of the program."""

    def __init__(self, node: ast.ClassDef) -> None:
        self.node = node
        self.name = node.name
        self.bases = [last_name(base) for base in node.bases]
        self.methods = {item.name: item for item in node.body if isinstance(item, Function)}
        self.fields = {
            item.target.id: Field(item.target.id, item.annotation, item.value)
            for item in node.body
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
        }
        decorators = [decorator_name(item) for item in node.decorator_list]
        self.is_dataclass = "dataclass" in decorators
        self.is_frozen = self.is_dataclass and "frozen=True" in ast.unparse(node.decorator_list[0])
        self.is_tuple = "NamedTuple" in self.bases
        self.declares_fields = self.is_dataclass or self.is_tuple
        self.is_structural = "Protocol" in self.bases or "TypedDict" in self.bases


class ProgramNames:
    """What the top level of a program defines."""

    def __init__(self, tree: ast.Module) -> None:
        self.functions = {node.name: node for node in tree.body if isinstance(node, Function)}
        self.classes = {node.name: ClassInfo(node) for node in tree.body if isinstance(node, ast.ClassDef)}
        self.aliases = {
            target.id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        self.imports = {
            alias.asname or alias.name.partition(".")[0]: _meaning_of_import(node, alias)
            for node in tree.body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        """What each imported name means, as a dotted path."""
        self.local_names = local_names(tree)
        self._inherited: dict[str, frozenset[str]] = {}
        self._lines: dict[str, list[ClassInfo]] = {}
        self._subclasses: dict[str, list[str]] = {}
        self.having: dict[str, list[str]] = {}
        for name in sorted(self.classes):
            for method in sorted({method for info in self.line(name) for method in info.methods}):
                self.having.setdefault(method, []).append(name)
        sized = {"__bool__", "__len__"}
        self.falsy_classes = [
            name
            for name, info in self.classes.items()
            if sized & self.inherited(name) and not (info.is_tuple and info.fields)
        ]

    def line(self, name: str) -> list[ClassInfo]:
        """Return the program's classes among a class and its ancestors, in the order of attribute lookup."""
        if name not in self._lines:
            info = self.classes.get(name)
            above = [ancestor for base in info.bases for ancestor in self.line(base)] if info else []
            self._lines[name] = [info, *dict.fromkeys(above)] if info else []
        return self._lines[name]

    def subclasses(self, name: str) -> list[str]:
        """Return a class and those derived from it, sorted."""
        if name not in self._subclasses:
            found = (other for other in self.classes if any(info.name == name for info in self.line(other)))
            self._subclasses[name] = sorted(found)
        return self._subclasses[name]

    def is_closed(self, name: str) -> bool:
        """Return whether all ancestors of a class are the program's own, so that nothing else adds attributes."""
        known = {*self.classes, "NamedTuple", "object"}
        return all(base in known for info in self.line(name) for base in info.bases)

    def meaning(self, node: ast.expr) -> str:
        """Return the dotted path that a name or attribute refers to outside of the program, or ''."""
        if isinstance(node, ast.Attribute):
            whole = self.meaning(node.value)
            return whole and f"{whole}.{node.attr}"
        return self.imports.get(node.id, node.id) if isinstance(node, ast.Name) else ""

    def is_open(self, name: str, method: str) -> bool:
        """Return whether foreign code that holds an object of a class may call a method without being given it."""
        return method.startswith("__") or method in PROTOCOL_METHODS or method in self.inherited(name)

    def inherited(self, name: str) -> frozenset[str]:
        """Return the attributes that the foreign ancestors of a class define, in their classes or on `self`."""
        if name not in self._inherited:
            self._inherited[name] = frozenset(self._find_inherited(name))
        return self._inherited[name]

    def _find_inherited(self, name: str) -> set[str]:
        found: set[str] = set()
        for info in self.line(name):
            for base in info.node.bases:
                if info.is_tuple:
                    found |= _TUPLE_NAMES
                elif last_name(base) not in self.classes and not info.is_structural:
                    found |= foreign(self.meaning(base)).attributes
        return found

    def method(self, name: str, method: str) -> tuple[ClassInfo, Function] | None:
        """Return the method an object of class `name` has under a name, and the class that defines it."""
        for info in self.line(name):
            if method in info.methods:
                return info, info.methods[method]
        return None

    def declared_classes(self, annotation: ast.expr | None) -> list[str] | None:
        """Return the classes, with `None` for null, that an annotation allows; None where it allows others."""
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            return self.declared_classes(ast.parse(annotation.value, mode="eval").body)
        if isinstance(annotation, ast.Constant) and annotation.value is None:
            return ["None"]
        if isinstance(annotation, ast.BinOp):
            left, right = self.declared_classes(annotation.left), self.declared_classes(annotation.right)
            return None if left is None or right is None else left + right
        if isinstance(annotation, ast.Name):
            info = self.classes.get(annotation.id)
            if info is not None:
                return None if info.is_structural else [info.name]
            return self.declared_classes(self.aliases.get(annotation.id))
        return None


def _meaning_of_import(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> str:
    if isinstance(node, ast.ImportFrom):
        return f"{node.module}.{alias.name}"
    return alias.name if alias.asname else alias.name.partition(".")[0]


def last_name(node: ast.expr) -> str:
    """Return the last part of a dotted name, or ''."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def decorator_name(node: ast.expr) -> str:
    """Return the last part of a decorator's name, called or not."""
    return last_name(called(node))


def called(node: ast.expr) -> ast.expr:
    """Return what a decorator calls, or the decorator itself."""
    return node.func if isinstance(node, ast.Call) else node


@cache
def is_property(function: Function) -> bool:
    """Return whether a method is read like a field."""
    return any(decorator_name(item) in ("property", "cached_property") for item in function.decorator_list)


@cache
def is_static(function: Function) -> bool:
    """Return whether a method takes no object."""
    return any(decorator_name(item) == "staticmethod" for item in function.decorator_list)


@cache
def is_transparent(function: Function) -> bool:
    """Return whether a call returns exactly what the body returns."""
    plain = all(decorator_name(item) in _TRANSPARENT for item in function.decorator_list)
    return plain and not generates(function)


@cache
def generates(function: Function) -> bool:
    """Return whether a call only makes a generator."""
    return any(isinstance(node, ast.Yield | ast.YieldFrom) for node in own_nodes(function))


def own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a function's body that run as part of it, not of functions defined inside."""
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, Function | ast.Lambda | ast.ClassDef):
            yield child
            yield from own_nodes(child)


@cache
def parameters(arguments: ast.arguments) -> list[ast.arg]:
    """Return the named parameters in order: positional, then keyword-only."""
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]


@cache
def defaults(arguments: ast.arguments) -> dict[str, ast.expr]:
    """Return the default expression of each parameter that has one."""
    positional = [*arguments.posonlyargs, *arguments.args]
    found = dict(
        zip(
            [item.arg for item in positional[len(positional) - len(arguments.defaults) :]],
            arguments.defaults,
            strict=True,
        )
    )
    for item, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if default is not None:
            found[item.arg] = default
    return found


def local_names(tree: ast.Module) -> set[str]:
    """Return the names that some function binds, which may hide the program's own."""
    found = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    found |= {node.name for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.name}
    for statement in tree.body:
        if isinstance(statement, Function | ast.ClassDef):
            fields = {node.target for node in getattr(statement, "body", []) if isinstance(node, ast.AnnAssign)}
            found |= {
                node.id
                for node in ast.walk(statement)
                if isinstance(node, ast.Name)
                and isinstance(node.ctx, ast.Store)
                and not (isinstance(statement, ast.ClassDef) and node in fields)
            }
            inner = (node for node in ast.walk(statement) if isinstance(node, Function) and node is not statement)
            methods = statement.body if isinstance(statement, ast.ClassDef) else []
            found |= {node.name for node in inner if node not in methods}
    return found
