"""Which expressions of a program do nothing but give a value, so that an unused one can go.

The one idea: a list of what is known to be quiet. A call is quiet when it is of a builtin in that list, of a method in
it that no class of the program defines, or of a function of the program whose statements are all quiet; a property
counts as its function. Looping over a variable is not: it could hold an iterator, which would be used up. Failing does
not count, because the program is proven to run; what a `try` guards is left to `prune.py`.

Assumes that operators, subscripts and attributes of foreign objects do not change anything.

Checked by: tests/record/test_specialise.py.
"""

import ast
from collections.abc import Mapping

from pipeline.record.lattice import ANY, Const, Instance, Known
from pipeline.record.program_names import Function, ProgramNames, decorator_name, generates, is_property, last_name

_QUIET_CALLS = frozenset(
    {
        "isinstance",
        "len",
        "int",
        "float",
        "bool",
        "range",
        "abs",
        "str",
        "id",
        "typing.cast",
        "pathlib.Path",
        "type",
        "math.isfinite",
        "math.fsum",
        "math.prod",
        "math.log",
        "re.fullmatch",
        "hashlib.sha256",
        "torch.isfinite",
        "numpy.issubdtype",
        "numpy.array_equal",
        "numpy.sort",
        "numpy.arange",
        "numpy.isfinite",
        "numpy.asarray",
        "numpy.ones",
        "require",
    }
)
_LOOPING_CALLS = frozenset(
    {"tuple", "list", "dict", "set", "min", "max", "sum", "sorted", "any", "all", "zip", "enumerate", "reversed"}
)
"""Quiet when what they loop over is made on the spot."""
_QUIET_METHODS = frozenset(
    {
        "mean",
        "item",
        "numel",
        "format",
        "join",
        "index",
        "items",
        "keys",
        "values",
        "dim",
        "all",
        "any",
        "min",
        "max",
        "sum",
        "is_floating_point",
        "parameters",
        "named_parameters",
        "modules",
        "named_modules",
        "state_dict",
        "square",
        "diagonal",
        "abs",
        "double",
        "digest",
        "hexdigest",
    }
)
_QUIET_NODES = (
    ast.Name,
    ast.Attribute,
    ast.Constant,
    ast.Compare,
    ast.BoolOp,
    ast.UnaryOp,
    ast.BinOp,
    ast.Tuple,
    ast.List,
    ast.Subscript,
    ast.IfExp,
    ast.Slice,
    ast.Dict,
    ast.Set,
    ast.expr_context,
    ast.operator,
    ast.cmpop,
    ast.boolop,
    ast.unaryop,
    ast.keyword,
    ast.JoinedStr,
    ast.FormattedValue,
    ast.GeneratorExp,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
    ast.comprehension,
)
_QUIET_DECORATORS = frozenset({"property", "cached_property", "staticmethod", "no_grad", "inference_mode", "lru_cache"})


class Effects:
    """What is quiet in one program."""

    def __init__(self, tree: ast.Module, names: ProgramNames, known: Mapping[ast.AST, Known] | None = None) -> None:
        """`known`: what a `Flow` found, which tells calls of the program's own methods from others of their name.

        Without it, loops count as quiet: right for what only checks read, which uses up no iterator.
        """
        self.names, self.known, self.loops = names, known or {}, known is None
        self.subscripts = not any(
            last_name(node) == "defaultdict" for node in ast.walk(tree) if isinstance(node, ast.Name | ast.Attribute)
        )
        self.quiet: set[ast.AST] = set()
        methods = [method for info in names.classes.values() for method in info.methods.values()]
        functions = [*names.functions.values(), *methods]
        self.quiet_names = set(_QUIET_CALLS)
        while added := [node for node in functions if node not in self.quiet and self._is_quiet_function(node)]:
            self.quiet.update(added)
        checked = [node for node in methods if node.name == "__post_init__"]
        self.quiet_names |= {"dataclasses.replace"} if all(node in self.quiet for node in checked) else set()

    def is_quiet(self, node: ast.AST) -> bool:
        """Return whether evaluating an expression changes nothing."""
        if isinstance(node, ast.Starred):
            return self.is_made_here(node.value) and self.is_quiet(node.value)
        if isinstance(node, ast.Lambda):
            return all(self.is_quiet(item) for item in [*node.args.defaults, *node.args.kw_defaults] if item)
        if isinstance(node, ast.Call):
            parts = [*node.args, *node.keywords]
            return self._is_quiet_call(node) and all(self.is_quiet(item) for item in parts)
        if isinstance(node, ast.Attribute) and not self._are_quiet(node.attr, only_properties=True):
            return False
        if isinstance(node, ast.comprehension) and not self.is_made_here(node.iter):
            return False
        if isinstance(node, ast.Subscript) and not self.subscripts:
            return False
        return isinstance(node, _QUIET_NODES) and all(self.is_quiet(item) for item in ast.iter_child_nodes(node))

    def _is_quiet_call(self, call: ast.Call) -> bool:
        function = call.func
        if isinstance(function, ast.Name) and function.id in self.names.functions and function.id != "require":
            return self.names.functions[function.id] in self.quiet and function.id not in self.names.local_names
        if isinstance(function, ast.Name) and function.id in self.names.classes:
            return self._makes_quietly(function.id)
        meaning = self.names.meaning(function)
        if meaning.partition(".")[0] not in self.names.local_names:
            if meaning in _LOOPING_CALLS:
                return all(self.is_made_here(item) for item in call.args)
            if meaning in self.quiet_names:
                return True
            if meaning in ("getattr", "hasattr"):
                return self._asks_quietly(call)
        if not isinstance(function, ast.Attribute) or not self.is_quiet(function.value):
            return False
        if function.attr in self.names.having:
            if self._is_foreign(function.value):
                return function.attr in _QUIET_METHODS
            atoms = self.known.get(function.value, ANY)
            own = bool(atoms) and all(isinstance(atom, Instance) for atom in atoms)
            return (own or self.loops or function.attr in _QUIET_METHODS) and self._are_quiet(function.attr)
        return function.attr in _QUIET_METHODS

    def _asks_quietly(self, call: ast.Call) -> bool:
        """Return whether reading an attribute by a string runs no loud property."""
        atoms = self.known.get(call.args[0], ANY)
        own = {atom.class_name for atom in atoms if isinstance(atom, Instance)}
        anything = any(not isinstance(atom, Instance | Const) for atom in atoms)
        infos = [info for name in (self.names.classes if anything else own) for info in self.names.line(name)]
        constant = call.args[1].value if isinstance(call.args[1], ast.Constant) else None
        read = [node for info in infos for name, node in info.methods.items() if constant in (None, name)]
        return all(node in self.quiet for node in read if is_property(node))

    def _is_foreign(self, node: ast.expr) -> bool:
        """Return whether an expression cannot give an object of the program's own classes."""
        if isinstance(node, ast.Call):
            return self.names.meaning(node.func).partition(".")[0] in self.names.imports.values()
        return isinstance(node, ast.Compare | ast.BinOp | ast.Constant | ast.JoinedStr)

    def _are_quiet(self, name: str, only_properties: bool = False) -> bool:
        found = [info.methods[name] for info in self.names.classes.values() if name in info.methods]
        return all(node in self.quiet for node in found if is_property(node) or not only_properties)

    def _makes_quietly(self, name: str) -> bool:
        check = self.names.method(name, "__post_init__")
        declares = self.names.classes[name].declares_fields
        return declares and (check is None or check[1] in self.quiet)

    def is_made_here(self, node: ast.expr) -> bool:
        """Return whether looping over an expression cannot use up an iterator that others hold."""
        if self.loops:
            return True
        if isinstance(node, ast.Call):
            return last_name(node.func) in ("range", "items", "keys", "values", "sorted", "list", "tuple")
        return isinstance(
            node,
            ast.Tuple
            | ast.List
            | ast.Set
            | ast.Dict
            | ast.Constant
            | ast.GeneratorExp
            | ast.ListComp
            | ast.SetComp
            | ast.DictComp,
        )

    def _is_quiet_function(self, node: Function) -> bool:
        if any(decorator_name(item) not in _QUIET_DECORATORS for item in node.decorator_list):
            return False
        return not generates(node) and all(self._is_quiet_statement(item) for item in node.body)

    def _is_quiet_statement(self, node: ast.stmt) -> bool:
        if isinstance(node, ast.If):
            return self.is_quiet(node.test) and all(self._is_quiet_statement(item) for item in node.body + node.orelse)
        if isinstance(node, ast.For):
            return self.loops and self.is_quiet(node.iter) and all(self._is_quiet_statement(item) for item in node.body)
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            local = all(
                isinstance(item, ast.Name | ast.Tuple | ast.expr_context)
                for target in targets
                for item in ast.walk(target)
            )
            return local and (node.value is None or self.is_quiet(node.value))
        if isinstance(node, ast.Return | ast.Expr):
            return node.value is None or self.is_quiet(node.value)
        return isinstance(node, ast.Pass)
