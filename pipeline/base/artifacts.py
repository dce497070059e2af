"""The table of artifacts, and how the float ones are stored.

Every file a stage writes for another stage stands in `TABLE` with its path, its writer and its format; no other module
spells a path under `artifacts/`. Tensors outside the record (checkpoint, Hessians) are safetensors files with one
JSON text as metadata: a single key, because safetensors writes several in no fixed order.

Checked by: tests/base/test_artifacts.py, tests/stages/test_dvc.py (the table against dvc.yaml).
"""

import dataclasses
import hashlib
import json
import math
import os
import shutil
import struct
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.base.checks import explain_failure, one_line, require
from pipeline.base.closure import stage_closure
from pipeline.base.files import files_below, sha256_of_file, write_bytes

if TYPE_CHECKING:
    from torch import Tensor

ROOT = Path("artifacts")
STATE = ROOT / "state"
"""Snapshots of runs that have not ended: no stage's output, because DVC removes those when a stage starts."""
CACHE = Path(".cache")
"""Downloads, outside of DVC's outs: they survive `dvc repro --force` and are shared by all runs of a checkout."""


class Artifact(NamedTuple):
    """One row of the table."""

    path: str
    """Below `ROOT`; `{seed}` and `{item}` are filled in by `path_of`."""
    writer: str
    """The stage that writes it."""
    format: str


TABLE = {
    "tokenizer": Artifact("data/tokenizer.model", "prepare", "SentencePiece model"),
    "byte_table": Artifact("data/byte_table.npz", "prepare", "bytes per piece, leading-space and boundary flags"),
    "manifest": Artifact("data/manifest.json", "prepare", "JSON: digests, documents, tokens, bytes per split"),
    "train_shards": Artifact("data/train", "prepare", "folder of shards: 256 x int32 header, uint16 tokens"),
    "val_shards": Artifact("data/val", "prepare", "folder of shards"),
    "prepare_report": Artifact("data/report.json", "prepare", "JSON: what the data were made from"),
    "checkpoint": Artifact("seeds/{seed}/train/checkpoint.safetensors", "train", "float32 tensors, model config"),
    "train_report": Artifact("seeds/{seed}/train/report.json", "train", "JSON: steps, seconds, loss, hardware"),
    "train_log": Artifact("seeds/{seed}/train/train.log", "train", "the record's training log lines"),
    "curve": Artifact("seeds/{seed}/train/curve.csv", "train", "CSV: step, loss, lr_scale, seconds, tokens"),
    "hessians": Artifact("seeds/{seed}/calibrate/hessians.safetensors", "calibrate", "second moments per matrix, loop"),
    "calibrate_report": Artifact("seeds/{seed}/calibrate/report.json", "calibrate", "JSON: tokens, seconds"),
    "model": Artifact("seeds/{seed}/quantize/model.fwy", "quantize", "the artifact (docs/format.md)"),
    "quantize_report": Artifact("seeds/{seed}/quantize/report.json", "quantize", "JSON: per layer, bits, bytes"),
    "scores": Artifact("seeds/{seed}/evaluate/scores-{item}.json", "evaluate", "JSON: bpb, nats, targets, bytes"),
    "ledger": Artifact("seeds/{seed}/evaluate/ledger-{item}.npz", "evaluate", "nats and bytes per target, in order"),
    "metrics": Artifact("metrics/{seed}.json", "metrics", "JSON, flat: the figures that runs are compared by"),
    "package": Artifact("package", "package", "the record folder, to be audited"),
    "curves": Artifact("curves.csv", "package", "CSV: the loss curves of all seeds, a column says which"),
    "submission": Artifact("submission", "audit", "the record folder with its audit"),
    "audit": Artifact("audit/audit.json", "audit", "JSON: checks, verdicts, evidence, digests of the folder audited"),
    "audit_metrics": Artifact("audit/metrics.json", "audit", "JSON, flat: verdict, bytes of the record, seconds"),
    "audit_table": Artifact("audit/audit.md", "audit", "the same as a table, for a README"),
}


def path_of(name: str, **keys: object) -> Path:
    """Return the path of artifact `name`; `keys` are its seed and item where it has them."""
    return ROOT / TABLE[name].path.format(**keys)


def sweep_outputs(seeds: Iterable[int], items: Iterable[str]) -> list[Path]:
    """Move what lies below the folder of all seeds and belongs to none of `seeds` and `items` to `state/removed/`.

    Stages that read all seeds depend on that folder, and DVC hashes whatever lies in it: what an earlier configuration
    left there would make them run again in a clone where it does not lie. Returns what was moved.
    """
    names = [name for name, row in TABLE.items() if "{seed}" in row.path]
    wanted = {path_of(name, seed=seed, item=item) for name in names for seed in seeds for item in ("float", *items)}
    folder = ROOT / "seeds"
    strays = sorted(path for path in files_below(folder) if path not in wanted and not path.name.startswith("."))
    for path in strays:
        removed = STATE / "removed" / path.relative_to(folder)
        removed.parent.mkdir(parents=True, exist_ok=True)
        path.replace(removed)
    for place in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        if not any(place.iterdir()):
            place.rmdir()
    return strays


def outputs_of(stage: str, **keys: object) -> list[Path]:
    """Return the paths of all that stage `stage` writes; `keys` are its seed and item where it has them."""
    return [path_of(name, **keys) for name, row in TABLE.items() if row.writer == stage]


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` as indented JSON with sorted keys, atomically; ValueError naming a number that is not finite."""
    for field in _not_finite(content, ""):
        raise ValueError(f"{path}: {field} is not a finite number, which JSON cannot say; nothing was written")
    write_bytes(path, (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; ValueError names the stage that writes it when it is absent or damaged."""
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({explain_failure(error)}); {_remedy(path)}") from None
    require(isinstance(content, dict), str(path), content, f"a JSON object; {_remedy(path)}")
    return content


def read_text(path: Path) -> str:
    """Read a text; ValueError names the stage that writes it when it is absent or damaged."""
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        raise ValueError(_absent(path)) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not text ({explain_failure(error)}); {_remedy(path)}") from None


def save_tensors(path: Path, tensors: Mapping[str, "Tensor"], meta: Mapping[str, Any]) -> None:
    """Write tensors and a JSON-able `meta` to a safetensors file, atomically and with deterministic bytes."""
    from safetensors.torch import save

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    # Not its save_file: that one writes with a mode of its own and raises an exception of its own.
    write_bytes(path, save(contiguous, metadata={"fairway": json.dumps(meta, sort_keys=True)}))


def read_tensors(path: Path) -> tuple[dict[str, "Tensor"], dict[str, Any]]:
    """Return (tensors, meta) of a file written by `save_tensors`; ValueError when absent, damaged or foreign."""
    from safetensors.torch import load_file

    if not path.is_file():
        raise ValueError(_absent(path))
    path.open("rb").close()  # a stage's firewall sees this open; the one of safetensors is compiled code
    try:
        tensors = load_file(path)
        text = _safetensors_metadata(path).get("fairway")
    except Exception as error:  # safetensors and torch raise whatever the bytes make them
        raise ValueError(f"{path}: damaged safetensors file ({explain_failure(error)}); {_remedy(path)}") from None
    if text is None:
        raise ValueError(f"{path}: no Fairway metadata inside; expected a file written by this pipeline")
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: metadata inside is not valid JSON ({explain_failure(error)}); {_remedy(path)}"
        ) from None
    require(isinstance(meta, dict), f"{path}: metadata inside", one_line(meta), f"a JSON object; {_remedy(path)}")
    return tensors, meta


def provenance(stage: str, root: Path, sections: Mapping[str, object], inputs: Iterable[Path]) -> dict[str, Any]:
    """Return the digests a report carries: code (all files the stage runs), parameters, input files.

    Call it when the stage starts: DVC hashes dependencies after the command, so an edit during a run would be blessed.
    Raises ValueError for an input that does not exist, naming the stage that writes it.
    """
    inputs = list(inputs)
    for path in inputs:
        if not path.exists():
            raise ValueError(_absent(path))
    code = hashlib.sha256()
    for path in stage_closure(stage, root):
        code.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return {
        "stage": stage,
        "code_sha256": code.hexdigest(),
        "params_sha256": params_digest(sections),
        "inputs_sha256": {str(path): sha256_of_file(path) for path in inputs},
    }


def params_digest(sections: Mapping[str, object]) -> str:
    """Return the hex sha256 of parameter sections, dataclasses or plain data, by name."""
    plain = {name: _plain(section) for name, section in sections.items()}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def git_commit(root: Path) -> str:
    """Return the short commit of the checkout, `+dirty` when tracked files differ from it, or `none`."""
    commit, changes = (_answer(line) for line in git_lines(root))
    return (commit + ("+dirty" if changes else "")) if commit else "none"


def git_lines(root: Path) -> list[list[str]]:
    """Return the command lines, two and always the same, that ask git for the commit and for what differs from it.

    Git by its fixed path; no program that the user's or the repository's settings name is run on the way.
    """
    program = shutil.which("git", path=os.defpath) or "git"
    off = ("core.fsmonitor=false", "core.hooksPath=/dev/null", f"safe.directory={root.resolve()}")
    settings = [word for each in off for word in ("-c", each)]
    git = [program, "--no-pager", "--no-optional-locks", *settings, "-C", str(root)]
    return [[*git, "rev-parse", "--short", "HEAD"], [*git, "status", "--porcelain", "--untracked-files=no"]]


def _answer(command: list[str]) -> str:
    """Return what git prints; nothing when it fails or is absent."""
    alone = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "PATH": os.defpath}
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, env=alone).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _plain(section: object) -> object:
    is_instance = dataclasses.is_dataclass(section) and not isinstance(section, type)
    return dataclasses.asdict(section) if is_instance else section  # type: ignore[call-overload]


def _absent(path: Path) -> str:
    return f"{path}: no such file; {_remedy(path)}"


def _remedy(path: Path) -> str:
    """Return how a path of the table, or a file in one of its folders, comes back: from DVC's cache, else made anew."""
    patterns = (str(path_of(name, seed="*", item="*")) for name in TABLE)
    is_output = any(place.match(pattern) for pattern in patterns for place in (path, *path.parents))
    return "run `dvc repro`" if is_output else "no stage writes it"


def _not_finite(content: object, name: str) -> Iterator[str]:
    """Yield the dotted names of numbers that are not finite in JSON-able content."""
    if isinstance(content, float) and not math.isfinite(content):
        yield name
    children = dict(enumerate(content)) if isinstance(content, list | tuple) else content
    if isinstance(children, Mapping):
        for key, value in children.items():
            yield from _not_finite(value, f"{name}.{key}".lstrip("."))


def _safetensors_metadata(path: Path) -> dict[str, str]:
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(length)).get("__metadata__", {})
