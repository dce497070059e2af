"""Run a program and compare every value in it with what the analysis says of it: `python watched_program.py FILE ARGS`.

Each expression of which something is known passes through a check, each statement that is said never to run raises.
"""

import ast
import sys
from pathlib import Path
from typing import Any

from pipeline.record.flow import Flow
from pipeline.record.lattice import ANY, Const, Foreign, Instance, Items, Known, Reference
from pipeline.record.program_names import Function


class Watcher(ast.NodeTransformer):
    """Put checks around expressions and before statements."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.facts: list[tuple[str, Known]] = []
        self.checked = 0

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, ast.stmt):
            return self.watched_statement(node)
        known = self.flow.known.get(node)
        text = ast.unparse(node) if known else ""
        super().visit(node)
        if not known or known == ANY or not isinstance(getattr(node, "ctx", None) or ast.Load(), ast.Load):
            return node
        if not isinstance(node, ast.expr) or isinstance(node, ast.Starred | ast.FormattedValue | ast.JoinedStr):
            return node
        self.facts.append((text, known))
        return ast.Call(ast.Name("_watch", ast.Load()), [ast.Constant(len(self.facts) - 1), node], [])

    def watched_statement(self, node: ast.stmt) -> Any:
        if isinstance(node, ast.ClassDef):
            node.body = [self.visit(item) if isinstance(item, Function) else item for item in node.body]
        elif isinstance(node, Function):
            runs = node in self.flow.ran
            node.body = [part for item in node.body for part in self.parts(item)] if runs else [never(node), *node.body]
        else:
            for name, value in ast.iter_fields(node):
                if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                    setattr(node, name, [part for item in value for part in self.parts(item)])
                elif isinstance(value, list):
                    setattr(node, name, [self.visit(item) if isinstance(item, ast.AST) else item for item in value])
                elif isinstance(value, ast.AST) and name != "annotation":
                    setattr(node, name, self.visit(value))
        return node

    def parts(self, node: ast.stmt) -> list[ast.stmt]:
        quiet = isinstance(node, Function | ast.Nonlocal | ast.Pass | ast.Import | ast.ImportFrom | ast.AnnAssign)
        if node in self.flow.reached or quiet:
            return [self.visit(node)]
        return [never(node), node]

    def check(self, index: int, value: object) -> object:
        """Return `value` when it is among what is known."""
        text, known = self.facts[index]
        self.checked += 1
        assert any(self.admits(atom, value) for atom in known), f"{text} is {value!r:.200}, not one of {known}"
        return value

    def admits(self, atom: object, value: Any) -> bool:
        if isinstance(atom, Const):
            return type(value).__name__ == atom.kind and repr(value) == atom.text
        if isinstance(atom, Instance):
            return type(value).__name__ == atom.class_name
        if isinstance(atom, Items):
            if atom.keys is not None:
                return list(value) == list(atom.keys)
            return len(value) == len(atom.values) and all(
                any(self.admits(inner, item) for inner in members)
                for members, item in zip(atom.values, value, strict=True)
            )
        if isinstance(atom, Reference):
            return getattr(value, "__name__", "") == atom.name
        if isinstance(atom, Foreign):
            return value is not None and type(value).__name__ not in self.flow.names.classes
        return True


def never(node: ast.stmt) -> ast.stmt:
    """Return a statement that fails, put before one that cannot run."""
    return ast.parse(f"raise AssertionError({'ran: ' + ast.unparse(node)[:100]!r})").body[0]


def run_watched(source: str) -> int:
    """Run the program of a source text and return how many values were checked."""
    tree = ast.parse(source)
    watcher = Watcher(Flow(tree))
    tree = ast.fix_missing_locations(watcher.visit(tree))
    exec(compile(tree, "<watched>", "exec"), {"__name__": "__main__", "_watch": watcher.check})
    return watcher.checked


if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    print("checked", run_watched(Path(sys.argv[0]).read_text("utf-8")), file=sys.stderr)
