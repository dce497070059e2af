"""What `fairway train --dry-run` prints: the schedule, the memory of a step and, of a machine, where seconds would go.

Checked by: tests/reports/test_schedule_table.py, tests/projection/test_table.py
"""


def dry_run_text(params_path: str, step_ms: float | None, machine_name: str | None) -> str:
    """Return the text; ValueError where neither steps nor an assumed speed end the run, or the machine is unknown."""
    from pipeline.base.config import SECTIONS, load_params
    from pipeline.reports.schedule_table import memory_line, schedule_table

    step_seconds, projected = None if step_ms is None else step_ms / 1000, []
    if machine_name is None:
        params = load_params(params_path, ["model", "train", "launch"])
    else:
        from pipeline.projection.machines import machine_named
        from pipeline.projection.table import mean_step_seconds, projected_table, run_stages

        params, machine = load_params(params_path, SECTIONS), machine_named(machine_name)
        stages = run_stages(params, machine)
        step_seconds = step_seconds or mean_step_seconds(stages)
        projected = ["", projected_table(params, machine_name, machine, stages)]
    table = schedule_table(params.train, params.model.schedule, step_seconds)
    return "\n".join([table, memory_line(params), *projected])
