"""Bits per byte of a model on a token stream, exact and score-first: `run.score_item`, or `score_tokens`."""

from typing import Any


def __getattr__(name: str) -> Any:
    """Load `score_tokens` on first use: reading the `evaluate` parameters must not cost an import of torch."""
    if name == "score_tokens":
        from pipeline.scoring.protocols import score_tokens

        return score_tokens
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
