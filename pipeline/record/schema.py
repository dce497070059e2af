"""What submission.json must hold: every field, its type, and nothing else.

Checked by: tests/record/test_record.py.
"""

from collections.abc import Mapping
from typing import Any

_NUMBER = (int, float)
_OPTIONAL_NUMBER = (int, float, type(None))

_SUBMISSION_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("author", "github_id", "name", "blurb", "date", "track"), (str,)),
    **dict.fromkeys(("hardware", "pytorch_version"), (str,)),
    **dict.fromkeys(("val_loss", "val_bpb"), _NUMBER),
    **dict.fromkeys(("val_loss_std", "val_bpb_std"), _OPTIONAL_NUMBER),
    **dict.fromkeys(("bytes_total", "bytes_code"), (int,)),
    **dict.fromkeys(("t_statistic", "welch_df", "p_value", "p_value_0005nats"), _OPTIONAL_NUMBER),
    "comparison_baseline": (dict, type(None)),
    **dict.fromkeys(("seeds", "all_runs"), (list,)),
    **dict.fromkeys(("seed_results", "compliance", "audit"), (dict,)),
}
_SEED_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("val_loss", "val_bpb", "step_avg_ms", "eval_time_s"), _NUMBER),
    **dict.fromkeys(("pre_quant_val_bpb", "quantized_val_bpb"), _OPTIONAL_NUMBER),
    **dict.fromkeys(("artifact_bytes", "steps", "train_wallclock_ms", "calibration_ms"), (int,)),
    **dict.fromkeys(("val_tokens", "target_tokens", "eval_bytes"), (int,)),
    **dict.fromkeys(("artifact_sha256", "precision", "ended_by"), (str,)),
}
_COMPLIANCE_TYPES: dict[str, tuple[type, ...]] = {
    "headline_item": (str,),
    "headline_protocol": (dict,),
    "limit_bytes": (int,),
    "within_limit": (bool,),
    **dict.fromkeys(("train_seconds_max", "eval_seconds_max"), _NUMBER),
}
_AUDIT_TYPES: dict[str, tuple[type, ...]] = {"version": (str, type(None)), "checks": (list,)}
_RUN_TYPES: dict[str, tuple[type, ...]] = {"seed": (int,), "val_loss": _NUMBER, "val_bpb": _NUMBER}


def check_submission(submission: Mapping[str, Any]) -> None:
    """Raise ValueError naming the dotted key when a field is missing, unknown or of a wrong type."""
    _check_fields("submission", submission, _SUBMISSION_TYPES)
    _check_fields("submission.compliance", submission["compliance"], _COMPLIANCE_TYPES)
    _check_fields("submission.audit", submission["audit"], _AUDIT_TYPES)
    for index, run in enumerate(submission["all_runs"]):
        _check_fields(f"submission.all_runs[{index}]", run, _RUN_TYPES)
    for seed, result in submission["seed_results"].items():
        _check_fields(f"submission.seed_results.{seed}", result, _SEED_TYPES)
    if [str(seed) for seed in submission["seeds"]] != list(submission["seed_results"]):
        raise ValueError(
            f"submission.seed_results: got {list(submission['seed_results'])}, expected the seeds {submission['seeds']}"
        )


def _check_fields(where: str, fields: Any, types: Mapping[str, tuple[type, ...]]) -> None:
    if not isinstance(fields, Mapping):
        raise ValueError(f"{where}: got {fields!r}, expected an object")
    for key in sorted(types.keys() - fields.keys()):
        raise ValueError(f"{where}.{key}: missing")
    for key in sorted(fields.keys() - types.keys()):
        raise ValueError(f"{where}.{key}: unknown")
    for key, allowed in types.items():
        value = fields[key]
        # bool is an int to Python, not to a reader of the file
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            names = " or ".join(kind.__name__ for kind in allowed)
            raise ValueError(f"{where}.{key}: got {value!r}, expected {names}")
