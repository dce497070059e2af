"""`fairway package`: all seeds' outputs -> the record folder, proven by running it."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stages.shell.console import ROOT, Stage, machine_environment, params_option, seal

if TYPE_CHECKING:
    from pipeline.base.config import Params


@click.command()
@params_option
def package(params_path: str) -> None:
    """Build the record folder and prove it: train_gpt.py runs alone and must print the same scores.

    Reads every section and the outputs of all seeds. The folder appears only when each seed's artifact, rescored by
    the shipped program in an empty directory and a fresh process, reproduces its scores to the last digit. Writes
    artifacts/package/, which `fairway audit` turns into artifacts/submission/, and artifacts/curves.csv, for plots.
    """
    from dataclasses import replace
    from importlib.metadata import version

    from pipeline.base.artifacts import outputs_of, path_of
    from pipeline.base.config import SECTIONS, load_params
    from pipeline.base.files import folder_digest, write_bytes
    from pipeline.record.build import budget_note, check_budget, recipe_digest, recipe_of, record_source
    from pipeline.record.record import assemble, imported_packages
    from pipeline.record.runs import check_settings, prove_runs, read_run
    from pipeline.record.ship import shipped_program, unwrap
    from pipeline.verification.verify import require_agreement

    params = load_params(params_path, SECTIONS)
    inputs = [*(path_of("model", seed=seed) for seed in params.seeds), path_of("tokenizer")]
    stage = seal("package", vars(params), inputs, outputs_of("package"), 0, f"seeds {list(params.seeds)}")
    data = _checked_inputs(params, stage)
    runs = [read_run(seed, params.evaluate.headline) for seed in params.seeds]
    stage.phase("writing train_gpt.py and making it small")
    source = record_source(recipe := recipe_of(params), ROOT)
    code = shipped_program(source, params.package.readable)
    # Sizes first: quantizing again before the reserve is right would be in vain.
    check_budget(params.budget, len(code), {run.seed: run.artifact.stat().st_size for run in runs})
    for run in runs:
        check_settings(run, params)

    def prove(folder: Path) -> None:
        stage.phase("comparing what the record states with its files")
        require_agreement(folder)
        places = path_of("val_shards"), path_of("tokenizer")
        prove_runs(folder, runs, *places, machine_environment(), stage.log, stage.phase)

    stage.phase("filling the record folder")
    submission = assemble(
        path_of("package"),
        params.package,
        params.budget,
        code=code,
        human_code=source,
        runs=runs,
        tokenizer=path_of("tokenizer"),
        headline=params.evaluate.headline,
        versions={name: version(name) for name in imported_packages(code)},
        **data,
        config_digests={seed: recipe_digest(replace(recipe, seed=seed)) for seed in params.seeds},
        prove=prove,
    )
    write_bytes(path_of("curves"), curves_of_seeds(params.seeds))
    stage.summary(
        f"package: {submission['val_bpb']:.4f} bpb, {submission['bytes_total']:,} bytes "
        f"({len(code):,} code, {len(unwrap(code).encode()):,} unwrapped), proven for seeds {list(params.seeds)}",
        f"         {budget_note(params.budget, len(code), submission['bytes_total'])}; "
        f"{path_of('package')}/, folder digest {folder_digest(path_of('package'))[:16]}",
    )


def _checked_inputs(params: "Params", stage: Stage) -> dict[str, dict[str, str]]:
    """Return what the record states of the data once shards, tokenizer and artifacts are the run's.

    That is `digests` of the val shards by name, `fingerprints` by split. Outputs of other runs are moved away.
    """
    from pipeline.base.artifacts import path_of
    from pipeline.data.manifest import check_digests, check_tokenizer, listed_shards, read_manifest, split_fingerprints
    from pipeline.record.runs import check_model_config

    stage.phase("checking inputs")
    val_shards = listed_shards(path_of("manifest"), "val")
    check_digests(val_shards)
    check_tokenizer(path_of("manifest"), path_of("tokenizer"))
    for seed in params.seeds:
        check_model_config(path_of("model", seed=seed), params.model)
    stage.sweep_outputs(params.seeds, params.evaluate.items)
    return {
        "digests": {shard.path.name: shard.sha256 for shard in val_shards},
        "fingerprints": split_fingerprints(read_manifest(path_of("manifest"))),
    }


def curves_of_seeds(seeds: Iterable[int]) -> bytes:
    """Return the loss curves of all seeds as one CSV with a column `seed`."""
    from pipeline.base.artifacts import path_of, read_text

    curves = {seed: read_text(path_of("curve", seed=seed)).splitlines() for seed in seeds}
    head = next(iter(curves.values()))[0]
    rows = [f"{seed},{row}" for seed, curve in curves.items() for row in curve[1:]]
    return "\n".join([f"seed,{head}", *rows, ""]).encode()
