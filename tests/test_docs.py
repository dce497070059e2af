"""The documents: every command parses, is run by a test or says why not; links lead somewhere; messages exist.

The one idea: a command that is shown is a line of a block. Each is checked against the parser of its program without
running anything, and `RUN_BY` says which test runs it; what no test can run stands in `NOT_RUN` with the reason.
docs/EXPERIMENTS.md is a log: its commands are those of their commits.
"""

import argparse
import ast
import contextlib
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import dvc
import pytest
from dvc.cli import DvcParserError, parse_args
from ruamel.yaml import YAML

from stages.cli import fairway
from tests.conftest import REPO

PAGES = [REPO / "README.md", *sorted(set((REPO / "docs").glob("*.md")) - {REPO / "docs/EXPERIMENTS.md"})]
BENCHMARKS = sorted(
    ".".join(path.relative_to(REPO).with_suffix("").parts)
    for path in (REPO / "benchmarks").rglob("*.py")
    if '\nif __name__ == "__main__":' in path.read_text() and path.name != "part.py"
)
"""All but the process that `benchmarks.gpu_check` starts for a part."""
PROGRAMS = {
    "fairway",
    "dvc",
    "python",
    "make",
    "torchrun",
    "pip",
    "git",
    "source",
    "cd",
    "mkdir",
    "for",
    "mv",
    "sed",
    "cat",
}
ASSIGNMENT = re.compile(r"[A-Z_]+=\S+")
NUMBERS = {"S": "444", "N": "2", "R": "0"}
"""What stands for a number in commands of several machines and in tables."""
COURSE = "tests/stages/test_docs_course.py"
NOT_RUN = {
    "make (demo|test|test-slow)": "they run the tests, or are run by `python -m benchmarks.course`",
    "(ONEDNN_MAX_CPU_ISA|MKL_ENABLE_INSTRUCTIONS)=.*": "hours, or another processor",
    "torchrun .*": "several GPUs or machines",
    "(OMP_NUM_THREADS=1 )?python -m benchmarks.*": "minutes to hours; tests/benchmarks run them at a small size",
}
RUN_BY = {
    "source .*|mkdir .*|for .*|mv .*|sed .*": COURSE,
    "dvc repro( metrics| prepare|)": COURSE,
    "dvc repro -f prepare|dvc checkout": "tests/stages/test_remedies.py",
    "dvc repro --downstream quantize|dvc exp run (metrics -n small )?-S .*|dvc (metrics|plots) show": COURSE,
    "fairway (check|status|report|report --html page.html|recipe use .*|recipe list|sample .*|score .*)": COURSE,
    "cat notes.txt": COURSE,
    "fairway train --seed 444 --dry-run.*|fairway train --help": COURSE,
    "fairway report --html page.html ../.*": "tests/stages/test_report_page.py",
    "fairway compare .*": "tests/stages/test_compare.py",
    "fairway import .*": "tests/stages/test_import.py",
    "fairway verify .*": "tests/verification/test_folder.py",
    "dvc exp (run (metrics|--run-all)|show|apply|remove) ?.*|dvc params diff .*": "tests/stages/test_sweeps.py",
    "dvc (remote add|push|pull).*|git (add|commit|clone) .*|cd ../clone": "tests/stages/test_sweeps.py",
    "pip install .*|fairway init .*|cd my-model|git init|dvc init": "tests/stages/test_install.py",
}


OTHER_NAMES = {"model.fwy", "train.log", "model.hidden", "model.config", "quantize.steps.bits", "budget.reached"}
"""What looks like a parameter of a recipe: files, Python, a kind of steps that no recipe has, a field of a report."""


class Command(NamedTuple):
    """A command as a page shows it."""

    page: str
    text: str
    """Without comments and what follows `&&` or `|`."""

    @property
    def words(self) -> list[str]:
        """The words of the command, without variables before it; letters that stand for numbers are numbers."""
        words = shlex.split(self.text)
        while ASSIGNMENT.fullmatch(words[0]):
            words.pop(0)
        return [NUMBERS.get(word, word) for word in words]


def shell_blocks(text: str) -> list[str]:
    """Return the blocks of a page, fenced or indented, in which a line begins with a program."""
    fenced = re.findall(r"^```(?:bash|sh)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    indented = re.findall(r"(?<=\n\n)(?:    .*\n)+", prose(text))
    indented = [re.sub("^    ", "", each, flags=re.MULTILINE) for each in indented]
    return [block for block in [*fenced, *indented] if any(map(is_command, block.splitlines()))]


def prose(text: str) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def is_command(line: str) -> bool:
    words = [word for word in line.split() if not ASSIGNMENT.fullmatch(word)]
    return bool(words) and words[0] in PROGRAMS and not line.startswith(" ")


def commands_of(page: Path) -> Iterator[Command]:
    """Yield every command of a page's blocks, those after `&&` and `|` too."""
    for block in shell_blocks(page.read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=False, punctuation_chars=True)
            lexer.whitespace_split, lexer.commenters = True, "#"
            parts: list[list[str]] = [[]]
            for word in lexer:
                if word in ("&&", "|"):
                    parts.append([])
                else:
                    parts[-1].append(word)
            yield from (Command(page.name, " ".join(part)) for part in parts if part)


COMMANDS = sorted({command for page in PAGES for command in commands_of(page)})
SPANS = sorted(
    {
        Command(page.name, " ".join(span.split()))
        for page in PAGES
        for span in re.findall(
            r"(?<!`)`((?:[A-Z_]+=\S+ )*(?:fairway|dvc|make|python -m) [^`]+)`(?!`)", page.read_text()
        )
    }
)
"""Commands within sentences, which may leave arguments out."""


def of(*programs: str, commands: list[Command] = COMMANDS) -> list[Command]:
    return [command for command in commands if command.words[: len(programs)] == list(programs)]


def named(commands: list[Command]) -> dict:
    return {"argvalues": commands, "ids": [f"{command.page}: {command.text}" for command in commands]}


def test_commands_are_found():
    assert len(COMMANDS) > 60
    assert {command.page for command in COMMANDS} >= {"README.md", "quickstart.md", "own-text.md", "gpu.md", "faq.md"}


@pytest.mark.parametrize("command", **named(COMMANDS))
def test_a_test_runs_it_or_none_can(command: Command):
    rows = [row for row in (RUN_BY | NOT_RUN) if re.fullmatch(row, command.text)]
    assert rows, "no row of RUN_BY or NOT_RUN"
    assert rows[0] in NOT_RUN or (REPO / RUN_BY[rows[0]]).is_file()


def parse(command: click.Command, words: list[str]) -> None:
    """Let click read the words, down to the last command, and run nothing."""
    if isinstance(command, click.Group):
        name, *words = words
        found = command.get_command(click.Context(command), name)
        assert found, f"no command {name}"
        parse(found, words)
        return
    with contextlib.suppress(click.exceptions.Exit):  # --help
        command.make_context(command.name, words)


@pytest.mark.parametrize("command", **named(of("fairway")))
def test_fairway_reads_it(command: Command):
    parse(fairway, command.words[1:])


@pytest.mark.parametrize("command", **named(of("fairway", commands=SPANS)))
def test_a_command_within_a_sentence_has_the_options_that_it_names(command: Command):
    found: click.Command | None = fairway
    for word in command.words[1:]:
        if isinstance(found, click.Group):
            found = found.get_command(click.Context(found), word.rstrip(","))
            assert found, word
        elif word.startswith("-"):
            assert word in {"-h", "--help", *(name for each in found.params for name in each.opts)}, word


@pytest.mark.parametrize("command", **named(of("dvc") + of("dvc", commands=SPANS)))
def test_dvc_reads_it_and_knows_the_stage(command: Command):
    words = [word for word in command.words[1:] if not re.fullmatch("[A-Z_]+", word)]
    missing = len(words) < len(command.words) - 1 or command not in COMMANDS
    with contextlib.suppress(DvcParserError) if missing else contextlib.nullcontext():
        parse_args(words)
    stages = re.findall(r"^  ([a-z-]+):$", (REPO / "dvc.yaml").read_text(), re.MULTILINE)
    if words[0] in ("repro", "commit"):
        assert {word.partition("@")[0] for word in words[1:] if not word.startswith("-")} <= set(stages)


@pytest.mark.parametrize("command", **named(of("make") + of("make", commands=SPANS)))
def test_make_knows_the_target(command: Command):
    targets = {word for word in command.words[1:] if "=" not in word}
    assert targets <= set(re.findall(r"^(\S+):", (REPO / "Makefile").read_text(), re.MULTILINE))


class ParsedError(Exception):
    """The arguments have been read."""


@pytest.fixture
def only_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    """End a benchmark where its arguments have been read."""
    read = argparse.ArgumentParser.parse_args

    def parse_args(*arguments: object) -> None:
        read(*arguments)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)


def main_of(module: str):
    found = importlib.import_module(module)
    return (importlib.import_module(f"{module}.__main__") if hasattr(found, "__path__") else found).main


@pytest.mark.parametrize("command", **named(sorted({*of("python", "-m"), *of("python", "-m", commands=SPANS)})))
def test_the_benchmark_reads_it(command: Command, monkeypatch: pytest.MonkeyPatch, capsys, only_parsing: None):
    if not command.words[2].startswith("benchmarks."):
        assert importlib.util.find_spec(command.words[2])
        return
    monkeypatch.setattr("sys.argv", command.words[2:])
    with pytest.raises((ParsedError, SystemExit)) as ended:
        main_of(command.words[2])()
    left_out = command not in COMMANDS and "arguments are required" in capsys.readouterr().err
    assert ended.type is ParsedError or left_out


@pytest.mark.parametrize("module", BENCHMARKS)
def test_help_of_a_benchmark_starts_nothing(module: str, monkeypatch: pytest.MonkeyPatch, capsys, only_parsing: None):
    monkeypatch.setattr("sys.argv", [module, "--help"])
    with contextlib.suppress(SystemExit):  # of torchrun's programs it is caught
        importlib.import_module(module).main()
    assert f"usage: python -m {module.removesuffix('.__main__')} " in capsys.readouterr().out


def anchors(page: Path) -> set[str]:
    """Return what the headings of a page are linked by."""
    headings = re.findall(r"^#+ (.*)$", prose(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text())):
        path, _, anchor = target.partition("#")
        found = page.parent / path if path else page
        assert path.startswith("https://") or found.exists(), target
        assert not anchor or anchor in anchors(found), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_parameters_that_a_page_names_exist(page: Path):
    recipes = [YAML(typ="safe").load(path.read_text()) for path in (REPO / "recipes").glob("*.yaml")]
    known = {key for recipe in recipes for key in dotted_keys(recipe, "")} | OTHER_NAMES
    named = re.findall(rf"`((?:{'|'.join(recipes[0])})(?:\.[a-z_]+)+)(?:: [^`]*)?`", page.read_text())
    assert set(named) <= known


def dotted_keys(values: object, prefix: str) -> Iterator[str]:
    """Yield every key of a configuration with those above it."""
    for key, value in values.items() if isinstance(values, dict) else ():
        yield f"{prefix}{key}"
        yield from dotted_keys(value, f"{prefix}{key}.")


def texts_of(*paths: Path) -> list[str]:
    """Return every constant text of Python files."""
    nodes = (node for path in paths for node in ast.walk(ast.parse(path.read_text("utf-8"))))
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def test_every_message_of_the_faq_is_one_of_the_source():
    headings = re.findall(r"^### (`+)(.+?)\1(.*)$", (REPO / "docs/faq.md").read_text(), re.MULTILINE)
    ours = texts_of(REPO / "fairway.py", *(REPO / "pipeline").rglob("*.py"), *(REPO / "stages").rglob("*.py"))
    theirs = texts_of(*(Path(dvc.__file__).parent / name for name in ("lock.py", "rwlock.py")))
    sources = {"": [*ours, (REPO / "Makefile").read_text()], " (DVC)": theirs}
    assert len(headings) > 20
    for _, message, whose in headings:
        assert any(message.strip() in text for text in sources[whose]), message
