"""`fairway recipe`: the complete configurations of published systems."""

import sys
from pathlib import Path

import click

from stages.shell.console import ROOT, params_path_option
from stages.shell.folding import wrapped

RECIPES = ROOT / "recipes"


@click.group()
def recipe() -> None:
    """List, show, compare and use recipes: complete configurations that take the place of params.yaml."""


@recipe.command("list")
def list_recipes() -> None:
    """Print every recipe with its one-line description."""
    from pipeline.recipes.recipes import description, recipe_names, recipe_path

    names = recipe_names(RECIPES)
    width = max(map(len, names), default=0)
    for name in names:
        click.echo(wrapped(f"{name:<{width}}  {description(recipe_path(RECIPES, name))}"))


@recipe.command()
@click.argument("name")
@click.option("--visits", is_flag=True, help="Print the order of visits as a picture instead.")
def show(name: str, visits: bool) -> None:
    """Print a recipe, or the order in which its blocks are visited."""
    from pipeline.recipes.recipes import recipe_path

    path = recipe_path(RECIPES, name)
    if not visits:
        click.echo(path.read_text("utf-8"), nl=False)
        return
    from pipeline.base.config import load_params
    from pipeline.reports.visit_picture import visit_picture

    click.echo(visit_picture(load_params(path, ["model"]).model), nl=False)


@recipe.command(short_help="Print the keys in which a recipe differs from params.yaml.")
@click.argument("name")
@params_path_option
def diff(name: str, params_path: str) -> None:
    """Print the keys in which a recipe differs from params.yaml: value there -> value in the recipe."""
    from pipeline.recipes.recipes import recipe_path

    _print_differences(Path(params_path), recipe_path(RECIPES, name))


@recipe.command(short_help="Write a recipe over params.yaml, after asking.")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@params_path_option
def use(name: str, yes: bool, params_path: str) -> None:
    """Write a recipe over params.yaml, after showing the difference and asking."""
    from pipeline.base.config import SECTIONS, load_params
    from pipeline.base.files import write_bytes
    from pipeline.recipes.recipes import recipe_path

    source, target = recipe_path(RECIPES, name), Path(params_path)
    load_params(source, SECTIONS)
    if target.exists():
        _print_differences(target, source)
    if not yes and not sys.stdin.isatty():
        raise ValueError(f"recipe use: {target} would be overwritten and nobody can be asked here; add --yes")
    if not yes:
        click.confirm(f"Overwrite {target}?", abort=True, err=True)
    write_bytes(target, source.read_bytes())
    click.echo(f"{target} is now recipe {name}")


def _print_differences(before: Path, after: Path) -> None:
    from pipeline.recipes.recipes import differences

    found = differences(before, after)
    for change in found:
        click.echo(wrapped(f"{change.key}: {change.before} -> {change.after}"))
    if not found:
        click.echo(f"{before} holds the same values")
