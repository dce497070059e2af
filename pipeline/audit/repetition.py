"""T7, the question about scores that must come out again: the same run, other processes, other batches.

Source: the table of checks in docs/legality.md.
Checked by: tests/audit/test_mutants.py.
"""

from collections.abc import Sequence

import numpy as np

from pipeline.audit.evaluator import Finding, Ledgers
from pipeline.audit.questions import LONG, MANY, SHORT, Basis, Comparison, Question, both_hold, scores_agree


def ask_repetition(basis: Basis, on_processes: Sequence[Ledgers], processes: str) -> Question:
    """T7: again, on several processes and with the stream cut off at two places: the same scores.

    `on_processes`: of the streams of many documents and short; of the long one, too, where a protocol has a phase.
    Cut off, only the first group is compared: a protocol may plan its learning by the length of the stream. One cut
    leaves other batches, the other a last window of a single target.
    """
    many = basis.streams[MANY].tokens
    context = max(int(protocol["context_tokens"]) for protocol in basis.protocols.values())
    cuts = [int(0.6 * len(many)), min(len(many) - 1, context * max(1, len(many) // (2 * context)) + 2)]

    def judge(answers: Sequence[Ledgers]) -> Finding:
        again, *cut_off = answers
        base = basis.ledgers[MANY]
        runs = [(MANY, again, "scored again")]
        runs += [(at, ledgers, processes) for at, ledgers in zip((MANY, SHORT, LONG), on_processes, strict=False)]
        same = scores_agree((whole_comparison(basis, *run) for run in runs), basis.tolerance, f"again, {processes}")
        shared = [
            {item: np.intersect1d(_first_group(base, item), _first_group(ledgers, item)) for item in basis.items}
            for ledgers in cut_off
        ]
        shapes = scores_agree(
            [
                Comparison(f"many documents, first {kept} tokens", base, ledgers, len(many) - 1, targets)
                for kept, ledgers, targets in zip(cuts, cut_off, shared, strict=True)
            ],
            basis.shape_tolerance,
            "cut off",
        )
        return both_hold(same, shapes)

    return Question([many, *(many[:kept] for kept in cuts)], judge)


def whole_comparison(basis: Basis, index: int, ledgers: Ledgers, how: str) -> Comparison:
    """Return a base stream's ledgers beside those of another run of all of it."""
    stream = basis.streams[index]
    targets = dict.fromkeys(basis.items, np.arange(len(stream.tokens) - 1))
    return Comparison(f"{stream.name}, {how}", basis.ledgers[index], ledgers, len(stream.tokens) - 1, targets)


def _first_group(ledgers: Ledgers, item: str) -> np.ndarray:
    rows = ledgers[item]
    return rows.target[rows.group == rows.group[0]] if len(rows.group) else rows.target
