"""What the analysis of a program models: anything else is refused in one line, so that nothing is guessed.

The one idea: a list of what is allowed, not of what is forbidden. The house writes a small part of Python; a construct
outside of it (a `match`, a decorator that changes arguments, `setattr`, a metaclass) ends the packaging of a record
with the name of the definition that holds it. To allow one, teach `flow.py` what it does first.

Checked by: tests/record/test_specialise_meaning.py.
"""

import ast
from collections.abc import Iterator

from pipeline.record.program_names import Function, ProgramNames, called

_NODES = (
    ast.Module,
    ast.FunctionDef,
    ast.ClassDef,
    ast.Return,
    ast.Assign,
    ast.AugAssign,
    ast.AnnAssign,
    ast.For,
    ast.While,
    ast.If,
    ast.With,
    ast.withitem,
    ast.Raise,
    ast.Try,
    ast.ExceptHandler,
    ast.Assert,
    ast.Import,
    ast.ImportFrom,
    ast.alias,
    ast.Nonlocal,
    ast.Expr,
    ast.Pass,
    ast.Break,
    ast.Continue,
    ast.arguments,
    ast.arg,
    ast.keyword,
    ast.comprehension,
    ast.BoolOp,
    ast.NamedExpr,
    ast.BinOp,
    ast.UnaryOp,
    ast.Lambda,
    ast.IfExp,
    ast.Dict,
    ast.Set,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
    ast.GeneratorExp,
    ast.Yield,
    ast.YieldFrom,
    ast.Compare,
    ast.Call,
    ast.FormattedValue,
    ast.JoinedStr,
    ast.Constant,
    ast.Attribute,
    ast.Subscript,
    ast.Starred,
    ast.Name,
    ast.List,
    ast.Tuple,
    ast.Slice,
    ast.expr_context,
    ast.operator,
    ast.unaryop,
    ast.boolop,
    ast.cmpop,
)
_FUNCTION_DECORATORS = frozenset(
    {
        "property",
        "staticmethod",
        "functools.cached_property",
        "functools.lru_cache",
        "functools.cache",
        "torch.no_grad",
        "torch.inference_mode",
        "contextlib.contextmanager",
    }
)
"""Decorators that hand every argument on as it is."""
_DATACLASS_SETTINGS = frozenset({"frozen", "kw_only", "eq"})
_SPECIAL_METHODS = frozenset({"__init__", "__post_init__", "__call__", "__enter__", "__exit__"})
_SPECIAL_ATTRIBUTES = frozenset({"__init__", "__setitem__", "__name__"})
_FORBIDDEN_ATTRIBUTES = frozenset({"_replace", "_asdict", "_fields", "_make", "_field_defaults"})
_FORBIDDEN_NAMES = frozenset(
    {"vars", "locals", "globals", "eval", "exec", "compile", "setattr", "delattr", "__import__", "__class__"}
)
_FORBIDDEN_IMPORTS = frozenset(
    {f"dataclasses.{name}" for name in ("field", "fields", "astuple", "make_dataclass", "KW_ONLY", "InitVar")}
    | {
        "copy.replace",
        "typing.ClassVar",
        "functools.wraps",
        "functools.singledispatch",
        "operator.attrgetter",
        "operator.methodcaller",
    }
)
_READ_WHOLE = (
    "dataclasses.replace",
    "dataclasses.asdict",
    "getattr",
    "hasattr",
    "isinstance",
    "copy.copy",
    "copy.deepcopy",
    "object.__setattr__",
    "typing.cast",
)
_ONLY_CALLED = frozenset({"type", "super", *_READ_WHOLE})
_PSEUDO_FIELDS = ("ClassVar", "InitVar", "KW_ONLY")


def admit(tree: ast.Module, names: ProgramNames) -> None:
    """Raise ValueError naming the definition that holds a construct which the analysis does not model."""
    bound: set[str] = set()
    for statement in tree.body:
        where = getattr(statement, "name", None) or ast.unparse(statement).split("\n")[0][:60]
        for problem in _problems(statement, names, bound):
            raise ValueError(f"specialise: `{where}`: {problem} is not analysed; write it another way")


def _problems(statement: ast.stmt, names: ProgramNames, bound: set[str]) -> Iterator[str]:
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        (target, *others) = targets
        parts = target.elts if isinstance(target, ast.Tuple) else [target]
        if others or not all(isinstance(item, ast.Name) for item in parts):
            yield "a top-level assignment to other than one name or a tuple of names"
        yield from ("a top-level name that is bound twice" for item in parts if getattr(item, "id", "") in bound)
        bound.update(item.id for item in parts if isinstance(item, ast.Name))
    elif isinstance(statement, Function | ast.ClassDef):
        if statement.name in bound:
            yield "a top-level name that is bound twice"
        bound.add(statement.name)
    elif not isinstance(statement, ast.Import | ast.ImportFrom | ast.Expr):
        yield f"a top-level {type(statement).__name__}"
    if isinstance(statement, ast.ClassDef):
        yield from _class_problems(statement, names)
    for parent in ast.walk(statement):
        yield from _node_problems(parent, statement, names)
        for child in ast.iter_child_nodes(parent):
            yield from _use_problems(child, parent, names)


def _class_problems(node: ast.ClassDef, names: ProgramNames) -> Iterator[str]:
    own = [base for base in names.classes[node.name].bases if base in names.classes]
    if len(own) > 1 or node.keywords:
        yield "a class with two bases of the program's own or with a metaclass"
    if sum(info.declares_fields for info in names.line(node.name)) > 1:
        yield "inheritance between dataclasses"
    for item in node.decorator_list:
        settings = {keyword.arg: keyword.value for keyword in item.keywords} if isinstance(item, ast.Call) else {}
        plain = all(isinstance(value, ast.Constant) and name in _DATACLASS_SETTINGS for name, value in settings.items())
        if names.meaning(called(item)) != "dataclasses.dataclass" or not plain or getattr(item, "args", []):
            yield f"the decorator `{ast.unparse(item)}`"
    for statement in node.body:
        if isinstance(statement, Function):
            if statement.name.startswith("__") and statement.name not in _SPECIAL_METHODS:
                yield f"the method {statement.name}"
        elif not _is_plain_member(statement):
            yield f"`{ast.unparse(statement)}` in a class body"


def _is_plain_member(node: ast.stmt) -> bool:
    """Return whether a class body only declares a field or sets an attribute to a constant."""
    if isinstance(node, ast.AnnAssign):
        return isinstance(node.target, ast.Name) and not any(w in ast.unparse(node.annotation) for w in _PSEUDO_FIELDS)
    if isinstance(node, ast.Assign):
        return isinstance(node.value, ast.Constant) and all(isinstance(target, ast.Name) for target in node.targets)
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


def _node_problems(node: ast.AST, statement: ast.stmt, names: ProgramNames) -> Iterator[str]:
    if not isinstance(node, _NODES):
        yield f"a {type(node).__name__}"
    elif isinstance(node, ast.For | ast.While) and node.orelse:
        yield "the else of a loop"
    elif isinstance(node, ast.ClassDef) and node is not statement:
        yield "a class inside a class or function"
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from _import_problems(node, node is statement, names)
    elif isinstance(node, Function):
        unknown = [item for item in node.decorator_list if names.meaning(called(item)) not in _FUNCTION_DECORATORS]
        yield from (f"the decorator `{ast.unparse(item)}`" for item in unknown)
        yield from ["a generic function"] if getattr(node, "type_params", None) else []
    elif isinstance(node, ast.Attribute):
        whole = names.meaning(node)
        special = node.attr.startswith("__") and node.attr not in _SPECIAL_ATTRIBUTES and whole != "object.__setattr__"
        if special or node.attr in _FORBIDDEN_ATTRIBUTES or whole in _FORBIDDEN_IMPORTS:
            yield f"the attribute {node.attr}"
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in _FORBIDDEN_NAMES:
        yield node.id
    elif isinstance(node, ast.Call) and names.meaning(node.func) in _READ_WHOLE:
        spread: list[ast.expr] = [item for item in node.args if isinstance(item, ast.Starred)]
        spread += [item.value for item in node.keywords if item.arg is None]
        yield from [f"{names.meaning(node.func)} of spread arguments"] if spread else []


def _import_problems(node: ast.Import | ast.ImportFrom, at_top: bool, names: ProgramNames) -> Iterator[str]:
    for alias in node.names:
        binding = alias.asname or alias.name.partition(".")[0]
        meaning = f"{getattr(node, 'module', '')}.{alias.name}"
        if meaning in _FORBIDDEN_IMPORTS or alias.name == "*":
            yield f"the import of {meaning}"
        if not at_top and binding in {*names.functions, *names.classes, *names.local_names}:
            yield f"an import of {binding} inside a function beside another {binding}"


def _use_problems(node: ast.AST, parent: ast.AST, names: ProgramNames) -> Iterator[str]:
    """Refuse functions that make or read objects in ways of their own where they are not used in the plainest way."""
    is_called = isinstance(parent, ast.Call) and node is parent.func
    if isinstance(node, ast.Call):
        kind = names.meaning(node.func)
        compared = isinstance(parent, ast.Compare) or (isinstance(parent, ast.Subscript) and node is parent.slice)
        if kind == "type" and not (compared and len(node.args) == 1):
            yield "the type of an object used other than in a comparison"
        if kind == "super" and (node.args or not isinstance(parent, ast.Attribute)):
            yield "super() other than in super().method()"
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Call) and not is_called:
        yield from ["super() other than in super().method()"] if names.meaning(node.value.func) == "super" else []
    if isinstance(node, ast.Name | ast.Attribute) and not is_called and names.meaning(node) in _ONLY_CALLED:
        yield f"{ast.unparse(node)} as a value"
