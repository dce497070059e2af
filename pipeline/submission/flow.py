"""What every expression of a program can evaluate to, found by running the program on knowledge instead of values.

The one idea: start from the statements that run the program, with the recipe as constants, and follow every call and
every branch that can happen; arguments, returned values, variables and attributes collect what reaches them until
nothing new arrives. What was never visited cannot run. One `Known` per parameter, variable and attribute of a class,
whoever calls (objects of frozen dataclasses keep the attributes of the call that makes them).

Assumes what the library's house rules guarantee: annotations are true (mypy), attributes are set by name, configs are
never changed, functions reach foreign code only as values (then their arguments are unknown), and foreign code calls of
our objects only dunder methods, `forward` and `backward`.

Source: sparse conditional constant propagation (Wegman and Zadeck 1991); call graph by 0-CFA.
Checked by: tests/submission/test_fold.py.
"""

import ast
import builtins
from collections.abc import Mapping

from pipeline.submission.lattice import (
    ANY,
    FOREIGN,
    NOTHING,
    OPERATORS,
    Const,
    Foreign,
    Instance,
    Items,
    Known,
    Reference,
    compute,
    constant,
    join,
    truths,
)
from pipeline.submission.program_names import (
    Function,
    ProgramNames,
    defaults,
    is_property,
    is_static,
    is_transparent,
    last_name,
    own_nodes,
    parameters,
)

_HOOKS = ("forward", "backward")
_RETURN_SELF = ("eval", "to", "cpu", "train", "float", "double", "requires_grad_")
"""Methods of torch modules that return the module."""
_PURE = {"len": len, "int": int, "float": float, "bool": bool, "min": min, "max": max, "sum": sum, "tuple": tuple,
         "sorted": sorted, "abs": abs, "str": str, "reversed": reversed}  # fmt: skip
_Scoped = Function | ast.Lambda
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


class Scope:
    """The variables of one function, lambda or comprehension."""

    def __init__(self, node: ast.AST, parent: "Scope | None", names: set[str], class_name: str | None) -> None:
        self.node, self.parent, self.names, self.class_name = node, parent, names, class_name
        self.known: dict[str, Known] = {}

    def owner(self, name: str) -> "Scope | None":
        """Return the scope that holds a variable, or None."""
        scope: Scope | None = self
        while scope is not None and name not in scope.names:
            scope = scope.parent
        return scope


class Flow:
    """The analysis of one program; `known` maps every expression that can run to what it can be."""

    def __init__(self, tree: ast.Module) -> None:
        self.names = ProgramNames(tree)
        self.known: dict[ast.AST, Known] = {}
        self.ran: set[ast.AST] = set()
        self.reached: set[ast.stmt] = set()
        self.constructed: set[str] = set()
        fixed = _unchanged_tables(tree)
        self.tail_nodes = {
            node for item in tree.body if isinstance(item, ast.Expr) or item in fixed for node in ast.walk(item)
        }
        self.sites: dict[int, ast.Call] = {}
        self._fields: dict[tuple[str | int, str], Known] = {}
        self._returns: dict[ast.AST, Known] = {}
        self._scopes: dict[ast.AST, Scope] = {}
        self._static_classes: set[str] = set()
        self._running: set[ast.AST] = set()
        self._changed = True
        self._module = Scope(tree, None, _assigned(tree) | {*self.names.functions, *self.names.classes}, None)
        self.local_names = _local_names(tree)
        self._imports = {
            (alias.asname or alias.name): alias.name
            for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
        }  # fmt: skip
        while self._changed:
            self._changed = False
            self._visited: set[ast.AST] = set()
            self._block(tree.body, self._module)
            for node in list(self.ran):
                if node not in self._visited and isinstance(node, _Scoped):
                    self._run(node)

        self._check_tests()

    def _check_tests(self) -> None:
        """Raise ValueError for a condition that runs on values which nothing seems to give: the analysis missed them."""
        for node in self.reached | set(self.known):
            if isinstance(node, ast.If | ast.While | ast.IfExp) and not self.test(node.test):
                raise ValueError(f"specialise: no value reaches the condition `{ast.unparse(node.test)}`")

    # -- growing knowledge ------------------------------------------------------------------------------------------

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

    def _scope(self, node: _Scoped, parent: Scope | None, class_name: str | None) -> Scope:
        if node not in self._scopes:
            names = _assigned(node) | {item.arg for item in _all_parameters(node.args)}
            self._scopes[node] = Scope(node, parent or self._module, names, class_name)
        return self._scopes[node]

    def _enter(self, node: _Scoped, given: Mapping[str, Known], class_name: str | None = None,
               parent: Scope | None = None) -> Known:  # fmt: skip
        """Let arguments reach a function; a parameter that is not given takes its default. Return what it returns."""
        scope = self._scope(node, parent, class_name)
        default_of = defaults(node.args)
        for item in _all_parameters(node.args):
            value = given.get(item.arg)
            if value is None:
                value = self._value(default_of[item.arg], self._module) if item.arg in default_of else ANY
            self._grow(scope.known, item.arg, self.refined(value, item.annotation))
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
        assert isinstance(node, _Scoped)
        scope = self._scopes[node]
        if isinstance(node, ast.Lambda):
            self._value(node.body, scope)
        elif not self._block(node.body, scope):
            self._grow(self._returns, node, constant(None))
        self._running.discard(node)

    def _enter_freely(self, node: _Scoped, class_name: str | None = None, self_value: Known | None = None,
                      parent: Scope | None = None) -> None:  # fmt: skip
        """Let foreign code call a function: every argument could be anything its annotation allows."""
        given = {item.arg: ANY for item in _all_parameters(node.args)}
        if self_value is not None and (first := parameters(node.args)):
            given[first[0].arg] = self_value
        self._enter(node, given, class_name, parent)

    def _bind(self, node: _Scoped, call: ast.Call | None, scope: Scope, leading: list[Known]) -> dict[str, Known]:
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
            given |= {item.arg: ANY for item in _all_parameters(node.args)[len(leading) :]}
        if node.args.vararg:
            given[node.args.vararg.arg] = ANY
        if node.args.kwarg:
            given[node.args.kwarg.arg] = ANY
        return given

    def _call_method(self, receiver: Instance, method: str, call: ast.Call | None, scope: Scope) -> Known | None:
        found = self.names.method(receiver.class_name, method)
        if found is None:
            return None
        info, function = found
        leading = [] if is_static(function) else [frozenset({receiver})]
        return self._enter(function, self._bind(function, call, scope, leading), info.name)

    # -- objects -----------------------------------------------------------------------------------------------------

    def _construct(self, name: str, call: ast.Call | None, scope: Scope) -> Known:
        """Return the object that calling a class makes; without a call, whatever foreign code may make of it."""
        info = self.names.classes[name]
        made = Instance(name)
        if info.is_frozen and call is not None:
            self.sites[id(call)] = call
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
                is_dunder = method.startswith("__") and method not in ("__init__", "__post_init__")
                if is_dunder or method in _HOOKS:
                    self._enter_freely(function, info.name, None if is_static(function) else frozenset({made}))

    def _construct_fields(self, made: Instance, line: list, call: ast.Call | None, scope: Scope) -> None:
        fields = [field for info in reversed(line) for field in info.fields.values()]
        given: dict[str, Known] = {}
        if call is None or any(isinstance(item, ast.Starred) for item in call.args):
            given = {field.name: ANY for field in fields}
        if call is not None:
            for index, argument in enumerate(call.args):
                value = self._value(argument.value if isinstance(argument, ast.Starred) else argument, scope)
                if fields[index].name not in given:
                    given[fields[index].name] = value
            for keyword in call.keywords:
                value = self._value(keyword.value, scope)
                given |= {keyword.arg: value} if keyword.arg else {field.name: ANY for field in fields}
        for field in fields:
            value = given.get(field.name)
            if value is None:
                value = NOTHING if field.default is None else self._value(field.default, self._module)
            self._store_field(made, field.name, self.refined(value, field.annotation))

    def _store_field(self, receiver: Instance, name: str, value: Known) -> None:
        self._grow(self._fields, (receiver.class_name, name), value)
        if receiver.site is not None:
            self._grow(self._fields, (receiver.site, name), value)

    def field(self, receiver: Instance, name: str) -> Known:
        """Return what a stored attribute of an object can be."""
        line = self.names.line(receiver.class_name)
        own = (receiver.class_name if receiver.site is None else receiver.site, name)
        below = [] if receiver.site is not None else [(sub, name) for sub in self.names.subclasses(receiver.class_name)]
        found = [self._fields[key] for key in [own, *below] if key in self._fields]
        for info in line:
            for item in info.node.body:
                if isinstance(item, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in item.targets):
                    found.append(self._value(item.value, self._module))
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

    # -- statements --------------------------------------------------------------------------------------------------

    def _block(self, body: list[ast.stmt], scope: Scope) -> bool:
        """Run statements; return whether control never reaches their end."""
        return any(self._statement(statement, scope) for statement in body)

    def _statement(self, node: ast.stmt, scope: Scope) -> bool:
        self.reached.add(node)
        if isinstance(node, ast.If):
            possible = self._condition(node.test, scope)
            ends = [self._block(node.body, scope)] if True in possible else []
            ends += [self._block(node.orelse, scope)] if False in possible else []
            return all(ends)
        if isinstance(node, ast.Return):
            value = constant(None) if node.value is None else self._value(node.value, scope)
            self._grow(self._returns, scope.node, value)
            return True
        if isinstance(node, ast.Raise | ast.Continue | ast.Break):
            self._children(node, scope)
            return True
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            self._assignment(node, scope)
        elif isinstance(node, Function):
            if scope.node is not self._module.node:
                self._set(node.name, ANY, scope)
                self._enter_freely(node, scope.class_name, None, scope)
        elif isinstance(node, ast.For | ast.While):
            self._loop(node, scope)
        elif isinstance(node, ast.With):
            for item in node.items:
                self._value(item.context_expr, scope)
                if item.optional_vars is not None:
                    self._assign(item.optional_vars, ANY, scope)
            self._block(node.body, scope)  # a context may swallow what ends it
        elif isinstance(node, ast.Try):
            return self._try(node, scope)
        elif isinstance(node, ast.Assert):
            self._value(node.test, scope)
        elif not isinstance(node, ast.ClassDef):
            self._children(node, scope)
        return False

    def _children(self, node: ast.AST, scope: Scope) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self._value(child, scope)
            elif isinstance(child, ast.stmt):
                self._statement(child, scope)
            else:
                self._children(child, scope)

    def _assignment(self, node: ast.Assign | ast.AnnAssign | ast.AugAssign, scope: Scope) -> None:
        if isinstance(node, ast.AugAssign):
            self._value(node.value, scope)
            self._load_target(node.target, scope)
            self._assign(node.target, ANY, scope)
        elif node.value is not None:
            value = self._value(node.value, scope)
            if isinstance(node, ast.AnnAssign):
                self._assign(node.target, self.refined(value, node.annotation), scope)
            else:
                for target in node.targets:
                    self._assign(target, value, scope)

    def _load_target(self, target: ast.expr, scope: Scope) -> None:
        if isinstance(target, ast.Attribute | ast.Subscript):
            self._value(target.value, scope)

    def _assign(self, target: ast.expr, value: Known, scope: Scope) -> None:
        if isinstance(target, ast.Name):
            self._set(target.id, value, scope)
        elif isinstance(target, ast.Attribute):
            receiver = self._value(target.value, scope)
            for atom in receiver:
                if isinstance(atom, Instance):
                    self._store_field(atom, target.attr, value)
                else:
                    for class_name in self.constructed:
                        self._store_field(Instance(class_name), target.attr, ANY)
        elif isinstance(target, ast.Tuple | ast.List):
            for index, part in enumerate(target.elts):
                self._assign(part, self._part(value, index, len(target.elts)), scope)
        elif isinstance(target, ast.Starred):
            self._assign(target.value, ANY, scope)
        elif isinstance(target, ast.Subscript):
            self._value(target.value, scope)
            self._value(target.slice, scope)

    @staticmethod
    def _part(value: Known, index: int, count: int) -> Known:
        parts = []
        for atom in value:
            whole = isinstance(atom, Items) and atom.keys is None and len(atom.values) == count
            parts.append(atom.values[index] if whole and isinstance(atom, Items) else ANY)
        return join(*parts)

    def _loop(self, node: ast.For | ast.While, scope: Scope) -> None:
        if isinstance(node, ast.While):
            possible = self._condition(node.test, scope)
            if True in possible:
                self._block(node.body, scope)
        elif (item := self._element(self._value(node.iter, scope))) != NOTHING:
            self._assign(node.target, item, scope)
            self._block(node.body, scope)
        self._block(node.orelse, scope)

    @staticmethod
    def _element(value: Known) -> Known:
        """Return what iterating gives; nothing when there is nothing to iterate over."""
        parts = []
        for atom in value:
            if isinstance(atom, Items) and atom.keys is None:
                parts += atom.values
            elif isinstance(atom, Items):
                parts += [constant(key) for key in atom.keys or ()]
            else:
                parts.append(ANY)
        return join(*parts)

    def _try(self, node: ast.Try, scope: Scope) -> bool:
        ends = self._block(node.body, scope) or self._block(node.orelse, scope)
        for handler in node.handlers:
            if handler.type is not None:
                self._value(handler.type, scope)
            if handler.name:
                self._set(handler.name, ANY, scope)
            ends = self._block(handler.body, scope) and ends
        return self._block(node.finalbody, scope) or ends

    # -- expressions -------------------------------------------------------------------------------------------------

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
        method = getattr(self, f"_value_{type(node).__name__}", None)
        if method is None:
            self._children(node, scope)
            value = ANY
        else:
            value = method(node, scope)
        return self._grow(self.known, node, value)

    def _value_Constant(self, node: ast.Constant, scope: Scope) -> Known:
        return constant(node.value) if isinstance(node.value, None | bool | int | float | str) else ANY

    def _value_Name(self, node: ast.Name, scope: Scope) -> Known:
        owner = scope.owner(node.id)
        if owner is None:
            return ANY
        if owner is self._module:
            if node.id in self.names.functions:
                self._enter_freely(self.names.functions[node.id])
                return frozenset({Reference(node.id)})
            if node.id in self.names.classes:
                self._construct(node.id, None, scope)
                self._allow_hooks(Instance(node.id))
                return ANY
        return owner.known.get(node.id, NOTHING)

    def _value_Attribute(self, node: ast.Attribute, scope: Scope) -> Known:
        if isinstance(node.value, ast.Name) and node.value.id in self.names.classes:
            info = self.names.classes[node.value.id]
            found = self.names.method(info.name, node.attr)
            if found:
                self._enter_freely(found[1], info.name)
                return ANY
            self._allow_hooks(Instance(info.name))  # such as apply of an autograd function
            return self.field(Instance(info.name), node.attr)
        return self._attribute(self._value(node.value, scope), node.attr, scope)

    def _value_Tuple(self, node: ast.Tuple, scope: Scope) -> Known:
        values = [self._value(item, scope) for item in node.elts]
        if any(isinstance(item, ast.Starred) for item in node.elts):
            return ANY
        return join(frozenset({Items(tuple(values))}))

    def _value_Dict(self, node: ast.Dict, scope: Scope) -> Known:
        values = [self._value(item, scope) for item in node.values]
        keys = [self._value(key, scope) for key in node.keys if key is not None]
        if node not in self.tail_nodes or not all(isinstance(key, ast.Constant) for key in node.keys):
            return ANY
        names = tuple(key.value for key in node.keys if isinstance(key, ast.Constant))
        return frozenset({Items(tuple(values), names)}) if len(keys) == len(names) else ANY

    def _value_Subscript(self, node: ast.Subscript, scope: Scope) -> Known:
        holder, index = self._value(node.value, scope), self._value(node.slice, scope)
        if isinstance(node.slice, ast.Slice):
            return NOTHING if holder == NOTHING else ANY
        parts = []
        for atom in holder:
            indices = [key.value for key in index if isinstance(key, Const)] if index != ANY else None
            if not isinstance(atom, Items) or (indices is not None and len(indices) < len(index)):
                return ANY
            keys = list(range(len(atom.values))) if atom.keys is None else list(atom.keys)
            wanted = keys if indices is None else [key for key in indices if key in keys]
            parts += [atom.values[keys.index(key)] for key in wanted]
        return join(*parts)

    def _value_IfExp(self, node: ast.IfExp, scope: Scope) -> Known:
        possible = self._condition(node.test, scope)
        parts = [self._value(node.body, scope)] if True in possible else []
        parts += [self._value(node.orelse, scope)] if False in possible else []
        return join(*parts)

    def _value_BoolOp(self, node: ast.BoolOp, scope: Scope) -> Known:
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

    def _value_UnaryOp(self, node: ast.UnaryOp, scope: Scope) -> Known:
        value = self._value(node.operand, scope)
        if isinstance(node.op, ast.Not):
            return join(*(constant(not possible) for possible in self.truth(value)))
        return compute(OPERATORS[type(node.op)], value)

    def _value_BinOp(self, node: ast.BinOp, scope: Scope) -> Known:
        left, right = self._value(node.left, scope), self._value(node.right, scope)
        return compute(OPERATORS[type(node.op)], left, right) if type(node.op) in OPERATORS else ANY

    def _value_Compare(self, node: ast.Compare, scope: Scope) -> Known:
        values = [self._value(item, scope) for item in [node.left, *node.comparators]]
        results = [_compared(kind, *pair) for kind, *pair in zip(node.ops, values, values[1:], strict=False)]
        if len(results) == 1:
            return results[0]
        return join(*(constant(all(choice)) for choice in _choices([self.truth(result) for result in results])))

    def _value_NamedExpr(self, node: ast.NamedExpr, scope: Scope) -> Known:
        value = self._value(node.value, scope)
        self._assign(node.target, value, scope)
        return value

    def _value_Starred(self, node: ast.Starred, scope: Scope) -> Known:
        self._value(node.value, scope)
        return ANY

    def _value_Lambda(self, node: ast.Lambda, scope: Scope) -> Known:
        self._enter_freely(node, scope.class_name, None, scope)
        return ANY

    def _comprehension(self, node: ast.expr, scope: Scope) -> Known:
        if node not in self._scopes:
            names = {item.id for generator in node.generators for item in ast.walk(generator.target)  # type: ignore
                     if isinstance(item, ast.Name)}  # fmt: skip
            self._scopes[node] = Scope(scope.node, scope, names, scope.class_name)
        inner = self._scopes[node]
        for generator in node.generators:  # type: ignore[attr-defined]
            item = self._element(self._value(generator.iter, inner))
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

    _value_ListComp = _value_SetComp = _value_DictComp = _value_GeneratorExp = _comprehension

    # -- calls -------------------------------------------------------------------------------------------------------

    def _arguments(self, call: ast.Call, scope: Scope) -> list[Known]:
        values = [self._value(item, scope) for item in call.args]
        return values + [self._value(keyword.value, scope) for keyword in call.keywords]

    def _value_Call(self, node: ast.Call, scope: Scope) -> Known:
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
            return self._call_foreign(node, self._imports.get(function.id, function.id), scope)
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
        if isinstance(function.value, ast.Name) and function.value.id in self.names.classes:
            self._value(function, scope)
            self._arguments(node, scope)
            return ANY
        if isinstance(function.value, ast.Name) and scope.owner(function.value.id) is None:
            return self._call_module(node, function.value.id, function.attr, scope)
        receiver = self._value(function.value, scope)
        parts: list[Known] = []
        for atom in sorted(receiver, key=repr):
            if isinstance(atom, Instance):
                found = self.names.method(atom.class_name, function.attr)
                if found and not is_property(found[1]):
                    parts.append(self._call_method(atom, function.attr, node, scope) or NOTHING)
                elif function.attr in _RETURN_SELF and not self.names.is_closed(atom.class_name):
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

    def _call_module(self, node: ast.Call, module: str, name: str, scope: Scope) -> Known:
        """Call a function of an imported module; one with a capital is a class."""
        values = self._arguments(node, scope)
        if (module, name) == ("copy", "deepcopy"):
            return values[0]
        return FOREIGN if name[0].isupper() else ANY

    def _call_super(self, node: ast.Call, method: str, scope: Scope) -> Known:
        owner: Scope | None = scope
        while owner is not None and not isinstance(owner.node, Function):
            owner = owner.parent
        assert owner is not None and owner.class_name is not None and isinstance(owner.node, Function)
        own = owner.known.get(owner.node.args.args[0].arg, NOTHING)
        for info in self.names.line(owner.class_name)[1:]:
            if method in info.methods:
                function = info.methods[method]
                return self._enter(function, self._bind(function, node, scope, [own]), info.name)
        self._arguments(node, scope)
        return ANY

    def _call_foreign(self, node: ast.Call, name: str, scope: Scope) -> Known:
        if name == "isinstance":
            return self._isinstance(self._value(node.args[0], scope), node.args[1])
        if name in ("getattr", "hasattr") and isinstance(node.args[1], ast.Constant):
            return self._getattr(node, name, scope)
        values = self._arguments(node, scope)
        if name == "cast":
            return self.refined(values[1], node.args[0])
        if name == "replace" and values:
            return self._replace(values[0], node, scope)
        if name == "range" and len(values) <= 3:
            return compute(lambda *bounds: tuple(range(*bounds)), *values)
        if name in _PURE and not node.keywords and not any(isinstance(item, ast.Starred) for item in node.args):
            if name in ("tuple", "len") and len(values) == 1 and all(isinstance(atom, Items) for atom in values[0]):
                return join(*(_items_builtin(name, atom) for atom in values[0] if isinstance(atom, Items)))
            if name == "reversed":
                return ANY
            return compute(_PURE[name], *values)
        return ANY

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
        attribute = str(ast.literal_eval(node.args[1]))
        default = self._value(node.args[2], scope) if len(node.args) > 2 else NOTHING
        parts: list[Known] = []
        for atom in receiver:
            if isinstance(atom, Instance):
                value = self._attribute(frozenset({atom}), attribute, scope)
                closed = self.names.is_closed(atom.class_name)
                has = closed or value != ANY or self._surely_has(atom.class_name, attribute)
                absent = closed and value == NOTHING
                if name == "hasattr":
                    parts.append(constant(not absent) if has else ANY)
                else:
                    parts.append(default if absent else value if has else join(value, default))
            elif isinstance(atom, Const):
                parts.append(constant(False) if name == "hasattr" else default)
            else:
                self._attribute_of_anything(attribute)
                parts.append(ANY)
        return join(*parts)

    def _surely_has(self, class_name: str, attribute: str) -> bool:
        """Return whether objects of a class have a method or get an attribute on every path of `__init__`."""
        init = self.names.method(class_name, "__init__")
        for statement in init[1].body if init else []:
            targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
            if any(isinstance(target, ast.Attribute) and target.attr == attribute for target in targets):
                return True
        return self.names.method(class_name, attribute) is not None

    def _replace(self, value: Known, node: ast.Call, scope: Scope) -> Known:
        parts: list[Known] = []
        for atom in value:
            if not isinstance(atom, Instance):
                return ANY
            for keyword in node.keywords:
                assert keyword.arg is not None
                self._store_field(Instance(atom.class_name), keyword.arg, self._value(keyword.value, scope))
            parts.append(frozenset({Instance(atom.class_name)}))
            if self.names.method(atom.class_name, "__post_init__"):
                self._call_method(Instance(atom.class_name), "__post_init__", None, scope)
        return join(*parts)


def _assigned(node: ast.AST) -> set[str]:
    """Return the variables that a function's own body or a module binds."""
    found, outer = set(), set()
    for child in own_nodes(node):
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            found.add(child.id)
        elif isinstance(child, ast.ExceptHandler) and child.name:
            found.add(child.name)
        elif isinstance(child, ast.Nonlocal | ast.Global):
            outer.update(child.names)
    for holder in [node, *own_nodes(node)]:
        found |= {child.name for child in ast.iter_child_nodes(holder) if isinstance(child, Function | ast.ClassDef)}
    return found - outer


def _local_names(tree: ast.Module) -> set[str]:
    """Return the names that some function binds, which may hide the program's own."""
    found = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    for statement in tree.body:
        if isinstance(statement, Function | ast.ClassDef):
            found |= {node.id for node in ast.walk(statement)
                      if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}  # fmt: skip
    return found


def _unchanged_tables(tree: ast.Module) -> list[ast.stmt]:
    """Return the top-level assignments of dicts that the program only reads."""
    changed = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            changed.add(last_name(node.value))
        elif isinstance(node, ast.Attribute) and node.attr in ("update", "pop", "setdefault", "clear", "popitem"):
            changed.add(last_name(node.value))
    return [node for node in tree.body if isinstance(node, ast.Assign) and last_name(node.targets[0]) not in changed]


def _all_parameters(arguments: ast.arguments) -> list[ast.arg]:
    extra = [item for item in (arguments.vararg, arguments.kwarg) if item is not None]
    return [*parameters(arguments), *extra]


def _compared(kind: ast.cmpop, left: Known, right: Known) -> Known:
    if not left or not right:
        return NOTHING
    if isinstance(kind, ast.Is | ast.IsNot):
        results = set()
        for first in left:
            for second in right:
                fixed = [atom for atom in (first, second) if isinstance(atom, Const) and atom.kind in ("NoneType", "bool")]
                if not fixed or ANY in (frozenset({first}), frozenset({second})):
                    return ANY
                results.add((first == second) == isinstance(kind, ast.Is))
        return join(*(constant(result) for result in results))
    if isinstance(kind, ast.In | ast.NotIn) and all(isinstance(atom, Items) and atom.keys for atom in right):
        keys = frozenset({Items(tuple(constant(key) for key in atom.keys or ())) for atom in right
                          if isinstance(atom, Items)})  # fmt: skip
        return compute(OPERATORS[type(kind)], left, keys)
    return compute(OPERATORS[type(kind)], left, right)


def _choices(sets: list[set[bool]]) -> list[list[bool]]:
    found: list[list[bool]] = [[]]
    for possible in sets:
        found = [[*choice, value] for choice in found for value in sorted(possible)]
    return found


def _items_method(atom: Items, method: str) -> Known:
    if method == "items" and atom.keys is not None:
        pairs = zip(atom.keys, atom.values, strict=True)
        return join(frozenset({Items(tuple(frozenset({Items((constant(k), value))}) for k, value in pairs))}))
    return ANY


def _items_builtin(name: str, atom: Items) -> Known:
    if name == "len":
        return constant(len(atom.values))
    return frozenset({atom}) if atom.keys is None else ANY
