"""`fairway package`: all seeds' outputs -> the record folder, proven by running it."""

import click

from stages.console import ROOT, Stage, params_option


@click.command()
@params_option
def package(params_path: str) -> None:
    """Build the record folder and prove it: train_gpt.py runs alone and must print the same scores.

    Reads every section and the outputs of all seeds. The folder appears only when each seed's artifact, rescored by
    the shipped program in an empty directory and a fresh process, reproduces its scores to the last digit.
    Writes artifacts/submission/.
    """
    import hashlib
    from importlib.metadata import version

    from pipeline.artifacts import path_of
    from pipeline.config import SECTIONS, load_params
    from pipeline.data.shards import shard_paths
    from pipeline.files import sha256_of_file
    from pipeline.submission.build import record_source, shipped_program
    from pipeline.submission.minify import unwrap
    from pipeline.submission.program import Recipe
    from pipeline.submission.record import assemble, folder_digest, imported_packages
    from pipeline.submission.runs import check_model_config, prove_runs, read_run

    params = load_params(params_path, SECTIONS)
    artifacts = [path_of("model", seed=seed) for seed in params.seeds]
    stage = Stage("package", vars(params), [*artifacts, path_of("tokenizer")], 0, f"seeds {list(params.seeds)}")
    for artifact in artifacts:
        check_model_config(artifact, params.model)
    runs = [read_run(seed, params.evaluate.items) for seed in params.seeds]
    recipe = Recipe(
        seed=params.seeds[0],
        device=params.launch.device,
        **{name: getattr(params, name) for name in ("model", "train", "calibrate", "quantize", "size", "evaluate")},
    )
    source = record_source(recipe, ROOT)
    code = shipped_program(source, params.package.readable)

    submission = assemble(
        path_of("submission"), params.package, params.size, code=code, human_code=source, runs=runs,
        tokenizer=path_of("tokenizer"), headline=params.evaluate.items[-1],
        versions={name: version(name) for name in imported_packages(code)},
        digests={
            "config": hashlib.sha256(repr(recipe).encode()).hexdigest(),
            **{path.name: sha256_of_file(path) for path in shard_paths(path_of("val_shards"), "val")},
        },
        prove=lambda folder: prove_runs(folder, runs, path_of("val_shards"), path_of("tokenizer"), stage.log),
    )  # fmt: skip
    stage.summary(
        f"package: {submission['val_bpb']:.4f} bpb, {submission['bytes_total']:,} bytes "
        f"({submission['bytes_code']:,} code, {len(unwrap(code)):,} unwrapped), proven for seeds {list(params.seeds)}",
        f"         {path_of('submission')}/, folder digest {folder_digest(path_of('submission'))[:16]}",
    )
