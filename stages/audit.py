"""`fairway audit`: a record folder -> verdict, evidence, table."""

import sys
from pathlib import Path

import click

from stages.shell.console import machine_environment, seal
from stages.shell.strangers import runs_in_sandbox, unsafe_option

MOST_SIDE_BY_SIDE = 8
"""Programs that score at a time, however many cores there are: each holds a model and a torch of its own."""


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default="artifacts/submission")
@click.option("--evidence", type=click.Path(path_type=Path), help="Files of the run, laid out like artifacts/.")
@click.option("--output", type=click.Path(path_type=Path), default="artifacts/audit", show_default=True)
@click.option("--record", type=click.Path(path_type=Path), help="After a pass, a copy of FOLDER that states its audit.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where the program scores: cpu hides the GPUs and allows equal runs no difference at all.",
)
@click.option(
    "--timeout-seconds",
    type=click.FloatRange(min=1),
    default=1800,
    show_default=True,
    help="How long one start of the program may take.",
)
@unsafe_option
def audit(
    folder: Path,
    evidence: Path | None,
    output: Path,
    record: Path | None,
    device: str,
    timeout_seconds: float,
    unsafe: bool,
) -> None:
    """Audit a record FOLDER (default artifacts/submission): run its program on small streams and judge the rows.

    The program runs alone in an empty folder, several times, in a sandbox (bubblewrap); where there is none, only a
    record that was made here runs, or any with --unsafe. Checks that need the run's ledgers, shards and reports
    look for them in --evidence and do not apply without. Writes audit.json and audit.md to --output. If any check fails
    there is a line for it, the exit status is 1 and --record is not written; alarms and checks that do not apply are
    said and change nothing.
    """
    import torch

    from pipeline.audit.audit import Machine, audit_metrics, audit_record, audit_table, state_audit
    from pipeline.audit.record_files import Evidence, require_record
    from pipeline.base.artifacts import path_of, write_json
    from pipeline.base.checks import require
    from pipeline.base.files import write_bytes

    require_record(folder)
    outputs = [output / path_of(name).name for name in ("audit", "audit_table", "audit_metrics")]
    stage = seal("audit", {}, [], outputs + ([record] if record else []), 0, str(folder))
    num_gpus = torch.cuda.device_count() if device != "cpu" and torch.cuda.is_available() else 0
    sandboxed = runs_in_sandbox(folder, unsafe, stage.log)
    require(num_gpus > 0 or device != "cuda", "--device", device, "auto or cpu: this machine has no usable GPU")
    threads = torch.get_num_threads()
    environment = {**machine_environment(), "OMP_NUM_THREADS": "1" if num_gpus == 0 else str(threads)}
    if not num_gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    # Equal runs are equal to the bit on a CPU; a GPU adds up gradients of a lookup in any order.
    # A core each: what scores on a CPU computes a product on one thread anyway.
    machine = Machine(
        environment,
        1 if num_gpus == 1 else 2,
        1e-3 if num_gpus else 0.0,
        timeout_seconds,
        sandboxed,
        1 if num_gpus else min(threads, MOST_SIDE_BY_SIDE),
    )
    report = audit_record(folder, machine, Evidence(evidence) if evidence else None, stage.phase)
    write_json(outputs[0], {**report, "provenance": stage.provenance})
    write_bytes(outputs[1], audit_table(report).encode())
    write_json(outputs[2], {**audit_metrics(report), "audit_seconds": stage.seconds})
    verdicts = [check["verdict"] for check in report["checks"]]
    for check in report["checks"]:
        if check["verdict"] in ("fail", "alarm"):
            stage.log(f"audit {check['verdict']}: {check['id']} ({check['title']}): {check['evidence']}")
    counts = ", ".join(f"{verdicts.count(each)} {each}" for each in dict.fromkeys(verdicts))
    stage.summary(f"audit: {report['verdict']}: {counts}", f"       {folder}/; {outputs[0]}")
    if report["verdict"] == "fail":
        sys.exit(1)
    if record is not None:
        state_audit(folder, report, record)
