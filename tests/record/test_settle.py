"""What a recipe decides is decided, and nothing else; a settled program prints what it printed before."""

import ast
import contextlib
import io
import re

import pytest

from pipeline.record.reachable import filled
from pipeline.record.settle import settle

CLASSES = """
from dataclasses import dataclass, replace
from typing import NamedTuple


class Round:
    seed = 5


@dataclass(frozen=True, kw_only=True)
class Wheel(Round):
    spokes: int
    tube: str | None = "tube"

    def hub(self) -> str:
        return f"hub {self.tube is None}"


@dataclass(frozen=True, kw_only=True)
class Ski:
    length: int


Part = Wheel | Ski


@dataclass(frozen=True, kw_only=True)
class Bike:
    front: Wheel
    rear: Wheel
    extra: Part | None
    gears: tuple[int, ...]
    seed: int
    label: str

    def wheel_of(self, number: int) -> Wheel:
        return self.front if number else self.rear
"""
CALL = (
    "main(Bike(front=Wheel(spokes=36, tube=None), rear=Wheel(spokes=28, tube=None), "
    'extra=None, gears=(1, 2), seed=7, label="it\'s"))\n'
)


def printed(source: str) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(source, "<program>", "exec"), {"__name__": "__main__"})
    return output.getvalue()


def settled(body: str) -> str:
    """Return what is left of the classes' program with this body; it prints the same."""
    source = f"{CLASSES}\n\n{body}\n\n\n{CALL}"
    small = ast.unparse(filled(settle(ast.parse(source))))
    assert printed(small) == printed(source) != "", small
    return small.partition("def wheel_of")[2].partition("main(Bike(")[0]


DECIDED = {
    "a setting": ("def main(bike: Bike):\n    print(bike.seed + 1)", "bike.seed", "print(7 + 1)"),
    "the same in all objects": (
        "def show(wheel: Wheel):\n    print(wheel.tube)\ndef main(bike: Bike):\n    show(bike.front)",
        "wheel.tube",
        "print(None)",
    ),
    "a branch": (
        "def main(bike: Bike):\n    if bike.extra is None:\n        print(1)\n    else:\n        print('gone')",
        "gone",
        "print(1)",
    ),
    "what follows an end": (
        "def main(bike: Bike):\n    if bike.seed == 7:\n        return print(1)\n    print('gone')",
        "gone",
        "print(1)",
    ),
    "a class that nobody makes": (
        "def main(bike: Bike):\n    for part in (bike.extra, bike.front):\n"
        "        print('gone' if isinstance(part, Ski) else 1)",
        "gone",
        "print(1)",
    ),
    "a local variable": (
        "def main(bike: Bike):\n    extra, seed = bike.extra, 1\n    if extra is not None:\n"
        "        print('gone')\n    print(seed)",
        "gone",
        "print(1)",
    ),
    "what a method gives": (
        "def main(bike: Bike):\n    wheel = bike.wheel_of(1)\n    print(1 if wheel.tube is None else 'gone')",
        "gone",
        "print(1)",
    ),
    "a constant of the module": (
        "KIND = None\ndef main(bike: Bike):\n    print(1 if bike.extra is KIND else 'gone')",
        "gone",
        "print(1)",
    ),
    "a loop over nothing": (
        "def main(bike: Bike):\n    for _ in range(bike.seed * 0):\n        print(1)\n"
        "    for _ in ():\n        print('gone')\n    print(2)",
        "gone",
        "range",
    ),
    "half of a condition": (
        "def main(bike: Bike):\n    if bike.seed == 8 and len(bike.gears):\n        print('gone')\n"
        "    print(len(bike.gears) if len(bike.gears) or bike.seed == 8 else 0)",
        "gone",
        "len",
    ),
    "the type of a number or a list": (
        "def main(bike: Bike):\n    print('gone' if isinstance(bike.gears, float) else bike.gears)",
        "gone",
        "print((1, 2))",
    ),
    "a list that is there": (
        "def main(bike: Bike):\n    print('gone' if bike.gears is None else bike.gears)",
        "gone",
        "print((1, 2))",
    ),
    "a part that is not there": (
        "def show(part: Part):\n    print(getattr(part, 'spokes', 0))\n"
        "    if isinstance(part, Wheel) and part.tube:\n        print('gone')\n"
        "def main(bike: Bike):\n    show(bike.rear)",
        "gone",
        "spokes",
    ),
}  # what is decided: (body, what is gone, what is left)

OPEN = {
    "objects that differ": "def show(wheel: Wheel):\n    print(wheel.spokes > 30)\n"
    "def main(bike: Bike):\n    show(bike.front)\n    show(bike.rear)",
    "a field that is replaced": "def show(bike: Bike):\n    print(bike.seed)\n"
    "def main(bike: Bike):\n    show(replace(bike, seed=9))",
    "a class that the program makes": "def show(wheel: Wheel):\n    print(wheel.tube)\n"
    "def main(bike: Bike):\n    show(Wheel(spokes=1, tube='other'))",
    "a name bound twice": "def main(bike: Bike):\n    extra = bike.extra\n    for extra in bike.gears:\n"
    "        print(extra is None)",
    "a parameter bound again": "def show(extra: Ski | None):\n    for extra in (1,):\n        print(extra is None)\n"
    "def main(bike: Bike):\n    show(bike.extra)",
    "a name bound by an inner function": "def main(bike: Bike):\n    extra = bike.extra\n    def change():\n"
    "        nonlocal extra\n        extra = 5\n    change()\n    print(extra)",
    "a class with others below it": "class Rider:\n    pass\nclass Racer(Rider):\n    pass\n"
    "def show(who: Rider | None):\n"
    "    print(isinstance(who, Rider))\ndef main(bike: Bike):\n    show(Racer())",
    "a field from above": "def show(part: Bike | Wheel):\n    print(part.seed)\n"
    "def main(bike: Bike):\n    show(bike.rear)",
    "a class above that of settings": "def show(part: Part):\n    print(isinstance(part, Round))\n"
    "def main(bike: Bike):\n    show(bike.front)",
    "a constant that is bound again": "COUNT = 0\ndef main(bike: Bike):\n    global COUNT\n"
    "    COUNT += 1\n    print(COUNT)",
    "what does something and gives nothing that exists": "def speak() -> Ski | None:\n    print('spoken')\n"
    "def main(bike: Bike):\n    said = speak()\n    print(said is None)\n    speak()",
    "what does something": "def speak() -> None:\n    print('spoken')\ndef main(bike: Bike):\n    speak()",
    "a generator of nothing": "def parts(bike: Bike):\n    if bike.extra is not None:\n        yield bike.extra\n"
    "def main(bike: Bike):\n    print(list(parts(bike)))",
    "a text inside of a text": "def main(bike: Bike):\n    print(f'{bike.label:>9}')",
    "a generator of what is decided": "def parts(bike: Bike):\n    for gear in bike.gears:\n"
    "        if bike.extra is not None:\n            yield gear\ndef main(bike: Bike):\n    print(list(parts(bike)))",
    "a generator with another inside": "def parts(bike: Bike):\n    def inner():\n        yield 1\n"
    "    if bike.extra is not None:\n        yield inner\ndef main(bike: Bike):\n    print(list(parts(bike)))",
    "a union that is asked for": "def main(bike: Bike):\n    print(isinstance(bike.front, Part))\n"
    "    print(isinstance(bike.seed, int))",
    "self of a class that the program makes": "def main(bike: Bike):\n    print(Wheel(spokes=1, tube='other').hub())",
    "a call on the way": "def speak(bike: Bike) -> Wheel:\n    print('spoken')\n    return bike.front\n"
    "def silent() -> Ski | None:\n    print('spoken')\n"
    "def main(bike: Bike):\n    print(speak(bike).tube, silent() is None, isinstance(silent(), Ski))",
    "a block of decided statements": "def main(bike: Bike):\n    for gear in bike.gears:\n"
    "        if bike.extra is not None:\n            print(gear)\n    print(gear)",
    "a parameter called like a function": "def make() -> None:\n    pass\ndef use(make):\n    got = make()\n"
    "    print(got is None)\ndef main(bike: Bike):\n    use(int)",
    "a form of types": "from typing import Protocol\nclass Rolls(Protocol):\n    spokes: int\n"
    "def show(part: Rolls | None):\n    print(part is None)\ndef main(bike: Bike):\n    show(bike.front)",
    "a default called like a builtin": "class Row(NamedTuple):\n    bytes: int = 0\ndef main(bike: Bike):\n"
    "    print(bytes(2), Row())",
    "a name of an outer function": "def main(bike: Bike):\n    state = 5\n    def bump():\n        nonlocal state\n"
    "        state += 1\n    def reset():\n        nonlocal state\n        state = 0\n        bump()\n"
    "        print(state)\n"
    "    reset()",
    "a field that a module's function replaces": "import dataclasses\ndef show(bike: Bike):\n    print(bike.gears)\n"
    "def main(bike: Bike):\n    show(dataclasses.replace(bike, gears=(9,)))",
    "fields that nobody names replaced": "def show(bike: Bike):\n    print(bike.gears)\ndef main(bike: Bike):\n"
    "    new = {'gears': (9,)}\n    show(replace(bike, **new))",
}


@pytest.mark.parametrize("name", DECIDED)
def test_what_the_recipe_decides_is_decided(name: str):
    body, gone, left = DECIDED[name]
    small = settled(body)
    assert not re.search(rf"\b{re.escape(gone)}\b", small), small
    assert left in small, small


@pytest.mark.parametrize("name", OPEN)
def test_what_the_recipe_does_not_decide_stays(name: str):
    settled(OPEN[name])


def test_a_text_inside_of_a_text_is_left_to_the_run():
    assert "{bike.label:>9}" in settled(OPEN["a text inside of a text"])  # Pythons would quote it differently


def test_settling_again_changes_nothing():
    for body, _, _ in DECIDED.values():
        small = ast.unparse(filled(settle(ast.parse(f"{CLASSES}\n\n{body}\n\n\n{CALL}"))))
        assert ast.unparse(filled(settle(ast.parse(small)))) == small
