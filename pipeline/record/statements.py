"""What a record states in its logs and in README.md: how each statement is written and, beside it, how it is read.

The one idea: a number that is stated is worth what can be read back from it, so writer and reader stand together and
a test reads back whatever is written. Readers also take the words that other programs use. The record program prints
with the writers, which therefore refer to no reader; both need the standard library only.

Checked by: tests/record/test_statements.py.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

ARTIFACT_FORMAT = "int6+rans"
"""The artifact's coding as the log's size lines name it; like the names of the score lines it says int6 whatever
the bits are, because people and tools look for these lines by name."""
BEYOND = Decimal(10) ** 18
"""What stands for every larger number."""


def size_lines(code_bytes: int, artifact_bytes: int) -> list[str]:
    """Return the lines that state the sizes on disk of train_gpt.py, of the artifact and of both."""
    return [
        f"Code size: {code_bytes} bytes",
        f"Serialized model {ARTIFACT_FORMAT}: {artifact_bytes} bytes",
        f"Total submission size {ARTIFACT_FORMAT}: {code_bytes + artifact_bytes} bytes",
    ]


def count_lines(tokens: int, targets: int) -> list[str]:
    """Return the lines that state how much was scored."""
    return [f"val_tokens: {tokens}", f"target_tokens: {targets}"]


def time_line(seconds: float) -> str:
    """Return the line that states how long scoring took."""
    return f"total_eval_time:{seconds:.1f}s"


NUMBERS: dict[str, tuple[Callable[..., str | list[str]] | None, re.Pattern[str]]] = {
    "code bytes": (size_lines, re.compile(r"^Code size:\s*(\d+)", re.M)),
    "artifact bytes": (size_lines, re.compile(r"^Serialized model (?:int\d|mixed|quant)\S*:\s*(\d+)", re.M)),
    "total bytes": (size_lines, re.compile(r"^Total submission size (?:int\d|mixed|quant)\S*:\s*(\d+)", re.M)),
    "tokens": (count_lines, re.compile(r"^val_tokens:\s*(\d+)", re.M)),
    "targets": (count_lines, re.compile(r"^(?:target_tokens:\s*|val_loader:.*\btokens:)(\d+)", re.M)),
    "scoring seconds": (time_line, re.compile(r"^total_eval_time:\s*(\d+(?:\.\d+)?)s", re.M)),
    "training ms": (None, re.compile(r"(?:^|\s)train_time:\s*(\d+(?:\.\d+)?)(?:ms|\s|$)", re.M)),
}
"""What a log states -> what writes it (None: the training loop) and what reads it, as others write it too."""


def digest_line(digest: str, name: str) -> str:
    """Return the line that states the hex sha256 of a file, or of the recipe under the name `config`."""
    return f"sha256 {digest} {name}"


_DIGEST = re.compile(r"^sha256 (\S+) (.+)$", re.MULTILINE)


def score_name(protocol: Mapping) -> str:
    """Return what a line calls the artifact's score under a protocol, plain data; ValueError for an unknown kind."""
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
    mixture = protocol.get("mixture")
    return names[kind] if mixture is None else names[kind].replace("_exact", f"_{mixture}_mixture_exact")


def score_line(name: str, val_loss: float, val_bpb: float) -> str:
    """Return the line that states the artifact's score: mean nats per target and bits per byte."""
    return f"{name} val_loss:{val_loss:.8f} val_bpb:{val_bpb:.8f}"


def float_score_line(val_loss: float, val_bpb: float) -> str:
    """Return the line that states the score of the model as it was before it was quantized."""
    return f"pre_quant val_loss:{val_loss:.8f} val_bpb:{val_bpb:.8f}"


_SCORE = re.compile(
    r"^(?P<name>final_\w+|pre_quant) (?>.*?val_loss:)\s*(?P<loss>\d+\.\d+)(?>.*?val_bpb:)\s*(?P<bpb>\d+\.\d+)",
    re.MULTILINE,
)
_SCORE_AS_WRITTEN = re.compile(
    r"(?:final_\w+_exact|pre_quant) val_loss:\d{1,6}\.\d{8} val_bpb:\d{1,6}\.\d{8}", re.ASCII
)


def score_cells(seed: int, item: str, score: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a row of README.md's table of scores, from a score report."""
    counts = (f"{score['targets']:,}", f"{score['bytes']:,}")
    return (str(seed), item, score["weights"], f"{score['val_loss']:.8f}", f"{score['val_bpb']:.8f}", *counts)


_SCORE_ROW = re.compile(
    r"\| (\d+) \| (\S+) \| artifact \| (\d{1,6}\.\d{8}) \| (\d{1,6}\.\d{8}) \| ([\d,]+) \| ([\d,]+) \|", re.ASCII
)


def headline(val_loss: float, val_bpb: float) -> str:
    """Return the words in which README.md states the record's score."""
    return f"**val_bpb {val_bpb:.8f}** (val_loss {val_loss:.8f} nats per target"


class Score(NamedTuple):
    """A score at the digits that were printed."""

    val_loss: Decimal
    val_bpb: Decimal


class ScoreLine(NamedTuple):
    """A final score of a log."""

    name: str
    score: Score


class ScoreRow(NamedTuple):
    """A row of README.md's table: the artifact's score under one item."""

    seed: str
    item: str
    score: Score
    targets: Decimal
    bytes: Decimal


def score_rows(readme: str) -> list[ScoreRow]:
    """Return what README.md's table states of the artifacts' scores."""
    return [
        ScoreRow(seed, item, _score(loss, bpb), *(stated_number(count.replace(",", "")) for count in counts))
        for seed, item, loss, bpb, *counts in _SCORE_ROW.findall(readme)
    ]


class SeedLog:
    """What a seed's log states; of a number the last counts: a log of several runs ends with the one that does."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        lines = [ScoreLine(found["name"], _score(found["loss"], found["bpb"])) for found in _SCORE.finditer(text)]
        finals = [line for line in lines if line.name != "pre_quant"]
        self.scores = [line for line in finals if line.name.endswith("_exact")] or finals
        """The final scores in their order; where lines of full precision (`_exact`) exist, these alone."""
        self.float_score = next((line.score for line in lines if line.name == "pre_quant"), None)
        self.all = {each: [*map(stated_number, reader.findall(text))] for each, (_, reader) in NUMBERS.items()}
        self.digests = {file: digest for digest, file in _DIGEST.findall(text)}
        stated = {(file, digest) for digest, file in _DIGEST.findall(text)}
        stated |= {(each, value) for each, values in self.all.items() if each != "training ms" for value in values}
        stated |= {(line.name, line.score) for line in lines if line.name == "pre_quant"}
        counts = Counter(each for each, _ in stated)
        about_scores = (line for line in text.split("\n") if "val_bpb" in line or "final_" in line)
        self.oddities = [f"{each} in several ways" for each in counts if counts[each] > 1]
        self.oddities += [f"{line:.80}" for line in about_scores if not _SCORE_AS_WRITTEN.fullmatch(line)]
        """What no log of a single run of ours states."""

    def last(self, name: str) -> Decimal | None:
        """Return the last of `NUMBERS` under a name."""
        return self.all[name][-1] if self.all[name] else None

    def seed_among(self, seeds: Sequence[str]) -> str | None:
        """Return the seed that the file's name holds, or the only seed there is."""
        numbers = re.findall(r"\d+", self.name)
        named = [seed for seed in seeds if seed in numbers]
        return named[-1] if named else seeds[0] if len(seeds) == 1 else None


def stated_number(text: str) -> Decimal:
    """Return a number as written; beyond anything that a record counts `BEYOND`, which agrees with nothing."""
    try:
        number = Decimal(text)
    except ArithmeticError:  # an exponent of twenty digits
        return BEYOND
    return number if number.adjusted() < BEYOND.adjusted() else BEYOND


def _score(loss: str, bpb: str) -> Score:
    return Score(stated_number(loss), stated_number(bpb))


def artifact_score_lines(scores: Sequence[Mapping]) -> list[str]:
    """Return the score lines of those score reports that scored the artifact, in their order."""
    artifact = [score for score in scores if score["weights"] == "artifact"]
    return [score_line(score_name(score["protocol"]), score["val_loss"], score["val_bpb"]) for score in artifact]


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
    lines += count_lines(scores[0]["tokens"], scores[0]["targets"])
    lines += [float_score_line(score["val_loss"], score["val_bpb"]) for score in scores if score["weights"] == "float"]
    lines += artifact_score_lines(scores)
    lines.append(time_line(evaluation_seconds(scores)))
    lines += [digest_line(digests[name], name) for name in sorted(digests)]
    return "\n".join(lines) + "\n"


def evaluation_seconds(scores: Sequence[Mapping]) -> float:
    """Return the seconds spent scoring the artifact."""
    return sum(score["seconds"]["total"] for score in scores if score["weights"] == "artifact")
