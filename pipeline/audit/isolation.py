"""T5, the question about isolated documents: which protocols declare them, and whether they are.

Source: the table of checks in docs/legality.md.
Checked by: tests/audit/test_mutants.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.audit.evaluator import Finding, Ledgers, not_applicable
from pipeline.audit.questions import MANY, Basis, Comparison, Question, scores_agree


def declares_isolation(protocol: Mapping[str, Any]) -> bool:
    """Return whether a protocol says that documents do not see each other."""
    is_phased = protocol["kind"] == "phased-ttt"
    fresh = is_phased and protocol["lane_documents"] == 1 and protocol["global_phase"] is None
    isolated = bool(protocol.get("documents")) or protocol["kind"] == "lora-ttt" or fresh
    return isolated and protocol.get("mixture") != "stream"


def ask_isolation(basis: Basis) -> Question:
    """T5: where a protocol declares that documents are isolated, changing one moves no score of another."""
    isolated = [item for item in basis.items if declares_isolation(basis.protocols[item])]
    stream = basis.streams[MANY]
    bounds = [*stream.starts.tolist(), len(stream.tokens)]
    chosen = [0, 3, 5] if isolated else []
    streams = [basis.maker.changed(stream, np.arange(bounds[each] + 1, bounds[each + 1])) for each in chosen]

    def judge(answers: Sequence[Ledgers]) -> Finding:
        if not isolated:
            return not_applicable("no item declares isolated documents")
        comparisons = []
        for number, ledgers in zip(chosen, answers, strict=True):
            # The BOS after a document is predicted from it, so that target is the document's own.
            others = np.setdiff1d(np.arange(len(stream.tokens) - 1), np.arange(bounds[number], bounds[number + 1]))
            where = f"{stream.name}, document {number} changed"
            targets = dict.fromkeys(isolated, others)
            comparisons.append(Comparison(where, basis.ledgers[MANY], ledgers, len(stream.tokens) - 1, targets))
        return scores_agree(comparisons, basis.tolerance, f"{len(chosen)} documents changed")

    return Question(streams, judge)
