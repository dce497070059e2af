"""Short names for the attributes, methods and fields of a program's own objects.

The one idea: an attribute is renamed only when every place that names it, in the whole program, is proven to act on
objects of the program's own classes, none of which takes that name from a foreign class. One access to an object that
could be foreign, one keyword, one string that asks for it, and the name stays. Attributes of torch modules stay too,
but for methods: their names are the keys of a state dict.

Checked by: tests/record/test_specialise.py.
"""

import ast
import collections
import keyword
import string

from pipeline.record.flow import Flow
from pipeline.record.lattice import Const, Instance, Known
from pipeline.record.program_names import Function
from pipeline.record.readings import Readings


def shorten(tree: ast.Module, flow: Flow) -> ast.Module:
    """Return the program with short attribute names; `flow` is the analysis of exactly this tree."""
    counts = collections.Counter(node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    taken = {*counts, *keyword.kwlist}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            taken.add(node.value)
    for info in flow.names.classes.values():
        taken |= {*info.fields, *info.methods, *flow.names.inherited(info.name)}
    letters = (first + second for first in ["", *string.ascii_lowercase] for second in string.ascii_letters)
    free = (name for name in letters if name not in taken)
    own = [name for name in own_names(tree, flow) if len(name) > 1]
    long_names = sorted(own, key=lambda name: (-counts[name], name))
    return ast.fix_missing_locations(_Renamer(dict(zip(long_names, free, strict=False))).visit(tree))


def own_names(tree: ast.Module, flow: Flow) -> set[str]:
    """Return the attribute names that only ever mean an attribute of the program's own objects."""
    found: set[str] = set()
    foreign = set(flow.asked_by_string)
    whole = Readings(tree, flow).whole
    for info in flow.names.classes.values():
        found.update(name for name in [*info.methods, *info.fields] if not name.startswith("__"))
        foreign |= flow.names.inherited(info.name) & {*info.methods, *info.fields}
        foreign.update(name for name in info.methods if flow.names.is_open(info.name, name))
        foreign.update(info.fields if info.name in whole or info.is_structural else ())
        constants = (target for item in info.node.body if isinstance(item, ast.Assign) for target in item.targets)
        foreign.update(target.id for target in constants if isinstance(target, ast.Name))
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg:
            foreign.add(node.arg)
        elif isinstance(node, ast.Attribute) and not node.attr.startswith("__"):
            own = _is_own(node.attr, flow.known.get(node.value, frozenset()), flow)
            (found if own else foreign).add(node.attr)
    return found - foreign


def _is_own(attribute: str, receiver: Known, flow: Flow) -> bool:
    objects = [atom.class_name for atom in receiver if isinstance(atom, Instance)]
    others = [atom for atom in receiver if not isinstance(atom, Instance) and atom != Const("NoneType", "None", None)]
    return bool(objects) and not others and all(_defines(name, attribute, flow) for name in objects)


def _defines(class_name: str, attribute: str, flow: Flow) -> bool:
    names = flow.names
    is_method = names.method(class_name, attribute) is not None
    return attribute not in names.inherited(class_name) and (is_method or names.is_closed(class_name))


class _Renamer(ast.NodeTransformer):
    def __init__(self, mapping: dict[str, str]) -> None:
        self.mapping = mapping

    def visit_Attribute(self, node: ast.Attribute) -> ast.Attribute:
        self.generic_visit(node)
        node.attr = self.mapping.get(node.attr, node.attr)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        self.generic_visit(node)
        for item in node.body:
            if isinstance(item, Function):
                item.name = self.mapping.get(item.name, item.name)
            elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                item.target.id = self.mapping.get(item.target.id, item.target.id)
        return node
