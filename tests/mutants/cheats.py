"""One evaluator per violation seen in published records, each a few lines around an honest toy.

The toy: a decayed sum of embeddings, a linear head, a softmax. It sees all that came before and nothing else, so every
check passes it; each mutant overrides the one step that its historical model got wrong.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import sentencepiece

from pipeline.audit.evaluator import Ledgers, Rows
from pipeline.data.byte_count import byte_table, count_bytes

DECAY, WIDTH = 0.7, 12


class Honest:
    """The toy as it should be."""

    protocols: ClassVar[dict] = {"toy": {"kind": "blocks", "context_tokens": 16}}
    resets = False
    """Whether a document starts from nothing."""

    def __init__(self, processor: sentencepiece.SentencePieceProcessor) -> None:
        self.table, self.bos_id = byte_table(processor), processor.bos_id()
        random = np.random.default_rng(5)
        self.embedding_VD = random.normal(size=(processor.vocab_size(), WIDTH))
        self.head_DV = random.normal(size=(WIDTH, processor.vocab_size())) / WIDTH**0.5

    def __call__(self, streams: Sequence[np.ndarray], num_processes: int = 1) -> list[Ledgers]:
        return [{"toy": self.rows(np.asarray(tokens))} for tokens in streams]

    def rows(self, tokens: np.ndarray) -> Rows:
        num_targets = len(tokens) - 1
        return Rows(np.arange(num_targets), self.nats(tokens), self.bytes(tokens), np.zeros(num_targets, int))

    def nats(self, tokens: np.ndarray) -> np.ndarray:
        return -picked(self.log_probs(tokens), tokens)

    def bytes(self, tokens: np.ndarray) -> np.ndarray:
        return count_bytes(tokens, self.table)

    def log_probs(self, tokens: np.ndarray) -> np.ndarray:
        return log_softmax(self.hidden(tokens)[:-1] @ self.head_DV)

    def hidden(self, tokens: np.ndarray) -> np.ndarray:
        state, states = np.zeros(WIDTH), []
        for token in tokens:
            state = (0.0 if self.resets and token == self.bos_id else DECAY) * state + self.embedding_VD[token]
            states.append(state)
        return np.array(states)

    def documents(self, tokens: np.ndarray) -> list[np.ndarray]:
        """Return the targets of every document, its BOS, which the document before predicts, left to that one."""
        starts = [*np.flatnonzero(tokens == self.bos_id), len(tokens) - 1]
        return [np.arange(first, last) for first, last in itertools.pairwise(starts)]


def picked(values_NV: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    return values_NV[np.arange(len(tokens) - 1), tokens[1:]]


def log_softmax(logits_NV: np.ndarray) -> np.ndarray:
    shifted = logits_NV - logits_NV.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


class Isolated(Honest):
    """Honest, with documents that do not see each other, and says so."""

    protocols: ClassVar[dict] = {"toy": {"kind": "blocks", "context_tokens": 16, "documents": True}}
    resets = True


class FutureAttention(Honest):
    """Hidden states take in the token after the next: a mask that is off by one in one of two loops."""

    def hidden(self, tokens: np.ndarray) -> np.ndarray:
        hidden = super().hidden(tokens)
        hidden[:-2] += 0.1 * self.embedding_VD[tokens[2:]]
        return hidden


class Slot(Honest):
    """Fits a bias on the window that it is about to score."""

    def log_probs(self, tokens: np.ndarray) -> np.ndarray:
        logits = self.hidden(tokens)[:-1] @ self.head_DV
        for start in range(0, len(logits), 16):
            window = np.bincount(tokens[start + 1 : start + 17], minlength=logits.shape[1])
            logits[start : start + 16] += 0.2 * window
        return log_softmax(logits)


class SecondPass(Honest):
    """Learns token frequencies from the whole stream in a first pass and reports the second."""

    def log_probs(self, tokens: np.ndarray) -> np.ndarray:
        counts = np.bincount(tokens[1:], minlength=len(self.embedding_VD))
        return log_softmax(self.hidden(tokens)[:-1] @ self.head_DV + 0.5 * np.log1p(counts))


class MinOverPasses(Honest):
    """Scores twice, with two temperatures, and reports the better score of every target."""

    def nats(self, tokens: np.ndarray) -> np.ndarray:
        logits = self.hidden(tokens)[:-1] @ self.head_DV
        return -np.maximum(picked(log_softmax(logits), tokens), picked(log_softmax(2 * logits), tokens))


class TargetKeyedCache(Honest):
    """Looks the pair (previous token, target) up among those scored so far and lifts the target when it is there."""

    def nats(self, tokens: np.ndarray) -> np.ndarray:
        probabilities, seen = np.exp(-super().nats(tokens)), set()
        for target, pair in enumerate(zip(tokens[:-1].tolist(), tokens[1:].tolist(), strict=True)):
            probabilities[target] += 0.5 * (1 - probabilities[target]) * (pair in seen)
            seen.add(pair)
        return -np.log(probabilities)


class GatedHint(Honest):
    """Mixes in a guess, the token that followed last time, only where the guess is right."""

    def nats(self, tokens: np.ndarray) -> np.ndarray:
        nats, follower = super().nats(tokens), {}
        for target, (previous, token) in enumerate(zip(tokens[:-1].tolist(), tokens[1:].tolist(), strict=True)):
            if follower.get(previous) == token:
                nats[target] = -np.log(0.5 * np.exp(-nats[target]) + 0.5)
            follower[previous] = token
        return nats


class MissingNormaliser(Honest):
    """Adds two models' probabilities with weights that do not add up to one."""

    def nats(self, tokens: np.ndarray) -> np.ndarray:
        return super().nats(tokens) - np.log(1.05)


class ByteSpread(Honest):
    """Spreads the stream's bytes evenly over its targets: the total is right, no token's count is."""

    def bytes(self, tokens: np.ndarray) -> np.ndarray:
        total = int(super().bytes(tokens).sum())
        share, rest = divmod(total, len(tokens) - 1)
        return np.array([share + (target < rest) for target in range(len(tokens) - 1)])


class BosBytes(Honest):
    """Counts a byte for every BOS target: the denominator grows with the documents."""

    def bytes(self, tokens: np.ndarray) -> np.ndarray:
        return super().bytes(tokens) + (tokens[1:] == self.bos_id)


class SpaceAfterBoundary(Honest):
    """Counts the space of a word that follows a control or unknown piece other than BOS, where no text has one."""

    def bytes(self, tokens: np.ndarray) -> np.ndarray:
        after = self.table.boundary_V[tokens[:-1]] & (tokens[:-1] != self.bos_id)
        return super().bytes(tokens) + (after & self.table.leading_space_V[tokens[1:]])


class NotANumber(Honest):
    """Divides by zero where a word follows itself; a mean that skips what is no number never shows it."""

    def nats(self, tokens: np.ndarray) -> np.ndarray:
        return np.where(tokens[1:] == tokens[:-1], np.nan, super().nats(tokens))


class InfiniteNats(Honest):
    """Gives some pieces no probability at all and the others all of it."""

    def log_probs(self, tokens: np.ndarray) -> np.ndarray:
        logits = self.hidden(tokens)[:-1] @ self.head_DV
        logits[:, ::5] = -np.inf
        return log_softmax(logits)


class NegativeNats(Honest):
    """Takes the density of a mixture for a probability: above one where the model is sure."""

    def nats(self, tokens: np.ndarray) -> np.ndarray:
        nats = super().nats(tokens)
        return np.where(nats < np.log(8), nats - 3, nats)


class RescoredTail(Honest):
    """Every trailing window scores the last stride again, with a context that suits it better."""

    def rows(self, tokens: np.ndarray) -> Rows:
        rows = super().rows(tokens)
        tail = np.arange(max(0, len(tokens) - 5), len(tokens) - 1)
        again = rows._replace(nats=rows.nats - 0.1)
        return Rows(*(np.concatenate([first, second[tail]]) for first, second in zip(rows, again, strict=True)))


class DroppedTail(Honest):
    """Cuts the stream to a multiple of the sequence length."""

    def rows(self, tokens: np.ndarray) -> Rows:
        return Rows(*(column[: (len(tokens) - 1) // 16 * 16] for column in super().rows(tokens)))


class ValWarmUp(Honest):
    """Adapts to the end of the validation text before it scores the beginning."""

    def log_probs(self, tokens: np.ndarray) -> np.ndarray:
        counts = np.bincount(tokens[len(tokens) // 2 :], minlength=len(self.embedding_VD))
        return log_softmax(self.hidden(tokens)[:-1] @ self.head_DV + 0.1 * counts)


class LengthSort(Isolated):
    """Takes the documents by length, which for those to come nobody may know."""

    def rows(self, tokens: np.ndarray) -> Rows:
        order = np.concatenate(sorted(self.documents(tokens), key=len))
        return Rows(*(column[order] for column in super().rows(tokens)))


class TwoOrders(Honest):
    """Reads the documents forwards and backwards and reports the better of the two for each."""

    def nats(self, tokens: np.ndarray) -> np.ndarray:
        bounds = [*np.flatnonzero(tokens == self.bos_id), len(tokens)]
        spans = [np.arange(first, last) for first, last in itertools.pairwise(bounds)]
        back = np.concatenate(spans[::-1])
        hidden = np.empty((len(tokens), WIDTH))
        hidden[back] = self.hidden(tokens[back])
        backwards = -picked(log_softmax(hidden[:-1] @ self.head_DV), tokens)
        both = np.stack([super().nats(tokens), backwards])
        return np.concatenate([both[both[:, own].sum(1).argmin(), own] for own in self.documents(tokens)])


class SmearOverBos(Isolated):
    """Mixes every embedding with its predecessor, a document's first one included."""

    def hidden(self, tokens: np.ndarray) -> np.ndarray:
        hidden = super().hidden(tokens)
        hidden[1:] += 0.1 * self.embedding_VD[tokens[:-1]]
        return hidden


class KeptAdapters(Isolated):
    """Adapters of a document, here token frequencies, that the next document inherits though it says otherwise."""

    protocols: ClassVar[dict] = {"toy": {"kind": "lora-ttt", "context_tokens": 16, "chunk_tokens": 8}}
    keeps = True

    def log_probs(self, tokens: np.ndarray) -> np.ndarray:
        logits, counts = self.hidden(tokens)[:-1] @ self.head_DV, np.zeros(len(self.embedding_VD))
        for document in self.documents(tokens):
            counts *= self.keeps
            for chunk in np.split(document, range(8, len(document), 8)):
                logits[chunk] += 0.3 * np.log1p(counts)
                np.add.at(counts, tokens[chunk + 1], 1)
        return log_softmax(logits)


class FreshAdapters(KeptAdapters):
    """The same, reset at every document: score first, then learn."""

    keeps = False


class WarmLanes(Honest):
    """Counts that outlive their document in a lane of two, and what all documents before the fourth taught; says so."""

    protocols: ClassVar[dict] = {
        "toy": {
            "kind": "phased-ttt",
            "context_tokens": 16,
            "chunk_tokens": 8,
            "lane_documents": 2,
            "global_phase": {"documents": 3, "chunk_tokens": 20},
        }
    }

    def log_probs(self, tokens: np.ndarray) -> np.ndarray:
        logits, counts = self.hidden(tokens)[:-1] @ self.head_DV, np.zeros(len(self.embedding_VD))
        taught = np.zeros(len(self.embedding_VD))
        for number, document in enumerate(self.documents(tokens)):
            if number == self.phase:
                taught = np.bincount(self.course(tokens, int(document[0])), minlength=len(taught))
            counts *= 0.5 * self.is_warm(number)
            chunks = np.split(document, range(self.chunk(document), len(document), self.chunk(document)))
            for place, chunk in enumerate(chunks):
                early, late = self.lessons(chunks, place)
                np.add.at(counts, tokens[early + 1], 1)
                logits[chunk] += 0.3 * np.log1p(counts) + 0.1 * np.log1p(taught)
                np.add.at(counts, tokens[late + 1], 1)
        return log_softmax(logits)

    @property
    def phase(self) -> int:
        """The documents before the phase."""
        return (self.protocols["toy"]["global_phase"] or {"documents": 3})["documents"]

    def course(self, tokens: np.ndarray, scored: int) -> np.ndarray:
        return tokens[1 : scored + 1]

    def is_warm(self, number: int) -> bool:
        return number % 2 == 1 and number != self.phase

    def chunk(self, document: np.ndarray) -> int:
        return 8

    def lessons(self, chunks: Sequence[np.ndarray], place: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the targets that are learnt from before and after a chunk is scored."""
        return chunks[place][:0], chunks[place]


class StepBeforeScoring(WarmLanes):
    """Takes the step on a chunk, then scores it."""

    def lessons(self, chunks: Sequence[np.ndarray], place: int) -> tuple[np.ndarray, np.ndarray]:
        return chunks[place], chunks[place][:0]


class NextChunk(WarmLanes):
    """Takes the step on the chunk that comes next in the place of the one that was scored."""

    def lessons(self, chunks: Sequence[np.ndarray], place: int) -> tuple[np.ndarray, np.ndarray]:
        return chunks[place][:0], chunks[min(place + 1, len(chunks) - 1)]


class EarlyPhase(WarmLanes):
    """Learns in its phase from documents that are still to be scored, too."""

    def course(self, tokens: np.ndarray, scored: int) -> np.ndarray:
        return tokens[1:]


class LatePhase(EarlyPhase):
    """The same, with sizes for which the phase lies late in the audit's streams."""

    protocols: ClassVar[dict] = {
        "toy": {
            **WarmLanes.protocols["toy"],
            "context_tokens": 512,
            "global_phase": {"documents": 20, "chunk_tokens": 1024},
        }
    }


class LateRace(WarmLanes):
    """Several processes learn from a part of the documents only in a phase that lies late in the audit's streams."""

    protocols: ClassVar[dict] = LatePhase.protocols
    processes = 1

    def __call__(self, streams: Sequence[np.ndarray], num_processes: int = 1) -> list[Ledgers]:
        self.processes = num_processes
        return super().__call__(streams)

    def course(self, tokens: np.ndarray, scored: int) -> np.ndarray:
        return super().course(tokens, scored)[:: self.processes]


class ChunksByLength(WarmLanes):
    """Sizes a document's chunks by its length, which its end alone tells."""

    def chunk(self, document: np.ndarray) -> int:
        return 4 if len(document) < 40 else 8


class UndeclaredWarmth(WarmLanes, Isolated):
    """Says that every document starts afresh, and is warm."""

    protocols: ClassVar[dict] = {"toy": {**WarmLanes.protocols["toy"], "lane_documents": 1, "global_phase": None}}


class PeekingStream(Honest):
    """One pass in blocks whose cache is filled before the block is scored: its queries see the block's own future."""

    protocols: ClassVar[dict] = {"toy": {"kind": "stream", "context_tokens": 16, "stride_tokens": 8}}

    def hidden(self, tokens: np.ndarray) -> np.ndarray:
        hidden = super().hidden(tokens)
        for start in range(0, len(tokens), 8):
            hidden[start : start + 8] += 0.1 * self.embedding_VD[tokens[start : start + 8]].mean(0)
        return hidden


class Padding(Honest):
    """Pads the last window and lets the padding take part in every score of its batch."""

    def hidden(self, tokens: np.ndarray) -> np.ndarray:
        return super().hidden(tokens) + 0.01 * (-len(tokens) % 16)


class Race(Honest):
    """With two processes one of them reads the batch before it has arrived."""

    def __call__(self, streams: Sequence[np.ndarray], num_processes: int = 1) -> list[Ledgers]:
        answers = super().__call__(streams)
        for each in answers if num_processes > 1 else []:
            each["toy"].nats[100:120] += 0.01
        return answers


class Memory(Honest):
    """Keeps what it has learnt from one stream for the next, as long as its process lives."""

    def __call__(self, streams: Sequence[np.ndarray], num_processes: int = 1) -> list[Ledgers]:
        self.seen: set[bytes] = set()
        return super().__call__(streams, num_processes)

    def nats(self, tokens: np.ndarray) -> np.ndarray:
        known = tokens.tobytes() in self.seen
        self.seen.add(tokens.tobytes())
        return super().nats(tokens) - 0.1 * known


class Canned(Honest):
    """Reads its scores from a file: they are right on the day's stream, and the same on every other."""

    def nats(self, tokens: np.ndarray) -> np.ndarray:
        return np.full(len(tokens) - 1, np.log(len(self.embedding_VD)))


class Counting(Honest):
    """Honest, with counts of what followed each token of the document so far, mixed into every distribution."""

    discount, strength = 0.7, 2.0

    def nats(self, tokens: np.ndarray) -> np.ndarray:
        probabilities, books = np.exp(-super().nats(tokens)), dict[int, Counter[int]]()
        for target, (previous, token) in enumerate(zip(tokens[:-1].tolist(), tokens[1:].tolist(), strict=True)):
            books = {} if previous == self.bos_id else books
            counts = books.setdefault(previous, Counter())
            probabilities[target] = self.mixed(probabilities[target], counts, token)
            counts[token] += 1
        return -np.log(probabilities)

    def mixed(self, base: float, counts: Counter[int], token: int) -> float:
        freed = self.freed(counts) + self.strength
        kept = max(0.0, self.seen(counts, token) - self.discount)
        return (kept + freed * base) / (counts.total() + self.strength)

    def seen(self, counts: Counter[int], token: int) -> int:
        return counts[token]

    def freed(self, counts: Counter[int]) -> float:
        return self.discount * sum(count > 0 for count in counts.values())


class IsolatedCounting(Counting, Isolated):
    """The same with documents that do not see each other, and says so."""


class CountedFirst(Counting):
    """Counts a target before it is scored: it is sure to have been seen."""

    def mixed(self, base: float, counts: Counter[int], token: int) -> float:
        return super().mixed(base, counts + Counter([token]), token)


class LostDiscount(Counting):
    """Takes the discount from what was seen and gives it to nobody."""

    def freed(self, counts: Counter[int]) -> float:
        return 0.0


class SkippedForTheTarget(Counting):
    """Leaves the counts out where the target is not among them: it keeps its whole probability."""

    def mixed(self, base: float, counts: Counter[int], token: int) -> float:
        return super().mixed(base, counts, token) if counts[token] else base


class HashedPairs(Counting):
    """Looks pairs up under a hash of four values: a token finds what others left there."""

    def seen(self, counts: Counter[int], token: int) -> int:
        return sum(count for other, count in counts.items() if other % 4 == token % 4)


class StreamCounting(IsolatedCounting):
    """Declares isolated documents and goes on counting from one to the next."""

    def nats(self, tokens: np.ndarray) -> np.ndarray:
        bos_id, self.bos_id = self.bos_id, -1
        nats = Counting.nats(self, tokens)
        self.bos_id = bos_id
        return nats


EXPECTED = {
    Honest: set(),
    Isolated: set(),
    Counting: set(),
    IsolatedCounting: set(),
    CountedFirst: {"T3"},
    LostDiscount: {"T3"},
    SkippedForTheTarget: {"T3"},
    HashedPairs: {"T3"},
    StreamCounting: {"T5"},
    FreshAdapters: set(),
    WarmLanes: set(),
    StepBeforeScoring: {"T2", "T3", "T7", "T12"},
    NextChunk: {"T2", "T3", "T7", "T12"},
    EarlyPhase: {"T2", "T7"},
    LatePhase: {"T2"},
    LateRace: {"T7"},
    ChunksByLength: {"T2"},
    UndeclaredWarmth: {"T5"},
    FutureAttention: {"T2", "T7", "T12"},
    Slot: {"T2", "T3", "T7", "T12"},
    SecondPass: {"T2", "T3", "T7", "T12"},
    MinOverPasses: {"T3"},
    TargetKeyedCache: {"T3"},
    GatedHint: {"T3"},
    MissingNormaliser: {"T3"},
    ByteSpread: {"T4"},
    BosBytes: {"T4"},
    SpaceAfterBoundary: {"T4"},
    NotANumber: {"T1", "T2", "T3", "T7"},
    InfiniteNats: {"T1", "T2", "T3", "T7", "T12"},
    NegativeNats: {"T1", "T3"},
    RescoredTail: {"T1"},
    DroppedTail: {"T1"},
    ValWarmUp: {"T2", "T3", "T7", "T12"},
    LengthSort: {"T6"},
    TwoOrders: {"T2", "T7"},
    SmearOverBos: {"T5"},
    KeptAdapters: {"T5"},
    PeekingStream: {"T2", "T3", "T7", "T12"},
    Padding: {"T7"},
    Race: {"T7"},
    Memory: {"T3", "T7"},
    Canned: {"T12"},
}
"""Mutant -> the checks that must fail, all others passing or not applicable."""
