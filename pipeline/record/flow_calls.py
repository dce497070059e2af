"""What the calls of a program give, and what reaches the functions that they call.

Checked by: tests/record/test_specialise.py.
"""

import ast
from collections.abc import Callable

from pipeline.record.flow_expressions import Expressions
from pipeline.record.flow_objects import ANY_NAME
from pipeline.record.foreign import foreign
from pipeline.record.lattice import (
    ANY,
    FOREIGN,
    NOTHING,
    Atom,
    Const,
    Foreign,
    Instance,
    Items,
    Known,
    Reference,
    as_view,
    compute,
    constant,
    join,
    plain_values,
    single,
)
from pipeline.record.program_names import Function, is_property, last_name, parameters
from pipeline.record.scopes import Scope

_RETURN_SELF = ("eval", "to", "cpu", "train", "float", "double", "requires_grad_")
"""Methods of torch modules that return the module."""
_REGISTER = ("register_buffer", "register_parameter", "register_module", "add_module")
"""Methods of torch modules that set the attribute which their first argument names."""
_PURE: dict[str, Callable] = {
    "len": len,
    "int": int,
    "float": float,
    "bool": bool,
    "min": min,
    "max": max,
    "sum": sum,
    "tuple": tuple,
    "sorted": sorted,
    "abs": abs,
    "str": str,
}


class Calls(Expressions):
    """How calls use the memory."""

    def _value_call(self, node: ast.Call, scope: Scope) -> Known:
        function = node.func
        if isinstance(function, ast.Attribute):
            return self._call_attribute(node, function, scope)
        if not isinstance(function, ast.Name):
            self._value(function, scope)
            self._arguments(node, scope)
            return ANY
        owner = scope.owner(function.id)
        if owner is self._module and function.id in self.names.functions:
            target = self.names.functions[function.id]
            return self._enter(target, self._bind(target, node, scope, []))
        if owner is self._module and function.id in self.names.classes:
            return self._construct(function.id, node, scope)
        if owner is None:
            return self._call_foreign(node, scope)
        value = self._value(function, scope)
        self._arguments(node, scope)
        return self._call_value(value, node, scope)

    def _call_value(self, value: Known, node: ast.Call, scope: Scope) -> Known:
        """Call an object: its own `__call__` and `forward` are already open to anybody."""
        parts = [] if value else [ANY]
        for atom in value:
            if isinstance(atom, Reference):
                function = self.names.functions[atom.name]
                parts.append(self._enter(function, self._bind(function, node, scope, [])))
                continue
            parts.append(ANY)
            if isinstance(atom, Instance):
                self._call_method(atom, "__call__", node, scope)
                self._call_method(atom, "forward", node, scope)
        return join(*parts)

    def _call_attribute(self, node: ast.Call, function: ast.Attribute, scope: Scope) -> Known:
        if isinstance(function.value, ast.Call) and last_name(function.value.func) == "super":
            return self._call_super(node, function.attr, scope)
        if self._names_class(function.value, scope):
            self._value(function, scope)
            self._arguments(node, scope)
            return ANY
        if isinstance(function.value, ast.Name) and scope.owner(function.value.id) is None:
            return self._call_foreign(node, scope)
        receiver = self._value(function.value, scope)
        if function.attr in _REGISTER:
            name = node.args[0] if node.args else None
            known = isinstance(name, ast.Constant)
            self._store_attribute(receiver, str(name.value) if known else ANY_NAME, ANY)  # type: ignore[union-attr]
        parts: list[Known] = []
        for atom in sorted(receiver, key=repr):
            if isinstance(atom, Instance):
                found = self.names.method(atom.class_name, function.attr)
                if found and not is_property(found[1]):
                    parts.append(self._call_method(atom, function.attr, node, scope) or NOTHING)
                elif function.attr in _RETURN_SELF and "named_modules" in self.names.inherited(atom.class_name):
                    self._arguments(node, scope)
                    parts.append(frozenset({atom}))
                else:
                    self._arguments(node, scope)
                    held = self._attribute(frozenset({atom}), function.attr, scope)
                    self._grow(self.known, function, held)
                    parts.append(self._call_value(held, node, scope))
            elif isinstance(atom, Items):
                self._arguments(node, scope)
                parts.append(_items_method(atom, function.attr))
            elif isinstance(atom, Const) and atom.value is None:
                continue  # it raises
            elif isinstance(atom, Foreign):
                self._arguments(node, scope)
                parts.append(ANY)
            else:
                self._arguments(node, scope)
                for class_name in self._having(function.attr):
                    self._call_method(Instance(class_name), function.attr, node, scope)
                parts.append(ANY)
        return join(*parts)

    def _call_super(self, node: ast.Call, method: str, scope: Scope) -> Known:
        owner: Scope | None = scope
        while owner is not None and not isinstance(owner.node, Function):
            owner = owner.parent
        assert owner is not None
        assert owner.class_name is not None
        assert isinstance(owner.node, Function)
        own = owner.known.get(parameters(owner.node.args)[0].arg, NOTHING)
        for info in self.names.line(owner.class_name)[1:]:
            if method in info.methods:
                function = info.methods[method]
                return self._enter(function, self._bind(function, node, scope, [own]), info.name)
        self._arguments(node, scope)
        return ANY

    def _call_foreign(self, node: ast.Call, scope: Scope) -> Known:
        """Call a builtin or a function of an imported module."""
        name = self.names.meaning(node.func)
        if name == "isinstance":
            return self._isinstance(self._value(node.args[0], scope), node.args[1])
        if name in ("getattr", "hasattr"):
            return self._getattr(node, name, scope)
        values = self._arguments(node, scope)
        if name == "typing.cast":
            return self.refined(values[1], node.args[0])
        if name == "dataclasses.replace":
            return self._replace(values[0], node, scope)
        if name in ("copy.copy", "copy.deepcopy"):
            return values[0]
        if name == "object.__setattr__":
            known = single(values[1])
            self._store_attribute(values[0], str(known.value) if known else ANY_NAME, ANY)
        if name == "range" and len(values) <= 3:
            return as_view(compute(lambda *bounds: tuple(range(*bounds)), *values))
        if name in _PURE and not node.keywords and not any(isinstance(item, ast.Starred) for item in node.args):
            if name in ("tuple", "len") and len(values) == 1 and all(isinstance(atom, Items) for atom in values[0]):
                return join(*(_items_builtin(name, atom) for atom in values[0] if isinstance(atom, Items)))
            return compute(_PURE[name], *values)
        last = name.rpartition(".")[2]
        is_class = "." in name and last[0].isupper() and foreign(name).is_class
        return FOREIGN if is_class else ANY

    def _isinstance(self, value: Known, kinds: ast.expr) -> Known:
        wanted: list[str] = []
        for kind in kinds.elts if isinstance(kinds, ast.Tuple) else [kinds]:
            classes = self.names.declared_classes(kind)
            if classes is None:
                return NOTHING if value == NOTHING else ANY
            wanted += [sub for name in classes for sub in self.names.subclasses(name)]
        if not set(wanted) & self.constructed:
            return constant(False) if value else NOTHING
        results = []
        for atom in value:
            if isinstance(atom, Instance):
                results.append(constant(atom.class_name in wanted))
            else:
                results.append(constant(False) if atom not in ANY else join(constant(True), constant(False)))
        return join(*results)

    def _getattr(self, node: ast.Call, name: str, scope: Scope) -> Known:
        receiver = self._value(node.args[0], scope)
        default = self._value(node.args[2], scope) if len(node.args) > 2 else NOTHING
        attributes = plain_values(self._value(node.args[1], scope))
        if attributes is None:
            raise ValueError(f"specialise: `{ast.unparse(node)}`: names an attribute that is only known at run time")
        if set(attributes) & set(self.tables.values()):
            raise ValueError(f"specialise: `{ast.unparse(node)}`: reads a table by a name in a string")
        self.asked_by_string.update(attributes)
        parts: list[Known] = []
        for attribute in attributes:
            for atom in receiver:
                parts.append(self._getattr_of(atom, attribute, name == "hasattr", default, scope))
        return join(*parts)

    def _getattr_of(self, atom: Atom, attribute: str, only_asks: bool, default: Known, scope: Scope) -> Known:
        if isinstance(atom, Const) and atom.value is None:
            return constant(False) if only_asks else default
        if only_asks and isinstance(atom, Instance) and self._surely_has(atom.class_name, attribute):
            return constant(True)
        value = self._attribute(frozenset({atom}), attribute, scope)
        self.read_by_string.update(() if only_asks else [attribute])
        if isinstance(atom, Instance) and self._surely_has(atom.class_name, attribute):
            return value
        if isinstance(atom, Instance) and self.names.is_closed(atom.class_name) and value == NOTHING:
            return constant(False) if only_asks else default
        return ANY if only_asks else join(value, default)

    def _surely_has(self, class_name: str, attribute: str) -> bool:
        """Return whether objects of a class have a method, field or class attribute of a name at any time."""
        declares = any(info.declares_fields and attribute in info.fields for info in self.names.line(class_name))
        return declares or self.names.method(class_name, attribute) is not None

    def _replace(self, value: Known, node: ast.Call, scope: Scope) -> Known:
        parts: list[Known] = []
        for atom in value:
            if not isinstance(atom, Instance):
                raise ValueError(f"specialise: `{ast.unparse(node)}`: replaces fields of an object of an unknown class")
            for keyword in node.keywords:
                assert keyword.arg is not None
                self._store_field(Instance(atom.class_name), keyword.arg, self._value(keyword.value, scope))
            parts.append(frozenset({Instance(atom.class_name)}))
            if self.names.method(atom.class_name, "__post_init__"):
                self._call_method(Instance(atom.class_name), "__post_init__", None, scope)
        return join(*parts)


def _items_method(atom: Items, method: str) -> Known:
    if method == "items" and atom.keys is not None:
        pairs = zip(atom.keys, atom.values, strict=True)
        return as_view(join(frozenset({Items(tuple(frozenset({Items((constant(k), value))}) for k, value in pairs))})))
    return ANY


def _items_builtin(name: str, atom: Items) -> Known:
    if name == "len":
        return constant(len(atom.values))
    return frozenset({Items(atom.values)}) if atom.keys is None else ANY
