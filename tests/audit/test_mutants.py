"""Every historical violation fails exactly the checks that are meant for it; the shipped protocols fail none."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import sentencepiece
import torch
from ruamel.yaml import YAML

from pipeline.audit import questions
from pipeline.audit.behaviour import DOCUMENT_TOKENS, audit_behaviour, judge_bytes
from pipeline.audit.evaluator import Ledgers, Rows
from pipeline.audit.isolation import declares_isolation
from pipeline.audit.questions import Basis
from pipeline.audit.streams import StreamMaker
from pipeline.base.config import with_model_context
from pipeline.base.progress import silent
from pipeline.corpus.tokenizer_training import train_tokenizer
from pipeline.data.byte_count import byte_table, count_bytes, piece_table
from pipeline.data.case_ops import CASE_FORMS
from pipeline.scoring.protocols import parse_protocol
from pipeline.scoring.run import score_item
from tests.mutants.cheats import EXPECTED, ChunksByLength, Honest, Isolated, WarmLanes
from tests.scoring.scoring_toys import BLOCKS, DOCUMENTS, MIXTURES, PHASED, PROTOCOLS, TTT, run, tiny_network

linear = torch.nn.functional.linear
RECIPES = sorted((Path(__file__).resolve().parent.parent.parent / "recipes").glob("*.yaml"))
TOY_CONTEXT = 16
STREAM = {"kind": "stream", "context_tokens": 16, "stride_tokens": 4, "lane_tokens": 24, "mixture": None}


@pytest.mark.parametrize("mutant", EXPECTED, ids=lambda mutant: mutant.__name__)
def test_each_mutant_fails_exactly_its_checks(mutant: type[Honest], small_processor) -> None:
    findings = audit_behaviour(mutant(small_processor), StreamMaker(small_processor), tolerance=0.0, num_processes=2)
    failures = {check: finding.evidence for check, finding in findings.items() if finding.verdict == "fail"}
    assert set(failures) == EXPECTED[mutant], failures
    assert (findings["T5"].verdict == "not applicable") != issubclass(mutant, Isolated)


@pytest.mark.parametrize("mutant", EXPECTED, ids=lambda mutant: mutant.__name__)
def test_what_a_gpu_may_round_hides_chunks_by_length_alone(mutant: type[Honest], small_processor) -> None:
    findings = audit_behaviour(mutant(small_processor), StreamMaker(small_processor), tolerance=1e-3, num_processes=2)
    failures = {check: finding.evidence for check, finding in findings.items() if finding.verdict == "fail"}
    assert set(failures) <= EXPECTED[mutant], failures
    assert bool(failures) == bool(EXPECTED[mutant] and mutant is not ChunksByLength)  # a CPU finds it


def test_one_process_is_enough_where_there_is_one_gpu(small_processor) -> None:
    findings = audit_behaviour(Honest(small_processor), StreamMaker(small_processor), tolerance=1e-3, num_processes=1)
    assert "fail" not in {finding.verdict for finding in findings.values()}


class Library:
    """The library's own protocols around a tiny network."""

    def __init__(self, processor: sentencepiece.SentencePieceProcessor, protocols: dict[str, dict]) -> None:
        self.protocols = protocols
        self.table, self.model = byte_table(processor), tiny_network(processor.vocab_size())

    def __call__(self, streams: Sequence[np.ndarray], num_processes: int = 1) -> list[Ledgers]:
        return [{item: self.rows(tokens, item) for item in self.protocols} for tokens in streams]

    def rows(self, tokens: np.ndarray, item: str) -> Rows:
        protocol = parse_protocol(self.protocols[item])
        ledger = score_item(
            self.model, tokens, self.table, protocol, torch.device("cpu"), 4096, silent, mixtures=MIXTURES
        )
        return Rows(ledger.target, ledger.nats, ledger.bytes, ledger.group)


def summed_in_parts(x: torch.Tensor, weight_OI: torch.Tensor, bias: None = None) -> torch.Tensor:
    """Return a product in bfloat16 whose sum is taken in parts by the number of rows, which choose kernels on a GPU."""
    if not torch.is_autocast_enabled("cpu"):
        return linear(x, weight_OI)
    parts = 1 + x.numel() // x.size(-1) % 3
    with torch.autocast("cpu", enabled=False):
        pairs = zip(*(each.bfloat16().float().chunk(parts, -1) for each in (x, weight_OI)), strict=True)
        return sum(linear(*pair) for pair in pairs).bfloat16()


class Rounding(Library):
    """The library as on a GPU, in bfloat16."""

    def rows(self, tokens: np.ndarray, item: str) -> Rows:
        scores = run(self.model, tokens, self.protocols[item], 4096, dtype=torch.bfloat16)
        rows = scores.nats[scores.order], count_bytes(tokens, self.table)[scores.order]
        return Rows(scores.order, *rows, scores.group)


@pytest.mark.parametrize("name", ["documents", "sliding"])
def test_a_gpu_may_round_otherwise_in_other_batches(name: str, small_processor, monkeypatch) -> None:
    monkeypatch.setattr(torch.nn.functional, "linear", summed_in_parts)
    evaluator = Rounding(small_processor, {"item": PROTOCOLS[name]})
    findings = audit_behaviour(evaluator, StreamMaker(small_processor), tolerance=1e-3, num_processes=1)
    assert {check: finding for check, finding in findings.items() if finding.verdict == "fail"} == {}
    monkeypatch.setattr(questions, "BFLOAT16_TOLERANCE_NATS", 0.01)  # too little for what is honest
    findings = audit_behaviour(evaluator, StreamMaker(small_processor), tolerance=1e-3, num_processes=1)
    assert {check for check, finding in findings.items() if finding.verdict == "fail"} & {"T2", "T7"}


def recipe_protocols() -> dict[str, dict]:
    """Return the protocols of all recipes, each once, with every size brought down to a toy's."""
    found: dict[str, dict] = {}
    for path in RECIPES:
        for fields in with_model_context(YAML(typ="safe").load(path.read_text()))["evaluate"]["protocols"].values():
            scaled = toy_sized(fields, fields["context_tokens"])
            found[" ".join(f"{key}={value}" for key, value in scaled.items())] = scaled
    return found


def toy_sized(fields: dict, context: int) -> dict:
    """Return a protocol, or a part of one, whose sizes are brought down as a context is to a toy's."""
    least, most = {"chunk_tokens": 8}, {"rank": 4, "epochs": 1}
    scaled = {}
    for key, value in fields.items():
        if isinstance(value, dict):
            scaled[key] = {**toy_sized(value, value["context_tokens"]), "documents": 4, "chunk_tokens": 64}
        elif key == "short_chunks":
            scaled[key] = [[4, 4]]
        elif key.endswith("_tokens") and value:
            scaled[key] = max(least.get(key, 4), value * TOY_CONTEXT // context)
        else:
            scaled[key] = min(value, most[key]) if key in most else value
    return scaled


def one_of_each_kind_first() -> list:
    """Return the protocols of all recipes by name; all but the first of a kind are slow.

    So are those with adapters: tests/stages/test_recipe_courses.py audits records that are scored by them.
    """
    kinds = {"lora-ttt", "phased-ttt"}
    cases = []
    for name, fields in recipe_protocols().items():
        cases.append(pytest.param(fields, id=name, marks=pytest.mark.slow if fields["kind"] in kinds else ()))
        kinds.add(fields["kind"])
    return cases


STREAMS = [
    STREAM,
    PROTOCOLS["documents, counts"],
    PROTOCOLS["ttt, counts"],
    pytest.param({**PHASED, "lane_documents": 1, "global_phase": None}, marks=pytest.mark.slow),
    pytest.param({**PHASED, "batch_documents": 9, "mixture": "stream"}, marks=pytest.mark.slow),
    pytest.param({**STREAM, "lane_tokens": 400}, marks=pytest.mark.slow),
    pytest.param({**TTT, **STREAM, "kind": "ttt", "chunk_tokens": 60}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("protocol", [*one_of_each_kind_first(), *STREAMS])
def test_every_protocol_of_every_recipe_passes_and_so_do_streams(protocol: dict, small_processor) -> None:
    evaluator = Library(small_processor, {"item": protocol})
    findings = audit_behaviour(evaluator, StreamMaker(small_processor), tolerance=0.0, num_processes=2)
    assert {check: finding for check, finding in findings.items() if finding.verdict == "fail"} == {}


def test_counts_of_the_stream_are_no_isolation() -> None:
    assert declares_isolation({**DOCUMENTS, "mixture": "document"})
    assert not declares_isolation({**DOCUMENTS, "mixture": "stream"})


def test_lanes_of_one_document_without_a_phase_are_isolation() -> None:
    alone = {**PHASED, "lane_documents": 1, "global_phase": None}
    assert declares_isolation(alone)
    assert not declares_isolation({**alone, "lane_documents": 2})
    assert not declares_isolation({**alone, "global_phase": PHASED["global_phase"]})
    assert not declares_isolation({**alone, "mixture": "stream"})


@pytest.mark.parametrize("name", CASE_FORMS)
def test_markers_of_capitals_are_no_bytes(name: str) -> None:
    words = " ".join(f"{first}{second}" for first in "abcdefgh" for second in "ijklmnop")
    model = train_tokenizer([words, words.title(), words.upper()] * 9, 300, CASE_FORMS[name])
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    maker, evaluator = StreamMaker(processor), Library(processor, {"item": BLOCKS})
    streams = [maker.stream("many documents", DOCUMENT_TOKENS), maker.boundaries("boundary pieces")]
    assert any(text != text.lower() for text in streams[0].texts)
    for table, verdict in ((byte_table(processor), "pass"), (piece_table(processor), "fail")):
        evaluator.table = table
        ledgers = evaluator([stream.tokens for stream in streams])
        assert judge_bytes(Basis(maker, streams, ledgers, evaluator.protocols, 0.0)).verdict == verdict


def test_chunks_by_the_length_of_a_document_need_no_proof(small_processor) -> None:
    class Declared(WarmLanes):
        protocols: ClassVar[dict] = {"toy": {**WarmLanes.protocols["toy"], "chunks_by": "length"}}

    findings = audit_behaviour(Declared(small_processor), StreamMaker(small_processor), tolerance=0.0, num_processes=2)
    assert {check for check, finding in findings.items() if finding.verdict == "fail"} == {"T2"}
    assert "declares chunks by the length of a document" in findings["T2"].evidence


def test_a_stream_outlasts_the_wait_for_a_phase(small_processor) -> None:
    phase = {"documents": 300, "chunk_tokens": 900}
    seen: list[np.ndarray] = []

    class Recording(WarmLanes):
        protocols: ClassVar[dict] = {"toy": {**WarmLanes.protocols["toy"], "global_phase": phase}}

        def rows(self, tokens: np.ndarray) -> Rows:
            seen.append(tokens)
            return super().rows(tokens)

    audit_behaviour(Recording(small_processor), StreamMaker(small_processor), tolerance=0.0, num_processes=2)
    starts = max((np.flatnonzero(tokens == small_processor.bos_id()) for tokens in seen), key=len)
    assert len(starts) == 480
    assert starts[300] > 900  # more than the chunk that is learnt from
