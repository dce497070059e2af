"""The public door: plain data in, one-line errors out, and the published sliding scores."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pipeline.interop import load_community
from pipeline.model.network import build
from pipeline.scoring import protocols, score_tokens
from pipeline.scoring.evaluate import Scores
from pipeline.scoring.protocols import parse_protocol
from tests.scoring.scoring_toys import BLOCKS, DOCUMENTS, LORA, PHASED, PROTOCOLS, SLIDING, TTT


@pytest.mark.parametrize("protocol", PROTOCOLS.values())
def test_mapping_and_dataclass_mean_the_same(protocol: dict) -> None:
    parsed = parse_protocol(protocol)
    assert dataclasses.asdict(parsed) == protocol
    assert parse_protocol(parsed) == parsed


@pytest.mark.parametrize(
    ("protocol", "says"),
    [
        ({**SLIDING, "kind": "slidng"}, ["kind", "slidng", "sliding"]),
        ({**SLIDING, "kind": "streams"}, ["kind", "streams", "blocks", "stream"]),
        ({**SLIDING, "kind": ["ttt"]}, ["kind"]),
        ({"context_tokens": 16}, ["kind"]),
        ({**BLOCKS, "mixture": "documents"}, ["blocks", "mixture", "documents", "document"]),
        ({**BLOCKS, "mixture": "document"}, ["protocol.mixture", "'document'", "null", "calibrate.mixture"]),
        ({**SLIDING, "stride_tokns": 6}, ["sliding", "stride_tokns", "stride_tokens"]),
        ({**BLOCKS, "stride_tokens": 6}, ["blocks", "stride_tokens"]),
        ({**BLOCKS, "batch_tokens": 6}, ["blocks", "batch_tokens"]),
        ({**BLOCKS, "documents": True}, ["blocks", "bos_id", "missing"]),
        ({**BLOCKS, "bos_id": 1}, ["blocks", "documents", "missing"]),
        ({**DOCUMENTS, "documents": False}, ["blocks", "documents", "False", "True"]),
        ({**DOCUMENTS, "stride_tokens": 6}, ["blocks", "stride_tokens"]),
        ({"kind": "ttt", "context_tokens": 16}, ["ttt", "stride_tokens", "missing"]),
        ({**SLIDING, "stride_tokens": "6"}, ["sliding", "stride_tokens", "whole number"]),
        ({**SLIDING, "stride_tokens": True}, ["sliding", "stride_tokens"]),
        ({**SLIDING, "stride_tokens": 17}, ["sliding", "stride_tokens", "17", "16"]),
        ({**TTT, "momentum": 1.0}, ["ttt", "momentum"]),
        ({**LORA, "chunk_tokens": 17}, ["lora-ttt", "chunk_tokens", "17", "16"]),
        ({**PHASED, "chunk_tokens": 17}, ["phased-ttt", "chunk_tokens", "17", "16"]),
        ({**PHASED, "short_chunks": [[4, 2], [4, 3]]}, ["phased-ttt", "short_chunks", "ascending"]),
        ({**PHASED, "short_chunks": [[4, 7]]}, ["phased-ttt", "short_chunks", "chunk_tokens (6)"]),
        ({**PHASED, "short_chunks": [[4, 2, 1]]}, ["phased-ttt", "short_chunks", "pairs"]),
        ({**PHASED, "short_chunks": [4, 2]}, ["phased-ttt", "short_chunks[0]", "a list"]),
        ({**PHASED, "lane_documents": 0}, ["phased-ttt", "lane_documents", "at least 1"]),
        ({**PHASED, "chunks_by": "size"}, ["phased-ttt", "chunks_by", "place or length"]),
        (
            {**PHASED, "global_phase": {**PHASED["global_phase"], "chunk_tokens": 9}},
            ["phased-ttt.global_phase", "chunk_tokens", "context_tokens (10)"],
        ),
        ({**LORA, "beta2": 1.0}, ["lora-ttt", "beta2"]),
        ({key: value for key, value in LORA.items() if key != "bos_id"}, ["lora-ttt", "bos_id", "missing"]),
        ("sliding", ["protocol"]),
        (None, ["protocol"]),
    ],
)
def test_bad_protocols_are_refused_in_one_line(protocol: object, says: list[str]) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        score_tokens(lambda ids: ids, [1, 2], protocol)
    assert all(word in str(caught.value) for word in says), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("device", "batch_tokens"), [("cpu", 4096), ("cuda", 131072), ("cuda:1", 131072)])
def test_the_device_decides_the_batch(monkeypatch: pytest.MonkeyPatch, device: str, batch_tokens: int) -> None:
    seen = {}

    def recorder(*args: object, **keywords: object) -> Scores:
        seen.update(keywords)
        return Scores(np.zeros(1), np.zeros(1, np.int64), np.zeros(1, np.int64))

    monkeypatch.setattr(protocols, "score", recorder)
    score_tokens(lambda ids: ids, [1, 2], BLOCKS, device)
    assert seen["batch_tokens"] == batch_tokens


def test_published_sliding_nats_are_reproduced(shared: Path, tmp_path: Path) -> None:
    path = shared / "fixtures" / "eval_crawler_4f1c_x3.safetensors"
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    checkpoint = tmp_path / "checkpoint.safetensors"
    save_file({k.removeprefix("param."): v for k, v in tensors.items() if k.startswith("param.")}, checkpoint)
    config, state = load_community(checkpoint, "crawler", json.loads(metadata["config"]))
    model = build(config)
    model.load_state_dict(state)
    protocol = {
        "kind": "sliding",
        "context_tokens": int(metadata["seq_len"]),
        "stride_tokens": int(metadata["stride"]),
        "mixture": None,
    }
    nats = score_tokens(model, tensors["val_tokens"], protocol)
    np.testing.assert_allclose(nats, tensors["token_nll"].numpy(), rtol=0, atol=1e-4)
    bpb = math.fsum(nats) / (math.log(2) * float(metadata["scored_bytes"]))
    assert bpb == pytest.approx(float(metadata["sliding_val_bpb"]), abs=1e-6)
