"""What the published n-gram helpers are worth, alone and on top of our mixture.

Run `OMP_NUM_THREADS=1 python -m benchmarks.ngrams DATA`: the text, checkpoint and constants of `benchmarks.mixture`.

A helper names at most one token h, the hint, before each target, by the tokens before it alone, and moves probability
towards it, so that a sum of one stays one:

    tilt    p(y) <- p(y) e^(beta [y = h]) / (1 + p(h) (e^beta - 1))
    Tap-In  p(y) <- (1 - w) p(y) + w [y = h],  w = base (1 + 0.15 (k - 3)) (1 + 0.2 ln votes), at most 0.5

The tilt counts what followed the last 15 tokens in the whole stream and hints at what did most, if that is a large
share of it. Tap-In takes the places in the document where the longest match of the last k tokens ends and hints at what
followed most of them, unless the network has 1,000 better tokens; base depends on whether the last such place lies in
the network's window. Each is measured on the network's probabilities and on those of both mixtures, with the published
constants and with the best ones of a grid for that base, on training documents.

Axes: M tokens, N targets (target j is token j + 1), T tokens of a document, K asked tokens per target, V vocabulary.
Source: Parameter Golf pull requests 2018 and 2135 (tilt), 1518 (Tap-In).
Differs: contexts are compared as they are, not by hash; the middle of the published bases beyond the window.
Checked by: tests/benchmarks/test_ngrams.py.
"""

import argparse
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.mixture import (
    BOS_ID,
    SCALES,
    Scale,
    bits,
    fitted_mixtures,
    full_material,
    gain,
    scored_protocols,
    small_material,
)
from benchmarks.quantization.data import Material, ScoredStream, add_data, exit_without_checkpoint, is_run
from benchmarks.results import ROOT, write_result
from pipeline.mixture.mixing import Evidence, Mixture, evidence_of, mix
from pipeline.model.network import LoopedUNet
from pipeline.quant.gptq import one_thread
from pipeline.reports.training import hardware_name
from pipeline.scoring.protocols import parse_protocol
from pipeline.scoring.windows import Window, plan

NO_HINT = -1
TILT_ORDER = 15
SHORTEST_MATCH, LONGEST_MATCH = 3, 100
BEST_RANKS = 1000
_MOST_WEIGHT = 0.5


class Hints(NamedTuple):
    """A helper's hint before every target, and what says how far to trust it."""

    token_N: np.ndarray
    """int64; NO_HINT where there is none."""
    evidence: tuple[np.ndarray, ...]
    """Of the tilt: the share of the hint among what followed. Of Tap-In: length of the match, votes for the hint, the
    last place where it followed one."""


class Asked(NamedTuple):
    """What a base, the network or a mixture, makes of every target and of the hint before it, float64."""

    nats_N: np.ndarray
    hint_nats_N: np.ndarray
    """Anything where there is no hint."""
    is_hit_N: np.ndarray
    """Whether the hint was what came."""


Constants = tuple[float, ...]
Effect = Callable[[Asked, Hints, Constants], np.ndarray]
"""The nats (N,) of every target with a helper's hints."""


class Helper(NamedTuple):
    """A way to use hints."""

    names: tuple[str, ...]
    """Of its constants."""
    published: Constants
    grid: tuple[Constants, ...]
    """Values that each constant is chosen from; with zeros the helper does nothing."""
    effect: Effect


def tilt_hints(tokens_M: np.ndarray, order: int = TILT_ORDER) -> Hints:
    """Return what followed the last `order` tokens most often so far; of equals the one that came to it first."""
    tokens = tokens_M.tolist()
    followers: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    token_N, share_N = np.full(len(tokens) - 1, NO_HINT), np.zeros(len(tokens) - 1)
    top: dict[tuple[int, ...], int] = {}
    for target in range(order - 1, len(tokens) - 1):
        context, token = tuple(tokens[target + 1 - order : target + 1]), tokens[target + 1]
        counts = followers[context]
        if context in top:
            token_N[target], share_N[target] = top[context], counts[top[context]] / counts.total()
        counts[token] += 1
        if counts[token] > counts[top.setdefault(context, token)]:
            top[context] = token
    return Hints(token_N, (share_N,))


def tap_hints(tokens_M: np.ndarray) -> Hints:
    """Return what followed most places of the document where the longest match ends; of equals the latest."""
    columns_4N = np.full((4, len(tokens_M) - 1), NO_HINT)
    starts = sorted({0, *np.flatnonzero(tokens_M == BOS_ID).tolist()})
    for start, stop in itertools.pairwise([*starts, len(tokens_M)]):
        for end, *row in _taps(tokens_M[start:stop]):
            if start + end < len(tokens_M) - 1:
                columns_4N[:, start + end] = np.add(row, (0, 0, 0, start))
    return Hints(columns_4N[0], tuple(columns_4N[1:]))


def _taps(tokens_T: np.ndarray) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield place of the last token, hint, length of the match, votes, last place of the hint."""
    shared_T = np.zeros(0, np.int32)
    for end, token in enumerate(tokens_T):
        # How many tokens the text up to each earlier place has in common with the text up to here.
        shared_T = np.where(tokens_T[:end] == token, np.append(0, shared_T)[:end] + 1, 0)
        length = min(int(shared_T.max(initial=0)), LONGEST_MATCH)
        if length >= SHORTEST_MATCH:
            place_P = np.flatnonzero(shared_T >= length) + 1
            follower_P = tokens_T[place_P]
            [(hint, votes)] = Counter(follower_P[::-1].tolist()).most_common(1)  # of equals the first that is met
            yield end, hint, length, votes, int(place_P[follower_P == hint][-1])


def tilted(asked: Asked, hints: Hints, constants: Constants) -> np.ndarray:
    """Return nats with hints whose share is at least the first constant tilted by the second, beta."""
    (least_share, beta), (share_N,) = constants, hints.evidence
    is_on_N = (hints.token_N != NO_HINT) & (share_N >= least_share)
    lifted_N = np.log1p(np.exp(-asked.hint_nats_N) * math.expm1(beta)) - beta * asked.is_hit_N
    return asked.nats_N + np.where(is_on_N, lifted_N, 0)


def tapped(asked: Asked, hints: Hints, constants: Constants) -> np.ndarray:
    """Return nats mixed with hints; constants: base of places in the window and of places beyond."""
    length_N, votes_N, is_inside_N = hints.evidence
    base_N = np.where(is_inside_N, *constants)
    weight_N = base_N * (1 + 0.15 * (length_N - SHORTEST_MATCH)) * (1 + 0.2 * np.log(np.maximum(votes_N, 1)))
    weight_N = weight_N.clip(max=_MOST_WEIGHT)
    mixed_N = -np.log((1 - weight_N) * np.exp(-asked.nats_N) + weight_N * asked.is_hit_N)
    return np.where((hints.token_N == NO_HINT) | (base_N == 0), asked.nats_N, mixed_N)


HELPERS = {
    "tilt": Helper(
        ("least share", "beta"),
        (0.8, 2.625),
        ((0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0), (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.625, 3.5, 5.0, 7.0)),
        tilted,
    ),
    "Tap-In": Helper(
        ("base inside", "base beyond"),
        (0.02, 0.09),
        2 * ((0.0, 0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.09, 0.12, 0.16, 0.2, 0.3, 0.4, 0.5),),
        tapped,
    ),
}


@torch.inference_mode()
def network_nats(
    model: LoopedUNet, tokens_M: np.ndarray, asked_KN: np.ndarray, windows: Sequence[Window]
) -> tuple[np.ndarray, np.ndarray]:
    """Return float64 nats (K, N) of any tokens in the place of targets, and how many of the vocabulary are likelier."""
    ids_M, asked_NK = torch.from_numpy(tokens_M.astype(np.int64)), torch.from_numpy(asked_KN.T.clip(min=0))
    nats_NK, rank_NK = torch.empty(asked_NK.shape, dtype=torch.float64), torch.empty_like(asked_NK)
    for window in windows:
        scored = slice(window.first_scored, window.stop)
        hidden_1TD = model.hidden(ids_M[None, window.start : window.stop], window.stop - window.first_scored)
        logs_TV = model.logits(hidden_1TD)[0].float().log_softmax(-1)
        logs_TK = logs_TV.gather(1, asked_NK[scored])
        nats_NK[scored] = -logs_TK.double()
        for k, logs_T in enumerate(logs_TK.T):
            rank_NK[scored, k] = (logs_TV > logs_T[:, None]).sum(1)
    return nats_NK.T.numpy(), rank_NK.T.numpy()


def mixed_asked(
    tokens_M: np.ndarray, nats_N: np.ndarray, asked_N: np.ndarray, asked_nats_N: np.ndarray, mixture: Mixture
) -> np.ndarray:
    """Return a mixture's nats (N,) of any token in the place of each target, given the network's of both."""
    ids_M, steps = torch.from_numpy(tokens_M.astype(np.int64)), [(int(step[0]), int(step[1])) for step in mixture]
    evidence = []
    for step, (counts, *rest) in zip(steps, evidence_of(ids_M, torch.from_numpy(nats_N), steps), strict=True):
        seen_N = torch.from_numpy(times_seen(tokens_M, asked_N, *step))
        evidence.append(Evidence(counts._replace(seen=seen_N[counts.target]), *rest))
    constants_SC = torch.tensor(mixture, dtype=torch.float64)[:, 2:]
    return mix(torch.from_numpy(asked_nats_N), evidence, constants_SC).numpy()


def times_seen(tokens_M: np.ndarray, asked_N: np.ndarray, empties: int, order: int) -> np.ndarray:
    """Return how often each asked token followed the last `order` tokens since the token `empties`, int64 (N,)."""
    tokens, asked, start = tokens_M.tolist(), asked_N.tolist(), 0
    counts: Counter[tuple[int, ...]] = Counter()
    seen_N = np.zeros(len(asked), np.int64)
    for target, token in enumerate(asked):
        if tokens[target] == empties:
            start, counts = target, Counter()
        if target + 1 - order >= start:
            context = tokens[target + 1 - order : target + 1]
            seen_N[target] = counts[(*context, token)]
            counts[(*context, tokens[target + 1])] += 1
    return seen_N


class Text(NamedTuple):
    """What all measurements of a text share: hints by helper, and by base what it makes of them."""

    hints: dict[str, Hints]
    asked: dict[str, dict[str, Asked]]
    """By base, then by helper."""


def read_text(
    model: LoopedUNet, tokens_M: np.ndarray, mixtures: Mapping[str, Mixture], protocol: Mapping[str, Any]
) -> Text:
    """Return hints, and nats of targets and hints under the network and both mixtures."""
    (group,) = plan([len(tokens_M) - 1], parse_protocol(protocol))
    hints = {"tilt": tilt_hints(tokens_M), "Tap-In": tap_hints(tokens_M)}
    tokens = np.stack([tokens_M[1:].astype(np.int64), *(each.token_N for each in hints.values())])
    nats_KN, rank_KN = network_nats(model, tokens_M, tokens, group.windows)
    hints["Tap-In"] = gated(hints["Tap-In"], rank_KN[2], group.windows)
    asked = {}
    for base in ("network", *mixtures):
        if base == "network":
            base_KN = list(nats_KN)
        else:
            base_KN = [
                mixed_asked(tokens_M, nats_KN[0], token_N, nats_N, mixtures[base])
                for token_N, nats_N in zip(tokens, nats_KN, strict=True)
            ]
        asked[base] = {
            name: Asked(base_KN[0], nats_N, each.token_N == tokens[0])
            for (name, each), nats_N in zip(hints.items(), base_KN[1:], strict=True)
        }
    return Text(hints, asked)


def gated(taps: Hints, rank_N: np.ndarray, windows: Sequence[Window]) -> Hints:
    """Return the hints that are among the network's best; instead of the last place, whether it is in the window."""
    start_N = np.empty_like(rank_N)
    for window in windows:
        start_N[window.first_scored : window.stop] = window.start
    length_N, votes_N, place_N = taps.evidence
    return Hints(np.where(rank_N < BEST_RANKS, taps.token_N, NO_HINT), (length_N, votes_N, place_N >= start_N))


def best_constants(helper: Helper, asked: Asked, hints: Hints) -> Constants:
    """Return the constants of the grid under which a text is likeliest."""
    return min(
        itertools.product(*helper.grid), key=lambda constants: float(helper.effect(asked, hints, constants).sum())
    )


def measure(scale: Scale, material: Material, trained_M: np.ndarray) -> dict[str, Any]:
    """Return what both helpers save on every base, printed on the way."""
    model, scored, protocol = material.model, material.scored, scored_protocols(scale)["sliding"]
    mixtures = fitted_mixtures(model, trained_M, scale.fitted_tokens)
    trained, held_out = (
        read_text(model, tokens_M, mixtures, protocol)
        for tokens_M in (trained_M[: scale.fitted_tokens], scored.tokens_M)
    )
    rows = []
    for base, (name, helper) in itertools.product(held_out.asked, HELPERS.items()):
        fitted = best_constants(helper, trained.asked[base][name], trained.hints[name])
        for chosen, constants in (("published", helper.published), ("fitted", fitted)):
            row = {"base": base, "helper": name, "chosen": chosen, **describe(held_out, base, name, constants, scored)}
            rows.append(row)
            print("{base:9} {helper:7} {chosen:10}".format(**row), constants, row["gain_mbpb"], flush=True)
    return {
        "targets": len(scored.bytes_N),
        "documents": len(scored.document_bytes()),
        "protocol": protocol,
        "fitted_tokens": scale.fitted_tokens,
        "bpb": bits({base: next(iter(each.values())).nats_N for base, each in held_out.asked.items()}, scored),
        "rows": rows,
    }


def describe(text: Text, base: str, name: str, constants: Constants, scored: ScoredStream) -> dict[str, Any]:
    """Return what a helper with these constants saves over its base, how often it acts, and how often it is right."""
    asked, helper = text.asked[base][name], HELPERS[name]
    nats_N = helper.effect(asked, text.hints[name], constants)
    saved_N, moved_N = asked.nats_N - nats_N, nats_N != asked.nats_N
    saved_D = np.bincount(scored.document_N, saved_N)
    return {
        "constants": dict(zip(helper.names, constants, strict=True)),
        "bpb": bits({name: nats_N}, scored)[name],
        "gain_mbpb": gain(saved_N, scored),
        "targets_moved": int(moved_N.sum()),
        "hits_frac": float(asked.is_hit_N[moved_N].mean()) if moved_N.any() else None,
        "documents_worse": int((saved_D < 0).sum()),
    }


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ngrams", description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SCALES, default="full", help="small proves that it runs, and records nothing")
    add_data(parser)
    options = parser.parse_args()
    if options.size == "full":
        exit_without_checkpoint(options.data)
    with one_thread():
        measured = measure(SCALES[options.size], *material_of(options.size, options.data))
    if options.size == "full" and not is_run(options.data):
        print(write_result("ngrams", hardware_name(torch.device("cpu")), measured).relative_to(ROOT))


def material_of(size: str, folder: Path) -> tuple[Material, np.ndarray]:
    """Return what is scored, and the tokens that constants are fitted to; small reads nothing."""
    return small_material() if size == "small" else full_material(folder)


if __name__ == "__main__":
    main()
