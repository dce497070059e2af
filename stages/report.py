"""`fairway report`: the result table of the last run."""

import json

import click

from stages.shell.console import params_option


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@params_option
def report(as_json: bool, params_path: str) -> None:
    """Print the scores, sizes and the record folder of the last run, one line per seed.

    Reads sections `seeds` and `evaluate`, and the reports under artifacts/.
    """
    from pipeline.base.artifacts import path_of, read_json
    from pipeline.base.config import load_params
    from pipeline.data.manifest import read_manifest

    params = load_params(params_path, ["seeds", "evaluate"])
    items = ["float", *params.evaluate.items]
    submission = read_json(path_of("submission") / "submission.json")
    rows = [
        {
            "seed": seed,
            **{item: read_json(path_of("scores", seed=seed, item=item))["val_bpb"] for item in items},
            "artifact_bytes": read_json(path_of("quantize_report", seed=seed))["artifact_bytes"],
            "code_bytes": submission["bytes_code"],
        }
        for seed in params.seeds
    ]
    manifest = read_manifest(path_of("manifest"))
    result = {
        "seeds": rows,
        "unigram_bpb": manifest["unigram_bpb"],
        "val_bytes": manifest["splits"]["val"]["bytes"],
        "bytes_total": submission["bytes_total"],
        "record": str(path_of("submission")),
    }
    if as_json:
        click.echo(json.dumps(result, indent=1, sort_keys=True))
    else:
        _print_table(result)


def _print_table(result: dict) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="bits per byte (lower is better): the float model, then the artifact by protocol")
    names = {"artifact_bytes": "artifact bytes", "code_bytes": "code bytes"}
    columns = list(result["seeds"][0])
    for column in columns:
        table.add_column(names.get(column, column), justify="right")
    for row in result["seeds"]:
        table.add_row(*(_cell(column, row[column]) for column in columns))
    console = Console()
    console.print(table)
    console.print(f"unigram {result['unigram_bpb']:.4f} bpb on the same {result['val_bytes']:,} val bytes")
    console.print(f"total   {result['bytes_total']:,} bytes of code and artifact")
    console.print(f"record  {result['record']}/", highlight=False)


def _cell(column: str, value: float) -> str:
    if column == "seed":
        return str(value)
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"
