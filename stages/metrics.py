"""`fairway metrics`: the reports of one seed -> the few figures that runs are compared by."""

import click

from stages.shell.console import params_option, seal, seed_option


@click.command()
@seed_option
@params_option
def metrics(seed: int, params_path: str) -> None:
    """Gather the figures of one seed in one small file, for `dvc metrics show` and `dvc exp show`.

    Reads sections `evaluate` and `budget` and the reports of the seed's stages: scores, quantization gap, bytes and
    their limit, bits per weight, parameters, seconds per stage. A sweep ends here: no record is made or judged.
    Writes artifacts/metrics/SEED.json.
    """
    from pipeline.base.artifacts import outputs_of, path_of, write_json
    from pipeline.base.config import load_params
    from pipeline.reports.results import seed_metrics

    params = load_params(params_path, ["seeds", "evaluate", "budget"])
    headline = path_of("scores", seed=seed, item=params.evaluate.headline)
    stage = seal("metrics", vars(params), [headline], outputs_of("metrics", seed=seed), 0, f"seed {seed}", seed)
    stage.sweep_outputs(params.seeds, params.evaluate.items)
    figures = seed_metrics(params, seed)
    write_json(path_of("metrics", seed=seed), figures)
    stage.summary(
        f"metrics: seed {seed}, {params.evaluate.headline}: {figures['headline_bpb']:.4f} bpb",
        f"         {len(figures)} figures; {path_of('metrics', seed=seed)}",
    )
