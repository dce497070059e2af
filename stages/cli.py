"""The `fairway` command: a lazy group, exit codes, errors as one line.

Exit codes: 0 success, 1 an error of input or parameters (one line), 2 wrong usage, 3 nothing to verify, 130 Ctrl-C, 143
SIGTERM. A traceback is a bug.
"""

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fairway import outside, shadowed

if wrong := shadowed("pipeline", Path(__file__).resolve().parents[1]):
    sys.exit(wrong)

from pipeline.launching.signals import obey_signals

if __name__ == "__main__":
    obey_signals()  # the imports below take a while

import click

from pipeline.base.checks import FairwayError
from pipeline.launching.openmp import wait_briefly

COMMANDS = {
    "prepare": ("stages.prepare", "Turn a corpus into a tokenizer, shards and a byte table."),
    "train": ("stages.train", "Train the float checkpoint of one seed."),
    "calibrate": ("stages.calibrate", "Collect the Hessians that the quantizer needs."),
    "quantize": ("stages.quantize", "Turn a checkpoint into an artifact of the budgeted size."),
    "evaluate": ("stages.evaluate", "Score the artifact (or the float checkpoint) in bits per byte."),
    "metrics": ("stages.metrics", "Gather the figures of one seed that runs are compared by."),
    "package": ("stages.package", "Build the record folder and prove that it reproduces its score."),
    "audit": ("stages.audit", "Prove, from outside, that a record's scores are legal."),
    "verify": ("stages.verify", "Compare what a record folder states with its own files."),
    "check": ("stages.check", "Check the whole of params.yaml and run nothing."),
    "demo": ("stages.demo", "Run the whole pipeline and say how long it will take."),
    "report": ("stages.report", "Print the result table of the last run."),
    "compare": ("stages.compare", "Compare runs, experiments and revisions."),
    "status": ("stages.status", "Say how every stage stands, why, and what to type next."),
    "sample": ("stages.sample", "Let a model write."),
    "score": ("stages.score", "Say what any text costs under a model, in bits per byte."),
    "init": ("stages.init", "Lay out a folder in which `dvc repro` works."),
    "code": ("stages.init:code", "Copy the sources that the stages of such a folder depend on."),
    "recipe": ("stages.recipe", "List, show, compare and use the configurations of published systems."),
    "import": ("stages.import_checkpoint:import_checkpoint", "Put a community checkpoint in the place of training."),
}
"""Command -> module (with the command's name in it where that differs) and one-line help; imported only on use."""


class LazyGroup(click.Group):
    """A group whose commands are imported on use, so that `--help` never loads torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of the pipeline."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        return getattr(importlib.import_module(module), attribute or cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the arguments name; of one that is not there, the error names the nearest."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            nearest = difflib.get_close_matches(args[0], COMMANDS, n=1)
            ctx.fail(f"No such command '{args[0]}'." + "".join(f" Did you mean '{name}'?" for name in nearest))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command list from the table, importing nothing."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_text) for name, (_, help_text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fairway")
def fairway() -> None:
    """Train a small language model, squeeze it under a byte budget, score it in bits per byte, package the record.

    The commands down to `audit` are the stages of `dvc repro`; run alone, one reads params.yaml and the artifacts of
    earlier stages. The others look at runs, models and records, or begin a run.

    \b
    fairway init my-model      a folder to begin in
    fairway status             how every stage stands, and what to type next
    fairway train --help       what a command reads, writes and takes
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with the documented code."""
    obey_signals()
    if wrong := outside(Path(__file__).resolve().parents[1]):
        sys.exit(wrong)
    wait_briefly(os.environ)  # before any command loads torch; the processes it starts inherit it
    try:
        sys.exit(fairway.main(args=arguments, prog_name="fairway", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except (ValueError, OSError, FairwayError) as error:
        print(f"fairway: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
