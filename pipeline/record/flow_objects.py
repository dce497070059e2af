"""The memory of a `Flow`: what functions, variables and objects of a program hold, and how values reach them.

Checked by: tests/record/test_specialise.py.
"""

import ast
from abc import ABC, abstractmethod
from collections.abc import Mapping

from pipeline.record.lattice import ANY, NOTHING, Const, Foreign, Instance, Known, constant, join
from pipeline.record.program_names import (
    Function,
    ProgramNames,
    defaults,
    is_property,
    is_static,
    is_transparent,
    parameters,
)
from pipeline.record.scopes import Scope, assigned

ANY_NAME = "*"
"""Stands for an attribute whose name was not known where it was set."""
Scoped = Function | ast.Lambda


class Objects(ABC):
    """Functions, variables and objects; subclasses say how expressions and statements use them."""

    def __init__(self, tree: ast.Module) -> None:
        self.names = ProgramNames(tree)
        self.known: dict[ast.AST, Known] = {}
        """What each expression that can run gives; absent when nothing reaches it."""
        self.ran: set[ast.AST] = set()
        """Functions and lambdas that can be called."""
        self.read_by_string: set[str] = set()
        self.asked_by_string: set[str] = set()
        """Attributes that the program tests for or reads by a string."""
        self.constructed: set[str] = set()
        """Classes of which there can be objects."""
        self._fields: dict[tuple[str | int, str], Known] = {}
        self._returns: dict[ast.AST, Known] = {}
        self._scopes: dict[ast.AST, Scope] = {}
        self._visited: set[ast.AST] = set()
        self._running: set[ast.AST] = set()
        self._changed = True
        self._module = Scope(tree, None, assigned(tree) | {*self.names.functions, *self.names.classes}, None)

    @abstractmethod
    def _value(self, node: ast.expr, scope: Scope) -> Known:
        """Return what an expression gives."""

    @abstractmethod
    def _block(self, body: list[ast.stmt], scope: Scope) -> bool:
        """Run statements; return whether control never reaches their end."""

    def _arguments(self, call: ast.Call, scope: Scope) -> list[Known]:
        values = [self._value(item, scope) for item in call.args]
        return values + [self._value(keyword.value, scope) for keyword in call.keywords]

    def _grow(self, table: dict, key: object, value: Known) -> Known:
        old = table.get(key, NOTHING)
        new = join(old, value)
        if new != old:
            table[key] = new
            self._changed = True
        return new

    def _set(self, name: str, value: Known, scope: Scope) -> None:
        owner = scope.owner(name)
        if owner is not None:
            self._grow(owner.known, name, value)

    def refined(self, value: Known, annotation: ast.expr | None) -> Known:
        """Return `value`, or where it could be anything, what its annotation allows."""
        if value != ANY or (classes := self.names.declared_classes(annotation)) is None:
            return value
        allowed = [constant(None)] if "None" in classes else []
        for name in classes:
            made = [sub for sub in self.names.subclasses(name) if sub in self.constructed]
            allowed.append(frozenset(Instance(sub) for sub in made))
        return join(*allowed)

    # -- functions ---------------------------------------------------------------------------------------------------

    def _scope(self, node: Scoped, parent: Scope | None, class_name: str | None) -> Scope:
        if node not in self._scopes:
            extra = [item for item in (node.args.vararg, node.args.kwarg) if item is not None]
            names = assigned(node) | {item.arg for item in [*parameters(node.args), *extra]}
            self._scopes[node] = Scope(node, parent or self._module, names, class_name)
        return self._scopes[node]

    def _enter(
        self, node: Scoped, given: Mapping[str, Known], class_name: str | None = None, parent: Scope | None = None
    ) -> Known:
        """Let arguments reach a function; a parameter that is not given takes its default. Return what it returns."""
        scope = self._scope(node, parent, class_name)
        default_of = defaults(node.args)
        outer = scope.parent or self._module
        for default in default_of.values():
            self._value(default, outer)
        for item in parameters(node.args):
            value = given.get(item.arg)
            if value is None:
                value = self._value(default_of[item.arg], outer) if item.arg in default_of else ANY
            self._grow(scope.known, item.arg, self.refined(value, item.annotation))
        for rest in (node.args.vararg, node.args.kwarg):
            if rest is not None:
                self._grow(scope.known, rest.arg, ANY)
        if node not in self.ran:
            self.ran.add(node)
            self._changed = True
        if node not in self._visited and node not in self._running:
            self._run(node)
        if isinstance(node, ast.Lambda) or not is_transparent(node):
            return ANY
        return self.refined(self._returns.get(node, NOTHING), node.returns)

    def _run(self, node: ast.AST) -> None:
        self._visited.add(node)
        self._running.add(node)
        assert isinstance(node, Scoped)
        scope = self._scopes[node]
        if isinstance(node, ast.Lambda):
            self._value(node.body, scope)
        elif not self._block(node.body, scope):
            self._grow(self._returns, node, constant(None))
        self._running.discard(node)

    def _enter_freely(
        self, node: Scoped, class_name: str | None = None, self_value: Known | None = None, parent: Scope | None = None
    ) -> None:
        """Let foreign code call a function: every argument could be anything its annotation allows."""
        given = {item.arg: ANY for item in parameters(node.args)}
        if self_value is not None and (first := parameters(node.args)):
            given[first[0].arg] = self_value
        self._enter(node, given, class_name, parent)

    def _bind(self, node: Scoped, call: ast.Call | None, scope: Scope, leading: list[Known]) -> dict[str, Known]:
        """Return the parameters that a call gives, its arguments evaluated; a starred one could reach any of them."""
        names = [item.arg for item in [*node.args.posonlyargs, *node.args.args]]
        given = dict(zip(names, leading, strict=False))
        if call is None:
            return given
        starred = any(isinstance(item, ast.Starred) for item in call.args) or any(not k.arg for k in call.keywords)
        for index, argument in enumerate(call.args, len(leading)):
            value = self._value(argument, scope)
            if index < len(names):
                given[names[index]] = value
        for keyword in call.keywords:
            value = self._value(keyword.value, scope)
            if keyword.arg:
                given[keyword.arg] = value
        if starred:
            given |= {item.arg: ANY for item in parameters(node.args)[len(leading) :]}
        return given

    def _call_method(self, receiver: Instance, method: str, call: ast.Call | None, scope: Scope) -> Known | None:
        found = self.names.method(receiver.class_name, method)
        if found is None:
            return None
        info, function = found
        leading: list[Known] = [] if is_static(function) else [frozenset({receiver})]
        return self._enter(function, self._bind(function, call, scope, leading), info.name)

    # -- objects -----------------------------------------------------------------------------------------------------

    def _construct(self, name: str, call: ast.Call | None, scope: Scope) -> Known:
        """Return the object that calling a class makes; without a call, whatever foreign code may make of it."""
        info = self.names.classes[name]
        made = Instance(name)
        if info.is_frozen and call is not None:
            made = Instance(name, id(call))
        if name not in self.constructed:
            self.constructed.add(name)
            self._changed = True
        declaring = [item for item in self.names.line(name) if item.declares_fields]
        if declaring:
            self._construct_fields(made, declaring, call, scope)
        elif (found := self.names.method(name, "__init__")) is not None:
            if call is None:
                self._enter_freely(found[1], found[0].name, frozenset({made}))
            else:
                self._call_method(made, "__init__", call, scope)
        elif call is not None:
            self._arguments(call, scope)
        if declaring and self.names.method(name, "__post_init__"):
            self._call_method(made, "__post_init__", None, scope)
        self._allow_hooks(made)
        return frozenset({made})

    def _allow_hooks(self, made: Instance) -> None:
        for info in self.names.line(made.class_name):
            for method, function in info.methods.items():
                called_here = method in ("__init__", "__post_init__")
                if self.names.is_open(made.class_name, method) and not called_here:
                    self._enter_freely(function, info.name, None if is_static(function) else frozenset({made}))

    def _construct_fields(self, made: Instance, line: list, call: ast.Call | None, scope: Scope) -> None:
        fields = [field for info in reversed(line) for field in info.fields.values()]
        given: dict[str, Known] = {}
        if call is None or any(isinstance(item, ast.Starred) for item in call.args):
            given = {field.name: ANY for field in fields}
        if call is not None:
            for index, argument in enumerate(call.args):
                value = self._value(argument.value if isinstance(argument, ast.Starred) else argument, scope)
                if index < len(fields) and fields[index].name not in given:
                    given[fields[index].name] = value
            for keyword in call.keywords:
                value = self._value(keyword.value, scope)
                given |= {keyword.arg: value} if keyword.arg else {field.name: ANY for field in fields}
        for field in fields:
            known = given.get(field.name)
            if known is None:
                known = NOTHING if field.default is None else self._value(field.default, self._module)
            self._store_field(made, field.name, self.refined(known, field.annotation))

    def _store_attribute(self, receiver: Known, name: str, value: Known) -> None:
        """Let a value reach an attribute; where the object is not known, of every class."""
        for atom in receiver:
            if isinstance(atom, Instance):
                self._store_field(atom, name, value)
            elif not isinstance(atom, Foreign):
                for class_name in self.constructed:
                    self._store_field(Instance(class_name), name, ANY)

    def _store_field(self, receiver: Instance, name: str, value: Known) -> None:
        self._grow(self._fields, (receiver.class_name, name), value)
        if receiver.site is not None:
            self._grow(self._fields, (receiver.site, name), value)

    def field(self, receiver: Instance, name: str) -> Known:
        """Return what a stored attribute of an object can be."""
        if not self.names.is_closed(receiver.class_name) and name in self.names.inherited(receiver.class_name):
            return ANY
        line = self.names.line(receiver.class_name)
        own = (receiver.class_name if receiver.site is None else receiver.site, name)
        below = [] if receiver.site is not None else [(sub, name) for sub in self.names.subclasses(receiver.class_name)]
        found = [self._fields[key] for key in [own, *below] if key in self._fields]
        for info in line:
            for item in info.node.body:
                if isinstance(item, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in item.targets):
                    found.append(self._value(item.value, self._module))
        if (receiver.class_name, ANY_NAME) in self._fields:
            return ANY
        if not found:
            return NOTHING if self.names.is_closed(receiver.class_name) else ANY
        annotation = next((info.fields[name].annotation for info in line if name in info.fields), None)
        return self.refined(join(*found), annotation)

    def _attribute(self, receiver: Known, name: str, scope: Scope) -> Known:
        """Return what reading an attribute gives; a method that is read may be called by anybody."""
        parts: list[Known] = []
        for atom in sorted(receiver, key=repr):
            if isinstance(atom, Instance):
                found = self.names.method(atom.class_name, name)
                if found and is_property(found[1]):
                    parts.append(self._call_method(atom, name, None, scope) or NOTHING)
                elif found:
                    self._enter_freely(found[1], found[0].name, None if is_static(found[1]) else frozenset({atom}))
                    parts.append(ANY)
                else:
                    parts.append(self.field(atom, name))
            elif isinstance(atom, Const) and atom.value is None:
                continue  # it raises
            elif isinstance(atom, Foreign):
                parts.append(ANY)
            else:
                self._attribute_of_anything(name)
                parts.append(ANY)
        return join(*parts)

    def _attribute_of_anything(self, name: str) -> None:
        for class_name in self._having(name):
            if found := self.names.method(class_name, name):
                own = None if is_static(found[1]) else frozenset({Instance(class_name)})
                self._enter_freely(found[1], found[0].name, own)

    def _having(self, method: str) -> list[str]:
        return [name for name in self.names.having.get(method, ()) if name in self.constructed]
