"""Attributes that are constants are written as such, and no others."""

import ast

from pipeline.record.fixed import fix_attributes
from pipeline.record.settle import settle

PROGRAM = """
class A(Module):
    held = 1
    def __init__(self, x):
        self.none = None
        self.number: int = 3
        self.twice = None
        self.elsewhere = None
        self.held = 2
        if x:
            self.sometimes = None
        self.given = x
    def read(self, other):
        self.twice = other.none
        if self.none is None:
            return self.number, self.twice, self.elsewhere, self.held, self.sometimes, self.given
        return self.lost()
def f(a):
    a.elsewhere = 5
main()
"""


def test_what_is_stored_once_as_a_constant_is_that_constant():
    text = ast.unparse(settle(fix_attributes(ast.parse(PROGRAM))))
    assert "return (3, self.twice, self.elsewhere, self.held, self.sometimes, self.given)" in text
    assert "self.twice = other.none" in text, "another object may be of another class"
    assert "lost" not in text
    assert "self.none = None" in text


def test_a_program_that_sets_attributes_by_name_is_left_alone():
    program = PROGRAM + "setattr(a, 'none', 1)\n"
    assert ast.unparse(fix_attributes(ast.parse(program))) == ast.unparse(ast.parse(program))
