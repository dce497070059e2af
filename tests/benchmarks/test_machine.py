"""The row that a machine adds to the table: every speed of it is measured, and the row is Python."""

import torch

from benchmarks.machine import measure, row, training_factor
from pipeline.projection.machines import MACHINES, Machine

CPU = torch.device("cpu")


def test_a_measured_machine_has_speeds_and_a_step_takes_time() -> None:
    machine = measure(CPU, "small")
    assert min(machine.flops_per_second, machine.bytes_per_second, machine.launch_seconds, machine.count_seconds) > 0
    assert training_factor(machine, CPU, "small") > 0


def test_a_row_is_the_machine_again() -> None:
    entry = eval("{" + row("again", MACHINES["8xh100"]) + "}", {"Machine": Machine})
    assert entry["again"].processes == 8
    assert entry["again"].training_factor == MACHINES["8xh100"].training_factor
