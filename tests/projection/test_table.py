"""What a dry run prints of a machine: it fits a terminal, and its sums are sums."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from stages.cli import fairway

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def dry_run(recipe: str, machine: str) -> list[str]:
    arguments = ["train", "--seed", "1", "--params", str(RECIPES / f"{recipe}.yaml"), "--dry-run", "--machine", machine]
    shown = CliRunner().invoke(fairway, arguments, catch_exceptions=False)
    assert shown.exit_code == 0, shown.output
    return shown.output.splitlines()


def column(lines: list[str], first: str, last: str) -> list[float]:
    """Return the last column between two rows."""
    begin = next(i for i, line in enumerate(lines) if line.startswith(first))
    end = next(i for i, line in enumerate(lines) if i > begin and line.startswith(last))
    return [float(line.split()[-1]) for line in lines[begin + 1 : end + 1]]


def check(lines: list[str], seconds: float, items: int) -> None:
    start = next(i for i, line in enumerate(lines) if line.startswith("projected for"))
    assert max(map(len, lines[start:])) <= 80
    *stages, total = column(lines, "training from", "all ")
    assert sum(stages) == pytest.approx(total, abs=0.05 * (len(stages) + 1) + 1e-6), "rounded one by one"
    assert total == pytest.approx(seconds, abs=0.3), "a step at most more than the clock"
    first = next(i for i, line in enumerate(lines) if line.startswith("evaluation, seconds"))
    for line in lines[first + 1 : first + 1 + items]:
        *parts, whole = [0.0 if cell == "-" else float(cell) for cell in line.split()[1:]]
        assert sum(parts) == pytest.approx(whole, abs=3), "rounded one by one"
    assert lines[first + 1 + items].startswith("of ")
    assert "bits for each of" in lines[-2]


def test_a_dry_run_says_where_the_seconds_go() -> None:
    check(dry_run("microcrawler-4f1c", "8xh100"), 580, items=2)


@pytest.mark.slow
def test_the_same_of_every_part_at_full_size() -> None:
    check(dry_run("fairway-16mb", "8xh100"), 580, items=3)


def test_a_speed_without_a_dry_run_starts_no_training() -> None:
    shown = CliRunner().invoke(fairway, ["train", "--seed", "1", "--machine", "8xh100"])
    assert shown.exit_code == 2
    assert "add --dry-run" in shown.output
