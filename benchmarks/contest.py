"""The published configuration against ours: equal network, training seconds, text and total bytes, paired seeds.

Run `python -m benchmarks.contest` on a quiet machine. It trains both arms in turn, on the demo corpus and, with
`--fineweb DOCUMENTS.jsonl`, on those documents (`{"text": ...}` per line). What is finished is kept under
artifacts/bench/contest and not run again; another number of seconds gets a folder of its own.

The one idea: an arm is a folder with a params.yaml, run by the stages themselves and judged by `fairway compare`. The
published arm takes its optimizer from recipe nightcrawler-7f3c, durations in steps as the share of its run that they
were there, runs all loops from the first step, quantizes by SDClip and GPTQ, codes with brotli alone and scores sliding
windows. Ours is params.yaml. Both count the same bytes for code.

Checked by: tests/benchmarks/test_contest.py.
"""

import argparse
import dataclasses
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.quantization.arms import PUBLISHED_CLIP_STD, SDCLIP, brotli_blob
from benchmarks.results import ROOT, write_result
from pipeline.base.artifacts import path_of, read_tensors, write_json
from pipeline.base.checks import require
from pipeline.base.config import load_params, read_yaml
from pipeline.base.files import write_bytes
from pipeline.codec.container import encode_artifact
from pipeline.model.checkpoint import load_checkpoint
from pipeline.quant.budget import KnobTrial, KnobWindow, search_knob
from pipeline.quant.config import BudgetConfig, QuantizeConfig
from pipeline.quant.fit import quantize_plan
from pipeline.quant.plan import plan_quantization
from pipeline.recipes.recipes import section_values
from pipeline.reports.compare import compare_arms, open_arms
from pipeline.reports.training import hardware_name

ITEM = "headline"
"""The item that both arms are judged by: each arm's own protocol."""
FOLDER = ROOT / "artifacts" / "bench" / "contest"
PUBLISHED = ROOT / "recipes" / "nightcrawler-7f3c.yaml"
PUBLISHED_STEPS = 4012
"""Of its run on eight H100s (docs/architectures.md), of which durations in steps are shares."""
SCALED = ("batch_tokens", "warmup_steps", "muon_momentum_warmup_steps", "log_every_steps", "compile", "precision")
"""Keys of `train` that belong to the size of a run and not to how it is optimized."""


def main() -> None:
    """Run, print and record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contest", description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=90.0, help="of training, for each arm and seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[444, 445, 446])
    parser.add_argument("--fineweb", type=Path, metavar="DOCUMENTS", help=".jsonl of documents: a second corpus")
    options = parser.parse_args()
    base = read_yaml(ROOT / "params.yaml")
    measured = {}
    for corpus, data in corpora(base["data"], options.fineweb).items():
        folder = FOLDER / f"{corpus}-{options.seconds:g}s"
        measured[corpus] = contest({**base, "data": data, "seeds": options.seeds}, options.seconds, folder)
        print(corpus, summary(measured[corpus]), sep="\n", flush=True)
    hardware = hardware_name(torch.device("cpu"))
    print(write_result("contest", hardware, {"seconds": options.seconds, **measured}).relative_to(ROOT))


def corpora(demo: Mapping[str, Any], documents: Path | None) -> dict[str, dict[str, Any]]:
    """Return section `data` by corpus: that of params.yaml, and documents of a file, a fifth of them held out."""
    found = {"demo": dict(demo)}
    if documents is not None:
        require(documents.is_file(), "--fineweb", documents, "a .jsonl file")
        found["fineweb"] = {**demo, "source": "text", "files": [str(documents.resolve())], "val_frac": 0.2}
    return found


def contest(base: dict[str, Any], seconds: float, folder: Path) -> dict[str, Any]:
    """Run both arms of a configuration seed by seed in `folder`; return the figures of both and their difference."""
    for name, make in ARMS.items():
        path = folder / name / "params.yaml"
        text = yaml.safe_dump(make(base, seconds), sort_keys=False).encode()
        require(not path.exists() or path.read_bytes() == text, str(path), "another run", f"this one; remove {folder}")
        write_bytes(path, text)
    first, second = (folder / name / path_of("manifest").parent for name in ARMS)
    stage(folder / "published", path_of("manifest"), "prepare")
    if not second.exists():
        shutil.copytree(first, second)
    for seed in base["seeds"]:
        for name in ARMS:
            run_seed(folder / name, seed, name)
    compared = compare_arms(open_arms([(name, folder / name) for name in ARMS]), ITEM)
    return {key: compared[key] for key in ("arms", "differences", "params")}


def published(base: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Return params.yaml of the published arm."""
    theirs, own = section_values(PUBLISHED, "train"), base["train"]
    train = {
        **theirs,
        **{key: own[key] for key in SCALED},
        "warmdown_frac": round(theirs["warmdown_steps"] / PUBLISHED_STEPS, 2),
        "warmdown_steps": None,
    }
    sliding = {**base["evaluate"]["protocols"]["sliding"], "mixture": None}
    return _arm({**base, "train": train, "calibrate": {**base["calibrate"], "mixture": None}}, seconds, sliding)


def ours(base: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Return params.yaml of our arm: what is there, with its own headline."""
    return _arm(base, seconds, base["evaluate"]["protocols"][base["evaluate"]["items"][-1]])


def _arm(base: Mapping[str, Any], seconds: float, headline: Mapping[str, Any]) -> dict[str, Any]:
    limits = {"max_steps": None, "max_seconds": seconds, "reserve_seconds": 0.0}
    kept = base["evaluate"]["protocols"]
    protocols = {"float": kept["float"], "blocks": kept["blocks"], ITEM: headline}
    return {
        **base,
        "train": {**base["train"], **limits},
        "evaluate": {**base["evaluate"], "items": ["blocks", ITEM], "protocols": protocols},
    }


ARMS = {"published": published, "ours": ours}
"""Name -> what makes its params.yaml."""


def run_seed(folder: Path, seed: int, name: str) -> None:
    """Take one seed of an arm from training to its scores, leaving out what is there."""
    chosen = ("--seed", str(seed))
    stage(folder, path_of("checkpoint", seed=seed), "train", *chosen)
    stage(folder, path_of("hessians", seed=seed), "calibrate", *chosen)
    if name == "published":
        if not (folder / path_of("model", seed=seed)).exists():
            published_quantize(folder, seed)
    else:
        stage(folder, path_of("model", seed=seed), "quantize", *chosen)
    for item in ("float", "blocks", ITEM):
        stage(folder, path_of("scores", seed=seed, item=item), "evaluate", *chosen, "--item", item)


def stage(folder: Path, output: Path, *words: str) -> None:
    """Run a stage in a folder unless its output is there."""
    if not (folder / output).exists():
        subprocess.run([sys.executable, "-m", "stages.cli", *words], cwd=folder, check=True)


def published_quantize(folder: Path, seed: int) -> None:
    """Write an arm's artifact as published programs quantize; its stated size is that of their file.

    The artifact is ours, so that `evaluate` reads it: the same codes and steps, hence the same scores.
    """
    params = load_params(folder / "params.yaml", ["quantize", "budget"])
    model = load_checkpoint(folder / path_of("checkpoint", seed=seed))
    statistics, _ = read_tensors(folder / path_of("hessians", seed=seed))
    trial = published_fit(model, statistics, params.quantize, params.budget)
    content = encode_artifact(trial.tensors, {"model": dataclasses.asdict(model.config)})
    write_bytes(folder / path_of("model", seed=seed), content)
    size, digest = len(trial.content), hashlib.sha256(content).hexdigest()
    report = {"artifact_bytes": size, "artifact_sha256": digest, "knob": trial.knob}
    write_json(folder / path_of("quantize_report", seed=seed), report)
    print(f"published: seed {seed}, {size:,} bytes by brotli, clip at {trial.knob:.4g} standard deviations", flush=True)


def published_fit(model: Any, statistics: Any, config: QuantizeConfig, budget: BudgetConfig) -> KnobTrial:
    """Return the largest published file that fits the artifact's budget; ValueError when none does."""
    config = dataclasses.replace(config, solver="gptq", steps=SDCLIP, trellis_states=None, damp_frac=0.01)
    plan = plan_quantization(model, statistics, config)
    limit = budget.limit_bytes - budget.code_reserve_bytes
    window = KnobWindow(
        SDCLIP.min_clip_std, SDCLIP.max_clip_std, limit - int(budget.tolerance_frac * budget.limit_bytes), limit
    )

    def attempt(knob: float) -> KnobTrial:
        tensors = quantize_plan(plan, knob)
        return KnobTrial(knob, tensors, brotli_blob(tensors)[0])

    weights = sum(group.weight_RC.numel() for group in plan.groups)
    best, trace = search_knob(attempt, PUBLISHED_CLIP_STD, window, weights / 8)
    require(best is not None, "budget.limit_bytes", budget.limit_bytes, f"room for {min(size for _, size in trace)}")
    assert best is not None, "required above"
    return best


def summary(measured: Mapping[str, Any]) -> str:
    """Return the lines of both arms and of their difference."""
    line = (
        "  ours less published {difference_mbpb:+.1f} mBPB [{low_mbpb:+.1f}, {high_mbpb:+.1f}]; better in {better} of "
        "{documents} documents"
    )
    return "\n".join([*(_line(arm) for arm in measured["arms"]), line.format(**measured["differences"][0])])


def _line(arm: Mapping[str, Any]) -> str:
    mean: Mapping[str, float] = arm["mean"]
    return (
        f"  {arm['name']:10} {mean['train_steps']:6,.0f} steps in {mean['train_seconds']:.0f} s, float "
        f"{mean['float_bpb']:.4f}, artifact {mean['blocks_bpb']:.4f}, headline {mean[f'{ITEM}_bpb']:.4f} bpb, "
        f"{arm['total_bytes']:,} bytes"
    )


if __name__ == "__main__":
    main()
