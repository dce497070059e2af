"""Which attributes of a program's own objects anybody reads.

Checked by: tests/record/test_specialise.py.
"""

import ast

from pipeline.record.flow import Flow
from pipeline.record.lattice import ANY, Const, Instance, Items, Known, plain_values


class Readings:
    """The attribute names that a program reads, of known classes or of objects that could be any."""

    def __init__(self, tree: ast.Module, flow: Flow) -> None:
        self.names = flow.names
        self.of_class: set[tuple[str, str]] = set()
        self.of_any: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                self._add(flow.known.get(node.value, ANY), node.attr)
            elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Attribute):
                self._add(flow.known.get(node.target.value, ANY), node.target.attr)
            elif isinstance(node, ast.Call) and flow.names.meaning(node.func) in ("getattr", "hasattr"):
                # An analysed program names every attribute that it asks for; what was not analysed cannot run.
                for name in plain_values(flow.known.get(node.args[1], ANY)) or ():
                    self._add(flow.known.get(node.args[0], ANY), name)
        self.whole = _classes_used_whole(tree, flow)

    def _add(self, receiver: Known, attribute: str) -> None:
        if not receiver or any(not isinstance(atom, Instance | Const) for atom in receiver):
            self.of_any.add(attribute)
        self.of_class.update((atom.class_name, attribute) for atom in receiver if isinstance(atom, Instance))

    def has(self, class_name: str, attribute: str) -> bool:
        """Return whether something may read an attribute of objects of exactly this class."""
        foreign = attribute in self.names.inherited(class_name) or class_name in self.whole
        return foreign or attribute in self.of_any or (class_name, attribute) in self.of_class


def _classes_used_whole(tree: ast.Module, flow: Flow) -> set[str]:
    """Return the classes of which some object is turned into a dict."""
    found: set[str] = set()

    def add(known: Known) -> None:
        for atom in known:
            if isinstance(atom, Items):
                for value in atom.values:
                    add(value)
            elif isinstance(atom, Instance) and atom.class_name not in found:
                found.add(atom.class_name)
                for name in flow.names.classes[atom.class_name].fields:
                    add(flow.field(atom, name))
            elif not isinstance(atom, Const):
                found.update(flow.names.classes)

    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and flow.names.meaning(node.func) == "dataclasses.asdict":
            add(flow.known.get(node.args[0], frozenset()))
    return found
