"""`fairway init` and `fairway code`: a folder of one's own, run by an installed Fairway.

The one idea: the stages of a checkout depend on the rooms of its library; those of any other folder on a copy of the
installed sources, which a first stage takes at every `dvc repro`. So another version of Fairway reruns what it changes.
"""

import re
import shlex
import shutil
from pathlib import Path

import click

from stages.recipe import RECIPES
from stages.shell.console import ROOT

LAYOUT = Path(__file__).parent / "layout"
"""dvc.yaml, .gitignore and .dvcignore of the checkout, under names that DVC and git do not take for their own."""
HEAD = """\
# One stage per command; `seeds` and `evaluate.items` of params.yaml spread them. A stage depends on the sources of the
# rooms that it runs, which the first stage copies from the installed Fairway whenever `dvc repro` runs.

stages:
  code:
    desc: Sources of the installed Fairway; another version reruns the stages whose code it changes.
    cmd: fairway code
    always_changed: true
    outs:
      - artifacts/code

"""


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=".")
@click.option("--recipe", "name", default="demo", show_default=True, help="The configuration to begin with.")
def init(folder: Path, name: str) -> None:
    """Lay out FOLDER (default: this one) so that `dvc repro` works in it: params.yaml, dvc.yaml, and what git ignores.

    params.yaml is a recipe (`fairway recipe list`). Overwrites nothing: to .gitignore and .dvcignore, the lines that
    they lack are added.
    """
    from pipeline.base.files import write_bytes
    from pipeline.recipes.recipes import recipe_path

    configuration = recipe_path(RECIPES, name).read_bytes()
    for path in (folder / "params.yaml", folder / "dvc.yaml"):
        if path.exists():
            raise ValueError(f"init: got {path}, expected a folder without it; name another, as in `fairway init NEW`")
    for each in ("gitignore", "dvcignore"):
        _add_lines(folder / f".{each}", (LAYOUT / each).read_text("utf-8"))
    write_bytes(folder / "dvc.yaml", stages_of_installed((LAYOUT / "stages.yaml").read_text("utf-8")).encode())
    write_bytes(folder / "params.yaml", configuration)
    click.echo(f"{folder / 'params.yaml'} is recipe {name}, {folder / 'dvc.yaml'} holds the stages; next:")
    enter = "" if folder.resolve() == Path.cwd() else f"cd {shlex.quote(str(folder))} && "
    click.echo(f"  {enter}git init && dvc init && dvc repro")


def stages_of_installed(text: str) -> str:
    """Return the dvc.yaml of a checkout as one whose stages run the console script and depend on copied sources."""
    text = HEAD + text.partition("\nstages:\n")[2]
    text = text.replace("cmd: python -m stages.cli ", "cmd: fairway ")
    return re.sub(r"^( +- )(pipeline|stages)/", r"\1artifacts/code/\2/", text, flags=re.MULTILINE)


def _add_lines(path: Path, wanted: str) -> None:
    """Append to a file the lines of `wanted` that it lacks."""
    from pipeline.base.files import write_bytes

    present = path.read_text("utf-8") if path.exists() else ""
    missing = [line for line in wanted.splitlines() if line not in present.splitlines()]
    lines = [*present.splitlines(), *missing]
    write_bytes(path, "".join(f"{line}\n" for line in lines).encode())


@click.command()
def code() -> None:
    """Copy the sources of this Fairway to artifacts/code/, for the dvc.yaml that `fairway init` writes.

    That one's stages depend on the copy; no command reads it, nor params.yaml here.
    """
    from pipeline.base.artifacts import ROOT as ARTIFACTS
    from pipeline.base.closure import PROJECT_PACKAGES
    from pipeline.base.files import atomic_folder

    with atomic_folder(ARTIFACTS / "code") as folder:
        for source in (path for package in PROJECT_PACKAGES for path in (ROOT / package).rglob("*.py")):
            target = folder / source.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
