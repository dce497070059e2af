"""Every recipe at a size that runs in seconds: the same parts and branches, small widths, few steps."""

import dataclasses
import random
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

from pipeline.base.config import parse_value, read_yaml
from pipeline.data.shards import write_shard
from pipeline.record.program import Recipe
from pipeline.record.statements import score_name
from pipeline.scoring.config import EvaluateConfig
from tests.configurations import section_class

_PIECES = 300
_CONTEXT_TOKENS = 64
_FREQUENT_PIECE = 280
"""What begins a document where documents are needed: the toy's text has no BOS."""
_CARRIED = ("model", "train", "calibrate", "quantize", "budget")


def shrunk_recipe(path: Path, item: str | None = None) -> Recipe:
    """Return the recipe of a file with small numbers; what is off stays off, what is on stays on.

    `item`: what the record is scored under; None is the headline.
    """
    document = read_yaml(path)
    shrink(document, _PIECES)
    for protocol in document["evaluate"]["protocols"].values():
        if protocol.get("global_phase"):
            protocol["bos_id"] = _FREQUENT_PIECE
    sections = {name: parse_value(section_class(name), document[name], name) for name in _CARRIED}
    evaluate = parse_value(EvaluateConfig, document["evaluate"], "evaluate")
    item = item or evaluate.headline
    protocol = evaluate.protocols[item]
    return Recipe(
        seed=3,
        meta={"model": dataclasses.asdict(sections["model"])},
        device="cpu",
        attention="auto",
        protocols={item: protocol},
        score_name=score_name(dataclasses.asdict(protocol)),
        batch_tokens=evaluate.batch_tokens,
        silent_tokens=None,
        **sections,
    )


def shrink(document: dict[str, Any], pieces: int) -> None:
    """Make the numbers of a recipe small, all but those of its data; `pieces`: of its vocabulary."""
    model, train = document["model"], document["train"]
    _shrink_model(model, pieces)
    stages = train["context_stages"] or []
    for shorter, stage in enumerate(reversed(stages)):
        stage["context_tokens"] = _CONTEXT_TOKENS >> shorter
    late = train["quantization"] or train["loop_stages"] or train["average"] or stages  # begins late in a run
    steps = 16 if late else 4
    budget = {"max_steps": steps, "max_seconds": None, "reserve_seconds": 0.0}
    small = {
        "batch_tokens": 4 * _CONTEXT_TOKENS,
        "warmup_steps": 1,
        "muon_momentum_warmup_steps": 2,
        "compile": False,
        "log_every_steps": 1,
        "warmdown_steps": 3,
        "warmdown_frac": 0.9,
        "micro_batch_sequences": 2,
    }
    train |= budget | {key: value for key, value in small.items() if train[key] is not None}
    calibrate = {"num_sequences": 6, "batch_sequences": 3, "sensitivity_sequences": 4}
    document["calibrate"] |= {key: value for key, value in calibrate.items() if document["calibrate"][key]}
    if document["calibrate"]["mixture"]:
        document["calibrate"]["mixture"]["tokens"] = 1000
    document["budget"] |= {"limit_bytes": 120_000, "code_reserve_bytes": 40_000, "tolerance_frac": 0.02}
    document["evaluate"]["batch_tokens"] = 8 * _CONTEXT_TOKENS
    for protocol in document["evaluate"]["protocols"].values():
        chunk = 32 if protocol["kind"] in ("lora-ttt", "phased-ttt") else 256
        sizes = {"context_tokens": _CONTEXT_TOKENS, "stride_tokens": 32, "chunk_tokens": chunk, "epochs": 1, "rank": 4}
        protocol |= {key: value for key, value in sizes.items() if key in protocol}
        if protocol.get("global_phase"):
            protocol["global_phase"] |= {"context_tokens": 32, "chunk_tokens": 64, "documents": 4}


def _shrink_model(model: dict[str, Any], pieces: int) -> None:
    heads = model["attention"]["num_heads"]
    factored = model["embedding_dim"] != model["model_dim"]
    model |= {"vocab_size": pieces, "context_tokens": _CONTEXT_TOKENS, "model_dim": 8 * heads}
    model["embedding_dim"] = 4 * heads if factored else 8 * heads
    rope = model["rope"]
    rope["dims"] = min(rope["dims"], 8)
    model["unread"] = {name: [2] for name in model["unread"]}
    if model["bigram"]:
        model["bigram"] |= {"buckets": 32, "dim": 16}
    if model["smear"] and model["smear"]["kind"] == "token":
        model["smear"] |= {"width": 4, "bos_id": 1}
    if model["attention"]["gate"]:
        model["attention"]["gate"]["width"] = 4


def write_inputs(folder: Path, num_tokens: int = 3000) -> None:
    """Write a tokenizer, one train and one val shard of random text into `folder`."""
    words = [f"{a}{b}{c}" for a in "abcdefgh" for b in "ijklmnop" for c in "aeiou"]
    source = random.Random(5)
    lines = [" ".join(source.choices(words, k=30)) for _ in range(200)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=_PIECES,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=5,
    )
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    tokens = np.array(processor.encode(" ".join(lines)), dtype=np.uint16)
    (folder / "data").mkdir()
    write_shard(folder / "data" / "toy_train_000000.bin", tokens[: 2 * num_tokens])
    write_shard(folder / "data" / "toy_val_000000.bin", tokens[2 * num_tokens : 2 * num_tokens + 700])
