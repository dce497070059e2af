"""The text of a record's README.md, computed from its submission.json, score reports and files on disk.

Checked by: tests/record/test_record.py.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.record.significance import MOST_SEEDS, RECORD_LEVEL, RECORD_MARGIN_NATS, seeds_needed
from pipeline.record.statements import headline, score_cells


def readme_text(
    submission: Mapping[str, Any],
    *,
    protocols: Mapping[str, Mapping[str, Any]],
    scores: Mapping[int, Mapping[str, Mapping[str, Any]]],
    file_bytes: Mapping[str, int],
    artifacts: Mapping[int, str],
    tokenizer: str,
    num_processes: int,
    unwrapped_bytes: int,
    imports: Mapping[int, Mapping[str, Any]],
) -> str:
    """Return README.md: scores, sizes, protocol, order, the four conditions, commands.

    `protocols`: by item; `scores`: score reports by seed and item; `file_bytes`: size on disk by file name;
    `artifacts`: file name by seed; `unwrapped_bytes`: of the source inside train_gpt.py;
    `imports`: where the weights come from, of the seeds that were imported instead of trained.
    """
    sections = [
        _title_section(submission),
        _score_section(submission, scores),
        *_statistics_sections(submission),
        _size_section(submission, file_bytes, unwrapped_bytes),
        _timing_section(submission, imports),
        _protocol_section(submission, protocols),
        _condition_section(submission),
        _command_section(submission, artifacts, tokenizer, num_processes),
    ]
    return "\n\n".join(sections) + "\n"


def _title_section(submission: Mapping[str, Any]) -> str:
    std = submission["val_bpb_std"]
    spread = "one seed, no standard deviation" if std is None else f"sample standard deviation {std:.8f}"
    seeds = ", ".join(str(seed) for seed in submission["seeds"])
    return (
        f"# {submission['name']}\n\n{submission['blurb']}\n\n"
        f"{headline(submission['val_loss'], submission['val_bpb'])}; "
        f"mean over seeds {seeds}; {spread}), **{submission['bytes_total']:,} bytes**.\n\n"
        f"Author: {submission['author']} ({submission['github_id']}). Date: {submission['date']}. "
        f"Track: {submission['track']}. Hardware: {submission['hardware']}. "
        f"PyTorch {submission['pytorch_version']}.\n\n"
        "Every number below is computed from the reports of the runs and from the files of this folder."
    )


def _score_section(submission: Mapping[str, Any], scores: Mapping[int, Mapping[str, Mapping[str, Any]]]) -> str:
    rows = [score_cells(seed, item, score) for seed, items in scores.items() for item, score in items.items()]
    table = _table(("seed", "item", "weights", "val_loss", "val_bpb", "targets", "bytes"), rows)
    return f"## Scores\n\nThe record's score is `{submission['compliance']['headline_item']}`.\n\n{table}"


def _statistics_sections(submission: Mapping[str, Any]) -> list[str]:
    """Return the comparison with the baseline; nothing when the record names none."""
    baseline, p = submission["comparison_baseline"], submission["p_value"]
    if baseline is None:
        return []
    losses = [run["val_loss"] for run in submission["all_runs"]]
    title = f"## Statistics\n\nBaseline: {baseline['name']}, nats per target of its seeds: " + ", ".join(
        f"{loss:.8f}" for loss in baseline["val_losses"]
    )
    if p is None:
        return [title + ". One seed shows no spread: no test."]
    gain = statistics.fmean(baseline["val_losses"]) - submission["val_loss"]
    rows = [
        ("0", f"{submission['t_statistic']:.4f}", f"{p:.3g}", _seeds_hint(losses, baseline["val_losses"], 0.0)),
        (
            f"{RECORD_MARGIN_NATS:g}",
            "-",
            f"{submission['p_value_0005nats']:.3g}",
            _seeds_hint(losses, baseline["val_losses"], RECORD_MARGIN_NATS),
        ),
    ]
    header = ("gain above, nats", "t", "p", f"seeds that show it at p < {RECORD_LEVEL:g}, mean and spread unchanged")
    return [
        f"{title}.\n\nGain {gain:.8f} nats per target; one-sided Welch tests with {submission['welch_df']:.2f} degrees "
        f"of freedom:\n\n{_table(header, rows)}"
    ]


def _seeds_hint(losses: Sequence[float], baseline: Sequence[float], margin: float) -> str:
    needed = seeds_needed(losses, baseline, margin)
    return f"more than {MOST_SEEDS}" if needed is None else str(needed)


def _size_section(submission: Mapping[str, Any], file_bytes: Mapping[str, int], unwrapped_bytes: int) -> str:
    def is_counted(name: str) -> bool:
        return name == "train_gpt.py" or name.endswith(".fwy")

    rows = [(f"`{name}`", f"{size:,}", "yes" if is_counted(name) else "no") for name, size in file_bytes.items()]
    return (
        f"## Size\n\n{_table(('file', 'bytes on disk', 'counted'), rows)}\n\n"
        f"`train_gpt.py` ({submission['bytes_code']:,} bytes) unpacks {unwrapped_bytes:,} bytes of source, whose "
        "readable form is `train_gpt_human.py`. Total: code plus the largest artifact, "
        f"{submission['bytes_total']:,} of {submission['compliance']['limit_bytes']:,} bytes (decimal). "
        "The tokenizer is not counted."
    )


def _timing_section(submission: Mapping[str, Any], imports: Mapping[int, Mapping[str, Any]]) -> str:
    rows = [
        (
            seed,
            result["precision"],
            f"{result['steps']:,}",
            result["ended_by"],
            f"{result['step_avg_ms']:.2f}",
            f"{result['train_wallclock_ms'] / 1000:.1f}",
            f"{result['eval_time_s']:.1f}",
        )
        for seed, result in submission["seed_results"].items()
    ]
    header = ("seed", "precision", "steps", "ended by", "ms per step", "training, s", "scoring, s")
    notes = "".join(
        f"\n\nSeed {seed} was not trained by this program: its weights are `{origin['file']}` (layout "
        f"{origin['layout']}, sha256 {origin['checkpoint_sha256']}). What text they were trained on is not known to it."
        for seed, origin in imports.items()
    )
    return f"## Timings\n\n{_table(header, rows)}{notes}"


def _protocol_section(submission: Mapping[str, Any], protocols: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        (f"`{item}`", str(protocol["kind"]), ", ".join(f"{k} {v}" for k, v in protocol.items() if k != "kind"))
        for item, protocol in protocols.items()
    ]
    result = next(iter(submission["seed_results"].values()))
    return (
        f"## Protocol and order\n\n{_table(('item', 'kind', 'settings'), rows)}\n\n"
        f"The validation stream holds {result['val_tokens']:,} tokens; all {result['target_tokens']:,} targets "
        f"({result['eval_bytes']:,} bytes) are scored exactly once, in file order from left to right. No target is "
        "skipped, repeated or revised. bits per byte = sum of nats / (ln 2 x sum of bytes).\n\n"
        "Fingerprints of the shards (`sha256sum FILES | cut -c-64 | sha256sum`, files in order): "
        + ", ".join(f"{split} `{each}`" for split, each in sorted(submission["data_fingerprints"].items()))
        + "."
    )


def _across_documents(protocol: Mapping[str, Any]) -> str:
    """Return what a phased protocol carries from one document to another; nothing for the others."""
    carried = ""
    if protocol.get("lane_documents", 1) > 1:
        carried += f" {protocol['lane_documents']} documents in a row hand on the first matrices of their adapters."
    if phase := protocol.get("global_phase"):
        carried += (
            f" Once the first {phase['documents']:,} documents are scored, and only then, the model's own weights "
            "train on these, once."
        )
    return carried


def _condition_section(submission: Mapping[str, Any]) -> str:
    updates = {
        "ttt": "The model trains on a chunk only after all targets of that chunk are scored, and never on the last "
        "chunk.",
        "lora-ttt": "Every document has adapters of its own, which train on a chunk of it only after all targets of "
        "that chunk are scored; nothing is carried from one document to another.",
        "phased-ttt": "Every document has adapters of its own, which train on a chunk of it only after all targets of "
        "that chunk are scored, and never on its last chunk.",
    }
    protocol = submission["compliance"]["headline_protocol"]
    update = updates.get(protocol["kind"], "Scoring never changes the model.") + _across_documents(protocol)
    mixture = protocol.get("mixture")
    reads = ", and the counts what was scored before" if mixture else ""
    normalised = (
        " Counts of what followed the last tokens so far are mixed in: what they take from a token they give to the "
        "others, so the sum over the vocabulary stays one."
        if mixture
        else ""
    )
    update += f" A target is counted after it is scored, in its {mixture}." if mixture else ""
    return (
        "## The four conditions\n\n"
        "1. **Strict causality.** Attention, the smear gate and the bigram table read only the current and earlier "
        f"tokens{reads}: the distribution at a position depends on the artifact and on what precedes it.\n"
        "2. **One normalised distribution.** Each target's loss is the log-softmax over the whole vocabulary, computed "
        f"before the target is used.{normalised}\n"
        f"3. **Score before update.** {update}\n"
        "4. **One pass.** Left to right, every target once; no result chooses between runs. Calibration reads training "
        "shards only.\n\n"
        "`fairway audit FOLDER` runs `train_gpt.py` on small streams and judges its rows. Where this folder was "
        "audited, the verdict stands at the end, with the digest of the folder as it was before that was added."
    )


def _command_section(
    submission: Mapping[str, Any], artifacts: Mapping[int, str], tokenizer: str, num_processes: int
) -> str:
    train = [
        f"torchrun --standalone --nproc_per_node={num_processes} train_gpt.py --seed {seed} --data DIR "
        f"--tokenizer {tokenizer}"
        for seed in submission["seeds"]
    ]
    rescore = [
        f"python train_gpt.py --evaluate-only {name} --data DIR --tokenizer {tokenizer}" for name in artifacts.values()
    ]
    return (
        "## Commands\n\n`DIR` is a folder with the training and validation shards.\n\n```\n"
        + "\n".join(["pip install -r requirements.txt", *train, *rescore])
        + "\n```\n\nThe first form trains, calibrates, quantizes and scores; `--evaluate-only` scores the artifact of "
        "this folder. Logs: " + ", ".join(f"`train_seed{seed}.log`" for seed in submission["seeds"]) + "."
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
