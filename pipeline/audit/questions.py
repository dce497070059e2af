"""Questions to an evaluator: a few streams, and a judge of the ledgers of these streams.

One idea: questions do not depend on each other's answers, so that one call of the evaluator, which may be one start of
a shipped program, answers them all. Most judges put two ledgers side by side: which score moved, and by how much?

Axes: M tokens, N = M - 1 targets; target j is token j + 1; V vocabulary; R rows.
Source: the table of checks in docs/legality.md.
Differs: T12 runs the record as it scores; compiled models and other attention kernels are compared by the GPU check.
Checked by: tests/audit/test_mutants.py.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.audit.evaluator import ROUNDING_NATS, Finding, Ledgers, Rows, failed, not_applicable, passed
from pipeline.audit.streams import Stream, StreamMaker

SUM_TOLERANCE = 1e-4
"""T3: a float32 log-softmax over a vocabulary, exponentiated and summed, is 1 within a few 1e-6; a cheat is not."""
SHAPE_TOLERANCE_NATS = 1e-3
"""T2, T7: other ends of documents and of the stream make batches of other shapes, which add float32 sums up in another
order."""
BFLOAT16_TOLERANCE_NATS = 0.125
"""The same on a GPU, where sums are rounded to bfloat16: a step of a logit between 16 and 32."""
MANY, SHORT, PAIR, OVER_LONG, LONG = range(5)
"""Position of each base stream."""

Judge = Callable[[Sequence[Ledgers]], Finding]


class Question(NamedTuple):
    """Streams, and a judge of the ledgers of these streams."""

    streams: list[np.ndarray]
    judge: Judge


class Basis(NamedTuple):
    """What every question starts from; `ledgers` are the base streams', filled in before any judge is called."""

    maker: StreamMaker
    streams: list[Stream]
    ledgers: list[Ledgers]
    protocols: Mapping[str, Mapping[str, Any]]
    tolerance: float
    """Nats by which two equal runs may differ: 0 on a CPU."""

    @property
    def items(self) -> list[str]:
        """The protocols by name."""
        return list(self.protocols)

    @property
    def shape_tolerance(self) -> float:
        """Nats by which runs in batches of other shapes may differ."""
        return BFLOAT16_TOLERANCE_NATS if self.tolerance else SHAPE_TOLERANCE_NATS


class Move(NamedTuple):
    """The score that moved most among those compared."""

    nats: float
    """By how much; 0 when nothing was compared."""
    target: int
    compared: int
    """Targets compared."""


class Comparison(NamedTuple):
    """Two ledgers of one question and the targets whose scores must agree under each item."""

    where: str
    first: Ledgers
    second: Ledgers
    num_targets: int
    targets: Mapping[str, np.ndarray]

    def largest_move(self, item: str) -> Move:
        """Compare the ledgers of an item; targets without a row in either are left out (they are check T1's).

        Nats that are no number have moved by infinitely much.
        """
        first, second, targets = self.first[item], self.second[item], self.targets[item]
        compared = targets[(targets >= 0) & (targets < self.num_targets)]
        compared = compared[(first.has_row(self.num_targets) & second.has_row(self.num_targets))[compared]]
        if not len(compared):
            return Move(0.0, -1, 0)
        first_N, second_N = (rows.spread(rows.nats, self.num_targets) for rows in (first, second))
        with np.errstate(invalid="ignore"):  # infinite nats less infinite nats
            moved = np.abs(first_N - second_N)[compared]
        moved[np.isnan(moved)] = np.inf
        worst = int(np.argmax(moved))
        return Move(float(moved[worst]), int(compared[worst]), len(compared))


def scores_agree(comparisons: Iterable[Comparison], tolerance: float, what: str) -> Finding:
    """Pass when no score moves by more than `tolerance` nats in any comparison; the evidence names the largest move."""
    moves = [(each.largest_move(item), each.where, item) for each in comparisons for item in each.targets]
    move, where, item = max(moves, key=lambda entry: entry[0].nats)
    if not move.nats <= tolerance:
        return failed(f"{item}, {where}: target {move.target} moved by {move.nats:.3g} nats (allowed {tolerance:g})")
    compared = sum(entry[0].compared for entry in moves)
    return passed(f"{what}: {compared} scores compared, largest move {move.nats:.2g} nats (allowed {tolerance:g})")


def ask_future(basis: Basis) -> Question:
    """T2: other content after a cut moves no score that came before the first target it changes.

    Other bounds of the documents are other content, too; they make other batches, which round otherwise.
    """
    cuts = [(MANY, cut) for cut in (2, *basis.maker.random.integers(3, len(basis.streams[MANY].tokens), 3).tolist())]
    longest = len(basis.streams[LONG].tokens)
    cuts += [(MANY, len(basis.streams[MANY].tokens) - 1), (LONG, int(0.72 * longest))]
    cuts += [(LONG, cut) for cut in cuts_behind_phases(basis)]
    streams = [
        basis.maker.changed(basis.streams[index], np.arange(cut, len(basis.streams[index].tokens)))
        for index, cut in cuts
    ]
    inside = int(basis.streams[MANY].starts[3]) + 12
    bounds = [[], [inside]]  # the document reads on to the stream's end, or ends here
    streams += [other_documents(basis, inside, starts) for starts in bounds]

    def judge(answers: Sequence[Ledgers]) -> Finding:
        if by_length := [item for item, each in basis.protocols.items() if each.get("chunks_by") == "length"]:
            return failed(
                f"{by_length[0]} declares chunks by the length of a document, which nobody knows before its end"
            )
        comparisons = []
        for (index, cut), tokens, ledgers in zip([*cuts, *[(MANY, inside)] * 2], streams, answers, strict=True):
            base, base_M = basis.ledgers[index], basis.streams[index].tokens
            moved = changed_targets(base_M, tokens)
            targets = {item: np.unique(scored_before(base[item], moved)) for item in basis.items}
            where = f"{basis.streams[index].name}, other tokens from {cut} on"
            comparisons.append(Comparison(where, base, ledgers, len(base_M) - 1, targets))
        content = scores_agree(comparisons[: len(cuts)], basis.tolerance, f"{len(cuts)} cuts")
        layout = scores_agree(
            comparisons[len(cuts) :], basis.shape_tolerance, f"{len(bounds)} other ends of a document"
        )
        return both_hold(content, layout)

    return Question(streams, judge)


def cuts_behind_phases(basis: Basis) -> list[int]:
    """Return places of the long stream in the middle of the first document behind each declared phase."""
    starts, phases = basis.streams[LONG].starts, [each.get("global_phase") for each in basis.protocols.values()]
    ends = [phase["documents"] for phase in phases if phase and phase["documents"] + 1 < len(starts)]
    return [(int(starts[end]) + int(starts[end + 1])) // 2 for end in ends]


def other_documents(basis: Basis, cut: int, starts: Sequence[int]) -> np.ndarray:
    """Return the stream of many documents with other words from `cut` on, where documents start at `starts` only."""
    stream, bos = basis.streams[MANY], basis.maker.bos_id
    tokens_M = basis.maker.changed(stream, np.arange(cut, len(stream.tokens)))
    tokens_M[cut:][tokens_M[cut:] == bos] = basis.maker.words[0]
    tokens_M[list(starts)] = bos
    return tokens_M


def both_hold(first: Finding, second: Finding) -> Finding:
    """Return a failure of the two, the first one's before the second's, or that both passed."""
    if "fail" in (first.verdict, second.verdict):
        return first if first.verdict == "fail" else second
    return passed(f"{first.evidence}; {second.evidence}")


def ask_normalisation(basis: Basis) -> Question:
    """T3: with every id of the vocabulary in a target's place, the probabilities add up to one."""
    base_M = basis.streams[SHORT].tokens
    target = len(base_M) * 3 // 4  # in the second half, which says the first again
    is_target_M = np.arange(len(base_M)) == target + 1
    streams = [np.where(is_target_M, token, base_M) for token in range(basis.maker.vocab_size)]

    def judge(answers: Sequence[Ledgers]) -> Finding:
        worst, sums = 0.0, 0
        for item in basis.items:
            if not all(each[item].has_row(len(base_M) - 1)[target] for each in answers):
                continue  # a dropped target is check T1's
            nats_V = np.array([each[item].spread(each[item].nats, len(base_M) - 1)[target] for each in answers])
            if not (np.isfinite(nats_V) & (nats_V >= -ROUNDING_NATS)).all():
                return failed(
                    f"{item}, short: the {len(streams)} nats of target {target} are not all those of "
                    f"probabilities, but from {nats_V.min():g} to {nats_V.max():g}"
                )
            total = float(np.exp(-nats_V).sum())
            worst, sums = max(worst, abs(total - 1.0)), sums + 1
            if not abs(total - 1.0) <= SUM_TOLERANCE:
                return failed(f"{item}, short: probabilities at target {target} add up to {total:.6f}")
        if not sums:
            return not_applicable("the sampled target was not scored")
        return passed(f"{sums} items, {len(streams)} ids: sums within {worst:.1g} of 1 (allowed {SUM_TOLERANCE:g})")

    return Question(streams, judge)


def ask_order(basis: Basis) -> Question:
    """T6: what is scored next depends on nothing that is not scored yet, the lengths of later documents included."""
    stream = basis.streams[MANY]
    cut = int(stream.starts[4])
    tails = [[], list(range(cut, len(stream.tokens), 3)), list(range(cut, len(stream.tokens), 150))]
    streams = [other_documents(basis, cut, starts) for starts in tails]

    def judge(answers: Sequence[Ledgers]) -> Finding:
        for starts, tokens_M, ledgers in zip(tails, streams, answers, strict=True):
            moved = changed_targets(stream.tokens, tokens_M)
            for item in basis.items:
                first, second = basis.ledgers[MANY][item].target, ledgers[item].target
                length = min(len(first), len(second))
                differing = np.flatnonzero(first[:length] != second[:length])
                if len(differing) and not np.isin(first[: differing[0]], moved).any():
                    row = differing[0]
                    return failed(
                        f"{item}, {stream.name}, {len(starts)} documents after {cut} instead of 8: row {row} "
                        f"scores target {second[row]} instead of {first[row]}"
                    )
        return passed(f"{len(tails)} other layouts of the documents after token {cut}: the same order before it")

    return Question(streams, judge)


def ask_positions(basis: Basis) -> Question:
    """T12: one other token moves no score to its left, wherever it stands, and its own score follows it."""
    stream = basis.streams[OVER_LONG]
    length = len(stream.tokens)
    context = max(int(protocol["context_tokens"]) for protocol in basis.protocols.values())
    edges = [2, context - 1, context, context + 1, context + 2, 2 * context, 2 * context + 1, length - 1]
    positions = sorted({at for at in (*edges, *basis.maker.random.integers(2, length, 3).tolist()) if 2 <= at < length})
    streams = [basis.maker.changed(stream, np.array([at])) for at in positions]

    def left_of(at: int) -> dict[str, np.ndarray]:
        return dict.fromkeys(basis.items, np.arange(at - 1))

    def judge(answers: Sequence[Ledgers]) -> Finding:
        base = basis.ledgers[OVER_LONG]
        comparisons = [
            Comparison(f"{stream.name}, another token {at}", base, ledgers, length - 1, left_of(at))
            for at, ledgers in zip(positions, answers, strict=True)
        ]
        for item in basis.items:
            own = [
                base[item].spread(base[item].nats, length - 1)[at - 1]
                - ledgers[item].spread(ledgers[item].nats, length - 1)[at - 1]
                for at, ledgers in zip(positions, answers, strict=True)
            ]
            if not (np.abs(own) > 0).any():
                return failed(f"{item}, {stream.name}: no score follows its token; they are not scores of this stream")
        return scores_agree(comparisons, basis.tolerance, f"{len(positions)} positions")

    return Question(streams, judge)


def changed_targets(first_M: np.ndarray, second_M: np.ndarray) -> np.ndarray:
    """Return the targets in which two streams of one length differ, ascending."""
    return np.flatnonzero(first_M[1:] != second_M[1:])


def scored_before(rows: Rows, targets: np.ndarray) -> np.ndarray:
    """Return the targets that were scored before any of `targets`, in scoring order."""
    hits = np.flatnonzero(np.isin(rows.target, targets))
    return rows.target[: hits[0]] if len(hits) else rows.target
