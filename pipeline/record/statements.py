"""What a record states in its logs and in README.md: how each statement is written.

The one idea: a number that is stated is worth what can be read back from it, so a test reads back whatever is written
here. The record program prints with these writers, which need the standard library only. The reader, of these lines
and of other people's, is pipeline/verification/reading.py.

Checked by: tests/record/test_statements.py.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

ARTIFACT_FORMAT = "int6+rans"
"""The artifact's coding as the log's size lines name it; like the names of the score lines it says int6 whatever
the bits are, because people and tools look for these lines by name."""


def size_lines(code_bytes: int, artifact_bytes: int) -> list[str]:
    """Return the lines that state the sizes on disk of train_gpt.py, of the artifact and of both."""
    return [
        f"Code size: {code_bytes} bytes",
        f"Serialized model {ARTIFACT_FORMAT}: {artifact_bytes} bytes",
        f"Total submission size {ARTIFACT_FORMAT}: {code_bytes + artifact_bytes} bytes",
    ]


def count_lines(tokens: int, targets: int) -> list[str]:
    """Return the lines that state how much was scored."""
    return [f"val_tokens: {tokens}", f"target_tokens: {targets}"]


def time_line(seconds: float) -> str:
    """Return the line that states how long scoring took."""
    return f"total_eval_time:{seconds:.1f}s"


def digest_line(digest: str, name: str) -> str:
    """Return the line that states the hex sha256 of a file, or of the recipe under the name `config`."""
    return f"sha256 {digest} {name}"


def score_name(protocol: Mapping) -> str:
    """Return what a line calls the artifact's score under a protocol, plain data; ValueError for an unknown kind."""
    names = {
        "blocks": "final_int6_roundtrip_exact",
        "document blocks": "final_int6_documents_exact",
        "sliding": "final_int6_sliding_window_exact",
        "stream": "final_int6_stream_exact",
        "ttt": "final_ttt_exact",
        "document lora-ttt": "final_ttt_lora_exact",
        "phased-ttt": "final_ttt_phased_exact",
    }
    kind = ("document " if protocol.get("documents") else "") + protocol["kind"]
    if kind not in names:
        known = ", ".join(names)
        raise ValueError(f"protocol kind: got {kind!r}, expected one of {known}")
    mixture = protocol.get("mixture")
    return names[kind] if mixture is None else names[kind].replace("_exact", f"_{mixture}_mixture_exact")


def score_line(name: str, val_loss: float, val_bpb: float) -> str:
    """Return the line that states the artifact's score: mean nats per target and bits per byte."""
    return f"{name} val_loss:{val_loss:.8f} val_bpb:{val_bpb:.8f}"


def float_score_line(val_loss: float, val_bpb: float) -> str:
    """Return the line that states the score of the model as it was before it was quantized."""
    return f"pre_quant val_loss:{val_loss:.8f} val_bpb:{val_bpb:.8f}"


_SCORE_AS_WRITTEN = re.compile(
    r"(?:final_\w+_exact|pre_quant) val_loss:\d{1,6}\.\d{8} val_bpb:\d{1,6}\.\d{8}", re.ASCII
)


def is_score_as_written(line: str) -> bool:
    """Return whether a line is a score line to the letter."""
    return bool(_SCORE_AS_WRITTEN.fullmatch(line))


def score_cells(seed: int, item: str, score: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a row of README.md's table of scores, from a score report."""
    counts = (f"{score['targets']:,}", f"{score['bytes']:,}")
    return (str(seed), item, score["weights"], f"{score['val_loss']:.8f}", f"{score['val_bpb']:.8f}", *counts)


def headline(val_loss: float, val_bpb: float) -> str:
    """Return the words in which README.md states the record's score."""
    return f"**val_bpb {val_bpb:.8f}** (val_loss {val_loss:.8f} nats per target"


def artifact_score_lines(scores: Sequence[Mapping]) -> list[str]:
    """Return the score lines of those score reports that scored the artifact, in their order."""
    artifact = [score for score in scores if score["weights"] == "artifact"]
    return [score_line(score_name(score["protocol"]), score["val_loss"], score["val_bpb"]) for score in artifact]


def log_lines(
    training_log: str,
    scores: Sequence[Mapping],
    *,
    code_bytes: int,
    unwrapped_bytes: int,
    artifact_bytes: int,
    digests: Mapping[str, str],
) -> str:
    """Return a seed's log: what training logged, then sizes, scores and digests computed from reports and files.

    `scores`: the score reports in evaluation order; `unwrapped_bytes`: of the source that train_gpt.py unpacks;
    `digests`: hex sha256 by name.
    """
    lines = training_log.rstrip("\n").splitlines()
    lines += size_lines(code_bytes, artifact_bytes)
    lines.append(f"Code size unwrapped: {unwrapped_bytes} bytes")
    lines += count_lines(scores[0]["tokens"], scores[0]["targets"])
    lines += [float_score_line(score["val_loss"], score["val_bpb"]) for score in scores if score["weights"] == "float"]
    lines += artifact_score_lines(scores)
    lines.append(time_line(evaluation_seconds(scores)))
    lines += [digest_line(digests[name], name) for name in sorted(digests)]
    return "\n".join(lines) + "\n"


def evaluation_seconds(scores: Sequence[Mapping]) -> float:
    """Return the seconds spent scoring the artifact."""
    return sum(score["seconds"]["total"] for score in scores if score["weights"] == "artifact")
