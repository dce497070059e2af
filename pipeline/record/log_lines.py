"""The lines of a record's log that people and tools read; the record program prints the same ones.

Standard library only: the record program imports this module.

Checked by: tests/record/test_record.py.
"""

from collections.abc import Mapping, Sequence

ARTIFACT_FORMAT = "int6+rans"
"""The artifact's coding as the log's size lines name it; like the names of the score lines it says int6 whatever
the bits are, because people and tools look for these lines by name."""


def score_line(protocol: Mapping, val_loss: float, val_bpb: float) -> str:
    """Return the line that states the artifact's score under a protocol, given as plain data.

    `val_loss`: mean nats per target; `val_bpb`: bits per byte. Raises ValueError for a kind without a line.
    """
    names = {
        "blocks": "final_int6_roundtrip_exact",
        "document blocks": "final_int6_documents_exact",
        "sliding": "final_int6_sliding_window_exact",
        "stream": "final_int6_stream_exact",
        "ttt": "final_ttt_exact",
        "document lora-ttt": "final_ttt_lora_exact",
    }
    kind = ("document " if protocol.get("documents") else "") + protocol["kind"]
    if kind not in names:
        known = ", ".join(names)
        raise ValueError(f"protocol kind: got {kind!r}, expected one of {known}")
    return f"{names[kind]} val_loss:{val_loss:.8f} val_bpb:{val_bpb:.8f}"


def size_lines(code_bytes: int, artifact_bytes: int) -> list[str]:
    """Return the lines that state the sizes on disk of train_gpt.py, of the artifact and of both."""
    return [
        f"Code size: {code_bytes} bytes",
        f"Serialized model {ARTIFACT_FORMAT}: {artifact_bytes} bytes",
        f"Total submission size {ARTIFACT_FORMAT}: {code_bytes + artifact_bytes} bytes",
    ]


def digest_line(digest: str, name: str) -> str:
    """Return the line that states the hex sha256 of a file, or of the recipe under the name `config`."""
    return f"sha256 {digest} {name}"


def artifact_score_lines(scores: Sequence[Mapping]) -> list[str]:
    """Return the score lines of those score reports that scored the artifact, in their order."""
    return [
        score_line(score["protocol"], score["val_loss"], score["val_bpb"])
        for score in scores
        if score["weights"] == "artifact"
    ]


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
    if scores:
        lines.append(f"val_tokens: {scores[0]['tokens']}")
        lines.append(f"target_tokens: {scores[0]['targets']}")
    for score in scores:
        if score["weights"] == "float":
            lines.append(f"pre_quant val_loss:{score['val_loss']:.8f} val_bpb:{score['val_bpb']:.8f}")
    lines += artifact_score_lines(scores)
    lines.append(f"total_eval_time:{evaluation_seconds(scores):.1f}s")
    lines += [digest_line(digests[name], name) for name in sorted(digests)]
    return "\n".join(lines) + "\n"


def evaluation_seconds(scores: Sequence[Mapping]) -> float:
    """Return the seconds spent scoring the artifact, all protocols together."""
    return sum(score["seconds"]["total"] for score in scores if score["weights"] == "artifact")
