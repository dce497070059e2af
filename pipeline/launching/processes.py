"""Processes and devices: who am I, how do several of me start and agree, and what do we run on.

The one idea: a rank is a plain value read once from torchrun's environment; everything else takes it as an argument.
This is the only module of the library that touches the environment: it reads RANK, LOCAL_RANK and WORLD_SIZE, and hands
ranks that it starts OMP_NUM_THREADS, their share of the cores, unless the user set it. A torchrun that the user started
himself is left as it is: there the 1 that torchrun sets by default looks like a 1 that the user chose.

Source: torch.distributed.run (torchrun), called in process.
Differs: no restarts; a rank that dies ends the run with one line; ranks share the cores, where torchrun by default
    gives each a single thread.
Checked by: tests/launching/test_launch.py, tests/training/test_ranks.py.
"""

import contextlib
import logging
import os
import signal
from collections.abc import Iterator

import torch
import torch.distributed as dist

from pipeline.base.checks import FairwayError, require, require_always
from pipeline.base.ranks import ALONE, Ranks

_RANK_VARIABLES = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
"""What torchrun tells a process -> what holds without it."""


class LaunchError(FairwayError):
    """A process of a torchrun group died."""


class StoppedError(FairwayError):
    """A run ended early because a signal asked it to; `exit_code` is what a shell calls that end."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def current_ranks() -> Ranks:
    """Return what torchrun put into the environment, or the only rank of a world of one."""
    return Ranks(*(int(os.environ.get(name, unset)) for name, unset in _RANK_VARIABLES.items()))


def launched_ranks() -> Ranks:
    """Return the rank of a process that torchrun started, or the only rank of a world of one.

    Schedulers export the same variables: ValueError, by name, where they hold no number or tell of a group that is not
    torchrun's and would be waited for in vain.
    """
    for name, unset in _RANK_VARIABLES.items():
        text = os.environ.get(name, unset)
        require(text.isdecimal(), name, text, "a whole number, as torchrun sets it")
    ranks = current_ranks()
    require(
        ranks.world_size == 1 or dist.is_torchelastic_launched(),
        "WORLD_SIZE",
        ranks.world_size,
        "1 or no such variable in a process that torchrun did not start: unset it and set launch.num_processes, or "
        "start with torchrun",
    )
    return ranks if ranks.world_size > 1 else ALONE


def resolve_device(name: str, local_rank: int) -> torch.device:
    """Return the device for `auto`, `cpu` or `cuda`; on CUDA also make it the current one.

    Raises ValueError when CUDA is asked for and absent, or when there are more processes than GPUs.
    """
    require(name in ("auto", "cpu", "cuda"), "launch.device", name, "auto, cpu or cuda")
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and num_gpus == 0):
        return torch.device("cpu")
    require_always(num_gpus > 0, "launch.device", name, "auto or cpu: this machine has no usable CUDA device")
    require_always(local_rank < num_gpus, "launch.num_processes", local_rank + 1, f"at most {num_gpus}, one per GPU")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def resolve_processes(num_processes: int | str, device: str) -> int:
    """Return the processes to start here for a number, or for `auto`: one per GPU, one without GPUs."""
    if num_processes == "auto":
        return max(1, torch.cuda.device_count()) if device != "cpu" and torch.cuda.is_available() else 1
    return int(num_processes)


def available_cores() -> int:
    """Return the cores that this process may use; all of the machine's where the system does not say (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def process_group(ranks: Ranks, device: torch.device) -> Iterator[None]:
    """Join the ranks into a process group for the block; a world of one needs and makes none, nor does a block inside.

    On CUDA, tensors on the GPU travel by nccl and tensors on the host by gloo, so that agreeing on the clock never
    waits for the GPU.
    """
    if ranks.world_size == 1 or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        dist.init_process_group("cpu:gloo,cuda:nccl", device_id=device)
    else:
        dist.init_process_group("gloo")
    try:
        yield
    except BaseException:
        # Leaving an nccl group waits for peers, which may be stuck in a collective that this rank will never join.
        if device.type != "cuda":
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def torchrun(module: str, argv: list[str], num_processes: int) -> None:
    """Run `python -m module argv` on `num_processes` processes of this machine and wait; only rank 0 prints.

    Raises LaunchError, one line, when a rank dies. The cause of a death is part of the line when the module's main
    function carries torch.distributed.elastic's `record`. On SIGINT or SIGTERM torchrun passes the signal on to the
    ranks, kills those that have not ended after 30 seconds, and StoppedError follows; also when ranks ended by
    themselves with the exit code of such a signal. Each process computes with its share of the cores, or with the
    user's OMP_NUM_THREADS.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as run_torchrun

    silenced = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # what torchrun says of a dead rank, the error below says in one line
    try:
        with _threads_per_rank(num_processes):
            run_torchrun(
                [
                    "--standalone",
                    f"--nproc-per-node={num_processes}",
                    "--local-ranks-filter=0",
                    "--module",
                    module,
                    *argv,
                ]
            )
    except SignalException as error:
        raise StoppedError(f"{module}: stopped by {error.sigval.name}", error.sigval) from None
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode - 128 in (signal.SIGINT, signal.SIGTERM):
            raise StoppedError(f"{module}: rank {rank} stopped by a signal", failure.exitcode - 128) from None
        raise LaunchError(f"{module}: rank {rank} of {num_processes} died: {_death_of(failure)}") from None
    finally:
        logging.disable(silenced)


@contextlib.contextmanager
def _threads_per_rank(num_processes: int) -> Iterator[None]:
    """Share the cores among the processes started inside, unless the user chose a number of threads."""
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    os.environ["OMP_NUM_THREADS"] = str(max(1, available_cores() // num_processes))
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]


def _death_of(failure: "torch.distributed.elastic.multiprocessing.errors.ProcessFailure") -> str:
    """Return one line on why a rank died: its exception when recorded, else its signal or exit code."""
    if failure.error_file != "<N/A>":
        recorded = failure.message  # torch declares a str, and hands over the mapping in the error file
        text = recorded.get("message", "") if isinstance(recorded, dict) else str(recorded)
        return text.strip().splitlines()[-1]
    return f"signal {failure.signal_name()}" if failure.exitcode < 0 else f"exit code {failure.exitcode}"
