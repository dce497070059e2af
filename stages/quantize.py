"""`fairway quantize`: checkpoint + Hessians -> artifact of the budgeted size, report."""

import click

from stages.shell.console import params_option, seal, seed_option


@click.command()
@seed_option
@params_option
def quantize(seed: int, params_path: str) -> None:
    """Quantize a checkpoint with GPTQ so that code and artifact land just below the byte limit.

    Reads sections `quantize` and `budget`, the checkpoint and the Hessians; no data, no forward pass.
    Writes artifacts/seeds/SEED/quantize/: the artifact and a report.
    """
    import dataclasses
    import hashlib

    from pipeline.base.artifacts import outputs_of, path_of, read_tensors, write_json
    from pipeline.base.checks import one_line, require
    from pipeline.base.config import load_params
    from pipeline.base.files import write_bytes
    from pipeline.model.checkpoint import hessian_identity, load_checkpoint
    from pipeline.quant.fit import fit_to_budget
    from pipeline.quant.statistics import check_statistics, mixture_meta
    from pipeline.reports.quantization import quantization_report

    params = load_params(params_path, ["calibrate", "quantize", "budget"])
    checkpoint, hessians = path_of("checkpoint", seed=seed), path_of("hessians", seed=seed)
    sections = {"quantize": params.quantize, "budget": params.budget}
    stage = seal(
        "quantize", sections, [checkpoint, hessians], outputs_of("quantize", seed=seed), 0, f"seed {seed}", seed
    )
    model = load_checkpoint(checkpoint)
    statistics, statistics_meta = read_tensors(hessians)
    for key, value in hessian_identity(checkpoint, params.calibrate).items():
        remedy = f"{one_line(value)}: run `dvc repro calibrate@{seed}`"
        require(statistics_meta.get(key) == value, f"{hessians}: {key}", one_line(statistics_meta.get(key)), remedy)
    check_statistics(statistics)
    with stage.progress("quantize", "trials", at_most=True) as progress:
        meta = {"model": dataclasses.asdict(model.config), **mixture_meta(statistics)}
        fit = fit_to_budget(model, statistics, params.quantize, params.budget, meta, progress)
    write_bytes(path_of("model", seed=seed), fit.content)
    report, digest = quantization_report(model, statistics, fit), hashlib.sha256(fit.content).hexdigest()
    file = {"artifact_sha256": digest, "seconds": stage.seconds}
    write_json(path_of("quantize_report", seed=seed), {**report, **file, "provenance": stage.provenance})
    budget, totals = report["budget"], report["totals"]
    why = "the finest steps fit" if budget["finest_fits"] else "no steps came closer"
    gain = totals["proxy_loss"] / totals["nearest_proxy_loss"] if totals["nearest_proxy_loss"] else 1.0
    note = "" if budget["reached"] else f" ({why})"
    stage.summary(
        f"quantize: seed {seed}, {report['artifact_bytes']:,} bytes, {budget['unused_bytes']:,} below the artifact's "
        f"budget{note}",
        f"          {totals['bits_per_weight']:.3f} bits per weight, {params.quantize.steps.kind} steps x "
        f"{report['knob']:.4g}; "
        f"proxy loss {gain:.3f} of nearest rounding's",
    )
