"""A stage on several processes: what train, calibrate and evaluate share, apart from what all stages do."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from pipeline.base.checks import FairwayError
from stages.shell.running import keep_seconds

if TYPE_CHECKING:
    from pipeline.base.ranks import Ranks
    from pipeline.launching.config import LaunchConfig


_SECONDS_BETWEEN_LOOKS = 0.2


def run_on_ranks(
    stage: str,
    seed: int,
    params_path: str,
    launch: "LaunchConfig",
    run: "Callable[[Ranks], None]",
    options: Sequence[str] = (),
) -> None:
    """Call `run` on every rank: on this one alone, or in the torchrun group that this process is in or starts.

    A group runs the stage's own command again, `options` being what it got besides seed and parameters. An error on a
    rank goes to torchrun's error file, from which the parent prints one line for all ranks.
    """
    from torch.distributed.elastic.multiprocessing.errors import record

    from pipeline.launching.processes import StoppedError, launched_ranks, resolve_processes, torchrun

    ranks, num_processes = launched_ranks(), resolve_processes(launch.num_processes, launch.device)
    if ranks.world_size > 1:
        threading.Thread(target=_end_with, args=[os.getppid()], daemon=True).start()
        try:
            record(run)(ranks)
        except (ValueError, OSError, FairwayError):
            sys.exit(1)
    elif num_processes > 1:
        try:
            argv = [stage, "--seed", str(seed), "--params", params_path, *options]
            torchrun("stages.cli", argv, num_processes)
            keep_seconds(stage, seed, click.get_current_context().params.get("item"))
        except StoppedError as stop:
            sys.exit(stop.exit_code)  # rank 0 has said where
    else:
        run(ranks)


def _end_with(parent: int) -> None:
    """Kill this rank when its torchrun has died: nobody else would end it.

    At any moment: what it was writing counts as unwritten, and its peers die of the same.
    """
    while os.getppid() == parent:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    os.kill(os.getpid(), signal.SIGKILL)
