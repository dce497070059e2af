"""What the expressions of a program give, but for calls.

Checked by: tests/record/test_specialise.py.
"""

import ast
from abc import abstractmethod

from pipeline.record.flow_objects import Objects
from pipeline.record.lattice import (
    ANY,
    NOTHING,
    OPERATORS,
    Const,
    Instance,
    Items,
    Known,
    Reference,
    compute,
    constant,
    join,
    truths,
)
from pipeline.record.scopes import Scope


class Expressions(Objects):
    """How expressions use the memory; `tables` are the nodes of dicts that nobody changes."""

    tables: dict[ast.AST, str]

    @abstractmethod
    def _children(self, node: ast.AST, scope: Scope) -> None:
        """Run the parts of a node of which nothing more is known."""

    @abstractmethod
    def _assign(self, target: ast.expr, value: Known, scope: Scope) -> None:
        """Let a value reach a target."""

    def truth(self, known: Known) -> set[bool]:
        """Return the truth values possible."""
        return truths(known, self.names.falsy_classes)

    def test(self, node: ast.expr) -> set[bool]:
        """Return the truth values that a condition can have, from what its parts were found to be."""
        if isinstance(node, ast.BoolOp):
            stops = isinstance(node.op, ast.Or)
            parts = [self.test(item) for item in node.values if item in self.known]
            if {stops} in parts:
                return {stops}
            return set().union(*parts) if parts else set()
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return {not possible for possible in self.test(node.operand)}
        return self.truth(self.known.get(node, NOTHING))

    def _condition(self, node: ast.expr, scope: Scope) -> set[bool]:
        self._value(node, scope)
        return self.test(node)

    def _value(self, node: ast.expr, scope: Scope) -> Known:
        method = getattr(self, f"_value_{type(node).__name__.lower()}", None)
        if method is None:
            self._children(node, scope)
            value = ANY
        else:
            value = method(node, scope)
        return self._grow(self.known, node, value)

    def _value_constant(self, node: ast.Constant, scope: Scope) -> Known:
        return constant(node.value) if isinstance(node.value, None | bool | int | float | str) else ANY

    def _value_name(self, node: ast.Name, scope: Scope) -> Known:
        owner = scope.owner(node.id)
        if owner is None:
            return ANY
        if owner is self._module and isinstance(node.ctx, ast.Load):
            if node.id in self.names.functions:
                self._enter_freely(self.names.functions[node.id])
                return frozenset({Reference(node.id)})
            if node.id in self.names.classes:
                self._construct(node.id, None, scope)
                self._allow_hooks(Instance(node.id))
                return ANY
        return owner.known.get(node.id, NOTHING)

    def _names_class(self, node: ast.expr, scope: Scope) -> bool:
        named = isinstance(node, ast.Name) and node.id in self.names.classes
        return named and isinstance(node, ast.Name) and scope.owner(node.id) is self._module

    def _value_attribute(self, node: ast.Attribute, scope: Scope) -> Known:
        if self._names_class(node.value, scope):
            assert isinstance(node.value, ast.Name)
            info = self.names.classes[node.value.id]
            found = self.names.method(info.name, node.attr)
            if found:
                self._enter_freely(found[1], info.name)
                return ANY
            self._allow_hooks(Instance(info.name))  # such as apply of an autograd function
            return self.field(Instance(info.name), node.attr)
        return self._attribute(self._value(node.value, scope), node.attr, scope)

    def _value_tuple(self, node: ast.Tuple, scope: Scope) -> Known:
        values = [self._value(item, scope) for item in node.elts]
        if any(isinstance(item, ast.Starred) for item in node.elts):
            return ANY
        return join(frozenset({Items(tuple(values))}))

    def _value_dict(self, node: ast.Dict, scope: Scope) -> Known:
        values = [self._value(item, scope) for item in node.values]
        keys = [self._value(key, scope) for key in node.keys if key is not None]
        if node not in self.tables or not all(isinstance(key, ast.Constant) for key in node.keys):
            return ANY
        names = tuple(key.value for key in node.keys if isinstance(key, ast.Constant))
        return frozenset({Items(tuple(values), names)}) if len(keys) == len(names) else ANY

    def _value_subscript(self, node: ast.Subscript, scope: Scope) -> Known:
        holder, index = self._value(node.value, scope), self._value(node.slice, scope)
        if isinstance(node.slice, ast.Slice):
            return NOTHING if holder == NOTHING else ANY
        parts = []
        for atom in holder:
            indices = [key.value for key in index if isinstance(key, Const)] if index != ANY else None
            if not isinstance(atom, Items) or (indices is not None and len(indices) < len(index)):
                return ANY
            size = len(atom.values)
            keys = list(atom.keys) if atom.keys is not None else [*range(size), *range(-size, 0)]
            wanted = keys if indices is None else [key for key in indices if key in keys]
            parts += [atom.values[keys.index(key) % size] for key in wanted]
        return join(*parts)

    def _value_ifexp(self, node: ast.IfExp, scope: Scope) -> Known:
        possible = self._condition(node.test, scope)
        parts = [self._value(node.body, scope)] if True in possible else []
        parts += [self._value(node.orelse, scope)] if False in possible else []
        return join(*parts)

    def _value_boolop(self, node: ast.BoolOp, scope: Scope) -> Known:
        stops = isinstance(node.op, ast.Or)
        parts = []
        for item in node.values:
            value = self._value(item, scope)
            possible = self.truth(value)
            last = item is node.values[-1]
            parts.append(value if last else frozenset(atom for atom in value if stops in self.truth(frozenset({atom}))))
            if (not stops) not in possible:
                break
        return join(*parts)

    def _value_unaryop(self, node: ast.UnaryOp, scope: Scope) -> Known:
        value = self._value(node.operand, scope)
        if isinstance(node.op, ast.Not):
            return join(*(constant(not possible) for possible in self.truth(value)))
        return compute(OPERATORS[type(node.op)], value)

    def _value_binop(self, node: ast.BinOp, scope: Scope) -> Known:
        left, right = self._value(node.left, scope), self._value(node.right, scope)
        return compute(OPERATORS[type(node.op)], left, right) if type(node.op) in OPERATORS else ANY

    def _value_compare(self, node: ast.Compare, scope: Scope) -> Known:
        values = [self._value(item, scope) for item in [node.left, *node.comparators]]
        results = [_compared(kind, *pair) for kind, *pair in zip(node.ops, values, values[1:], strict=False)]
        if len(results) == 1:
            return results[0]
        return join(*(constant(all(choice)) for choice in _choices([self.truth(result) for result in results])))

    def _value_namedexpr(self, node: ast.NamedExpr, scope: Scope) -> Known:
        value = self._value(node.value, scope)
        self._assign(node.target, value, scope)
        return value

    def _value_starred(self, node: ast.Starred, scope: Scope) -> Known:
        self._value(node.value, scope)
        return ANY

    def _value_lambda(self, node: ast.Lambda, scope: Scope) -> Known:
        self._enter_freely(node, scope.class_name, None, scope)
        return ANY

    def _comprehension(self, node: ast.expr, scope: Scope) -> Known:
        if node not in self._scopes:
            names = {
                item.id
                for generator in node.generators
                for item in ast.walk(generator.target)  # type: ignore
                if isinstance(item, ast.Name)
            }
            self._scopes[node] = Scope(scope.node, scope, names, scope.class_name)
        inner = self._scopes[node]
        for index, generator in enumerate(node.generators):  # type: ignore[attr-defined]
            item = self._element(self._value(generator.iter, inner if index else scope))
            if item == NOTHING:
                return ANY
            self._assign(generator.target, item, inner)
            for test in generator.ifs:
                if True not in self._condition(test, inner):
                    return ANY
        parts = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]  # type: ignore[attr-defined]
        for part in parts:
            self._value(part, inner)
        return ANY

    _value_listcomp = _value_setcomp = _value_dictcomp = _value_generatorexp = _comprehension

    @staticmethod
    def _element(value: Known) -> Known:
        """Return what iterating gives; nothing when there is nothing to iterate over."""
        parts: list[Known] = []
        for atom in value:
            if isinstance(atom, Items) and atom.keys is None:
                parts += atom.values
            elif isinstance(atom, Items):
                parts += [constant(key) for key in atom.keys or ()]
            else:
                parts.append(ANY)
        return join(*parts)


def _compared(kind: ast.cmpop, left: Known, right: Known) -> Known:
    if not left or not right:
        return NOTHING
    if isinstance(kind, ast.Is | ast.IsNot):
        results = set()
        for first in left:
            for second in right:
                fixed = [
                    atom for atom in (first, second) if isinstance(atom, Const) and atom.kind in ("NoneType", "bool")
                ]
                if not fixed or ANY in (frozenset({first}), frozenset({second})):
                    return ANY
                results.add((first == second) == isinstance(kind, ast.Is))
        return join(*(constant(result) for result in results))
    if isinstance(kind, ast.In | ast.NotIn) and all(isinstance(atom, Items) and atom.keys for atom in right):
        keys = frozenset(
            {Items(tuple(constant(key) for key in atom.keys or ())) for atom in right if isinstance(atom, Items)}
        )
        return compute(OPERATORS[type(kind)], left, keys)
    return compute(OPERATORS[type(kind)], left, right)


def _choices(sets: list[set[bool]]) -> list[list[bool]]:
    found: list[list[bool]] = [[]]
    for possible in sets:
        found = [[*choice, value] for choice in found for value in sorted(possible)]
    return found
