"""The audit of a real record: clean as it ships, and every doctored number, file and digest found by its check."""

import functools
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.audit.audit import TITLES, Machine, Seen, audit_record, audit_table, file_findings, state_audit
from pipeline.audit.evaluator import Finding, Rows
from pipeline.audit.number_checks import check_alarms
from pipeline.audit.processes import Event, ShippedError
from pipeline.audit.record_files import Evidence, RecordFolder
from pipeline.base.artifacts import ROOT
from pipeline.base.files import files_below, folder_digest
from pipeline.data.shards import write_shard

ITEMS = ["ttt"]


def test_the_shipped_record_passes_every_check(finished) -> None:
    report = json.loads((finished.root / ROOT / "audit/audit.json").read_text())
    verdicts = {check["id"]: check["verdict"] for check in report["checks"]}
    assert list(verdicts) == list(TITLES)
    assert report["verdict"] == "pass"
    assert {check for check, verdict in verdicts.items() if verdict == "not applicable"} <= {"T5"}
    assert not {check for check, verdict in verdicts.items() if verdict == "alarm"} - {"T15"}
    assert report["folder_digest"] == folder_digest(finished.root / ROOT / "package")
    assert list(report["items"]) == ITEMS
    assert audit_table(report) == (finished.root / ROOT / "audit/audit.md").read_text()


def test_the_record_states_its_audit_and_nothing_else_is_new(finished) -> None:
    package, record = finished.root / ROOT / "package", finished.root / ROOT / "submission"
    report = json.loads((record / "audit.json").read_text())
    assert report["folder_digest"] == folder_digest(package)
    assert (record / "README.md").read_text() == f"{(package / 'README.md').read_text()}\n{audit_table(report)}"
    before, after = (json.loads((folder / "submission.json").read_text()) for folder in (package, record))
    assert after["audit"]["checks"] == [{"id": each["id"], "verdict": each["verdict"]} for each in report["checks"]]
    assert {**after, "audit": before["audit"]} == before
    changed = {"README.md", "submission.json", "audit.json"}
    rest = [
        {path.relative_to(folder): path.read_bytes() for path in files_below(folder) if path.name not in changed}
        for folder in (package, record)
    ]
    assert rest[0] == rest[1]
    assert len(rest[0]) == len(list(files_below(record))) - 3


@pytest.fixture
def copied(finished, tmp_path: Path) -> Path:
    """Return a copy of the run's files, free to be doctored."""
    for name in ("submission", "data", "seeds"):
        shutil.copytree(finished.root / ROOT / name, tmp_path / name)
    return tmp_path


class Doctored:
    """A record and its evidence, and what is seen of an honest program: the record's own scores, on a stream of one."""

    def __init__(self, root: Path, *events: Event, silenced: int = 0) -> None:
        self.root, self.events, self.silenced = root, events, silenced
        self.bos_id = 1

    @functools.cached_property
    def seen(self) -> Seen:
        evidence, scores = Evidence(self.root), {}
        protocols = {item: evidence.ledger(1, item).protocol for item in ITEMS}
        printed = [f"sha256 {RecordFolder(self.root / 'submission').log(1).digests['config']} config"]
        for number, item in enumerate(ITEMS):
            nats, num_bytes = np.array([1.5 + number, 2.0]), np.array([3, 0])
            scores[item] = Rows(np.arange(2), nats, num_bytes, np.zeros(2, int))
            printed.append(f"final_x_exact val_loss:{nats.mean():.8f} val_bpb:{nats.sum() / np.log(2) / 3:.8f}")
        return Seen(protocols, printed, scores, self.events, self.silenced)

    def findings(self, evidence: bool = True) -> dict[str, Finding]:
        record = RecordFolder(self.root / "submission")
        return file_findings(
            record, Evidence(self.root) if evidence else None, self.seen, self.bos_id, 0.0, lambda line: None
        )

    def failing(self, evidence: bool = True) -> set[str]:
        return {check for check, finding in self.findings(evidence).items() if finding.verdict == "fail"}


def edit_json(path: Path, change: Callable[[dict], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _submission(change: Callable[[dict], None]) -> Callable[[Path], None]:
    return lambda root: edit_json(root / "submission/submission.json", change)


def _text(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / "submission" / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return change


def _append(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).write_bytes((root / name).read_bytes() + b"\n")


def _fingerprints(fields: dict, **changes: object) -> None:
    fields["data_fingerprints"].update(changes)


def _train_on_val(root: Path, parts: int = 1) -> None:
    """Train on the first of so many parts of every val document."""
    tokens = np.concatenate([np.fromfile(path, "<u2")[512:] for path in sorted((root / "data/val").glob("*.bin"))])
    documents = np.split(tokens, np.flatnonzero(tokens == tokens[0])[1:])
    taken = np.concatenate([each[: len(each) // parts] for each in documents])
    write_shard(root / "data/train/train_999999.bin", taken)


def _ledger(change: Callable[[dict], None], item: str = "ttt") -> Callable[[Path], None]:
    def rewrite(root: Path) -> None:
        path = root / f"seeds/1/evaluate/ledger-{item}.npz"
        with np.load(path) as file:
            columns = dict(file)
        change(columns)
        np.savez(path, **columns)

    return rewrite


def _cell(column: str, row: int, value: float) -> Callable[[dict], None]:
    return lambda columns: columns[column].__setitem__(row, value)


def _rescored(columns: dict) -> None:
    same_bytes = np.flatnonzero(columns["bytes"] == columns["bytes"][0])
    columns["target"][same_bytes[-1]] = columns["target"][0]


def _scaled(columns: dict) -> None:
    columns["nats"] *= 0.9


def _shifted_bytes(columns: dict) -> None:
    columns["bytes"][:] = np.roll(columns["bytes"], 1)


def _report(stage: str, change: Callable[[dict], None]) -> Callable[[Path], None]:
    return lambda root: edit_json(root / f"seeds/1/{stage}.json", change)


def _seal(stage: str) -> Callable[[Path], None]:
    return _report(stage, lambda report: report["provenance"]["firewall"].update(sealed=[]))


def _result(**values: object) -> Callable[[Path], None]:
    return _submission(lambda fields: fields["seed_results"]["1"].update(values))


def _log(change: Callable[[list[str]], object]) -> Callable[[Path], None]:
    def rewrite(root: Path) -> None:
        path = root / "submission/train_seed1.log"
        lines = path.read_text().splitlines()
        change(lines)
        path.write_text("\n".join(lines) + "\n")

    return rewrite


def _better_headline(root: Path) -> None:
    """State a better score than the ledger's, in log, submission.json and README alike, with the bytes it implies."""
    folder = root / "submission"
    result = json.loads((folder / "submission.json").read_text())["seed_results"]["1"]
    for key in ("val_loss", "val_bpb"):
        for path in sorted(folder.glob("*[!y]")):
            if path.suffix in (".json", ".md", ".log"):
                text = path.read_text().replace(f"{result[key]:.8f}", f"{0.9 * result[key]:.8f}")
                path.write_text(text.replace(repr(result[key]), repr(0.9 * result[key])))


def _other_bytes(root: Path, held: int, stated: int) -> None:
    _result(eval_bytes=stated)(root)
    _text("README.md", f"{held:,}", f"{stated:,}")(root)


def _one_byte_more(root: Path) -> None:
    """State a byte more in submission.json and README: too little for a score line to tell."""
    held = json.loads((root / "submission/submission.json").read_text())["seed_results"]["1"]["eval_bytes"]
    _other_bytes(root, held, held + 1)


def _fewer_bytes(root: Path) -> None:
    """Divide by fewer bytes everywhere: the lines imply them, only manifest and ledgers know better."""
    held = json.loads((root / "submission/submission.json").read_text())["seed_results"]["1"]["eval_bytes"]
    stated = held * 9 // 10
    _other_bytes(root, held, stated)
    bpb = re.compile(r"(?<=val_bpb:)\d\.\d+|(?<=val_bpb )\d\.\d+|(?<=_bpb\": )\d\.\d+")
    for name in ("train_seed1.log", "README.md", "submission.json"):
        path = root / "submission" / name
        path.write_text(bpb.sub(lambda match: f"{float(match[0]) * held / stated:.8f}", path.read_text()))


SCORE = "final_ttt_document_mixture_exact val_loss:1.00000000 val_bpb:1.00000000"
DOCTORED = {
    "nothing": (lambda root: None, set()),
    "a target twice in the real ledger": (_ledger(_rescored), {"T1"}),
    "a target beyond the end of the real ledger": (_ledger(_cell("target", -1, 10**6)), {"T1"}),
    "a negative score in the real ledger": (_ledger(_cell("nats", 5, -0.5)), {"T1", "T11"}),
    "no number in the real ledger": (_ledger(_cell("nats", 5, np.nan)), {"T1", "T11"}),
    "an infinite score in the real ledger": (_ledger(_cell("nats", 5, np.inf)), {"T1", "T11"}),
    "other scores in the real ledger": (_ledger(_scaled), {"T11"}),
    "bytes at other targets of the real ledger": (_ledger(_shifted_bytes), {"T4"}),
    "another protocol in the real ledger": (
        _ledger(lambda columns: columns.update(meta=np.frombuffer(b'{"protocol": {"kind": "blocks"}}', np.uint8))),
        {"T11"},
    ),
    "another denominator": (_result(eval_bytes=9), {"T4", "T11"}),
    "a denominator that all lines imply": (_fewer_bytes, {"T11"}),
    "a denominator that no line can tell": (_one_byte_more, {"T11"}),
    "another number of targets": (_result(target_tokens=9), {"T11"}),
    "a better headline everywhere": (_better_headline, {"T11"}),
    "a second headline at the end": (_log(lambda lines: lines.append(SCORE)), {"T4", "T11"}),
    "a score line twice": (_log(lambda lines: lines.append(next(x for x in lines if "mixture_exact" in x))), {"T11"}),
    "a score line in other words": (_log(lambda lines: lines.insert(0, "best val_bpb: 1.0")), {"T11"}),
    "a score line less": (
        _log(lambda lines: lines.remove(next(x for x in lines if "mixture_exact" in x))),
        {"T4", "T11"},
    ),
    "two numbers of targets": (_log(lambda lines: lines.append("target_tokens: 9")), {"T4", "T11"}),
    "two digests of the artifact": (_log(lambda lines: lines.append("sha256 00 model.fwy")), {"T11"}),
    "calibrate with val open": (_seal("calibrate/report"), {"T8"}),
    "train with val open": (_seal("train/report"), {"T8"}),
    "evaluate with train open": (_seal("evaluate/scores-ttt"), {"T8"}),
    "another artifact": (_append("submission/model.fwy"), {"T9", "T11", "T13"}),
    "other statistics": (_append("seeds/1/calibrate/hessians.safetensors"), {"T9"}),
    "another checkpoint": (_append("seeds/1/train/checkpoint.safetensors"), {"T9"}),
    "a train shard that the manifest does not know": (_append("data/train/train_000000.bin"), {"T9", "T10"}),
    "another manifest": (lambda root: edit_json(root / "data/manifest.json", lambda each: each.update(x=1)), {"T9"}),
    "statistics that calibrate did not write": (
        _report("calibrate/report", lambda report: report.update(outputs_sha256={})),
        {"T9"},
    ),
    "a checkpoint that train did not write": (
        _report(
            "train/report",
            lambda report: report["outputs_sha256"].update(dict.fromkeys(report["outputs_sha256"], "0" * 64)),
        ),
        {"T9"},
    ),
    "scores of another artifact": (
        _report(
            "evaluate/scores-ttt",
            lambda report: report["provenance"]["inputs_sha256"].update(
                {"artifacts/seeds/1/quantize/model.fwy": "0" * 64}
            ),
        ),
        {"T9"},
    ),
    "val text among the train shards": (_train_on_val, {"T9", "T10"}),
    "train shards of another fingerprint": (_submission(lambda fields: _fingerprints(fields, train="0" * 64)), {"T10"}),
    "val shards of another fingerprint": (_submission(lambda fields: _fingerprints(fields, val=None)), {"T10"}),
    "another val shard": (_append("data/val/val_000000.bin"), {"T4", "T10"}),
    "another tokenizer": (_append("submission/tokenizers/tokenizer.model"), {"T4", "T9", "T10", "T11"}),
    "a typed bpb": (_result(val_bpb=1.0), {"T4", "T11"}),
    "a typed float score": (_result(pre_quant_val_bpb=1.0), {"T11"}),
    "a typed mean": (_submission(lambda fields: fields.update(val_bpb=1.0)), {"T4", "T11"}),
    "a typed deviation": (_submission(lambda fields: fields.update(val_bpb_std=0.1)), {"T11"}),
    "another headline": (_submission(lambda fields: fields["compliance"].update(headline_item="blocks")), {"T11"}),
    "a README of another run": (_text("README.md", "**val_bpb ", "**val_bpb 1"), {"T11"}),
    "a README with another row": (_text("README.md", "| 1 | ttt | artifact | ", "| 1 | ttt | artifact | 1"), {"T11"}),
    "an edited program": (_append("submission/train_gpt.py"), {"T11", "T13"}),
    "a typed size": (_submission(lambda fields: fields.update(bytes_total=9)), {"T13"}),
    "a lower limit": (_submission(lambda fields: fields["compliance"].update(limit_bytes=9)), {"T13"}),
    "a typed time": (_result(eval_time_s=9e3), {"T14"}),
    "a typed training time": (_result(train_wallclock_ms=1000 * 60 * 9), {"T14"}),
    "no timer of scoring": (_log(lambda lines: lines.remove(next(x for x in lines if "eval_time" in x))), {"T14"}),
    "no timer of training": (
        _log(lambda lines: lines.__setitem__(slice(None), [x for x in lines if "train_time" not in x])),
        {"T11", "T14"},  # the steps are those lines' too
    ),
}


@pytest.mark.parametrize("name", DOCTORED)
def test_each_doctored_record_fails_exactly_its_checks(copied: Path, name: str) -> None:
    change, expected = DOCTORED[name]
    doctored = Doctored(copied)
    _ = doctored.seen  # of the honest record
    change(copied)
    assert doctored.failing() == expected


BROKEN = [b"", b"\0" * 40, b"[1]", b"{", b'{"splits": 1}', b"[" * 10**6, b'{"a": NaN}', "\u00e9".encode("latin-1")]
FOREIGN = [
    "data/manifest.json",
    "seeds/1/train/report.json",
    "seeds/1/calibrate/report.json",
    "seeds/1/quantize/report.json",
    "seeds/1/evaluate/scores-ttt.json",
    "seeds/1/evaluate/ledger-ttt.npz",
    "data/val/val_000000.bin",
    "data/train/train_000000.bin",
    "submission/submission.json",
    "submission/README.md",
    "submission/train_seed1.log",
]


def outcome(doctored: Doctored) -> set[str]:
    """Return the failing checks, or the one line that refuses a folder."""
    try:
        return doctored.failing()
    except ValueError as error:
        return {str(error)} if len(str(error).splitlines()) == 1 and len(str(error)) < 600 else set()


@pytest.mark.parametrize("name", FOREIGN)
def test_damaged_files_end_in_failed_checks_or_one_line(copied: Path, name: str) -> None:
    doctored = Doctored(copied)
    _ = doctored.seen
    for content in (*BROKEN, None):
        (copied / name).unlink()
        if content is not None:
            (copied / name).write_bytes(content)
        assert outcome(doctored), content
        if content is None:
            (copied / name).mkdir()


@pytest.mark.parametrize("name", ["README.md", "train_seed1.log", "model.fwy", "train_gpt.py", "extra.bin"])
def test_absurd_sizes_are_refused_in_one_line(copied: Path, name: str) -> None:
    with open(copied / "submission" / name, "ab") as file:
        file.truncate(1 << 31)
    with pytest.raises(ValueError, match=r"^[^\n]*not a complete record[^\n]*at most \d+ bytes"):
        RecordFolder(copied / "submission")


def test_a_tokenizer_that_is_none_ends_in_one_line(copied: Path) -> None:
    next((copied / "submission/tokenizers").iterdir()).write_bytes(b"x" * 100)
    machine = Machine({}, num_processes=2, tolerance=0.0, timeout_seconds=60, sandboxed=False)
    with pytest.raises(ShippedError, match=r"^[^\n]*cannot be asked: ValueError: [^\n]*$"):
        audit_record(copied / "submission", machine, None, lambda line: None)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--timeout-seconds", "1"], "still running after 1 s"),
        pytest.param(
            ["--device", "cuda"],
            "no usable GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU"),
        ),
    ],
)
def test_the_command_ends_in_one_line(finished, options: list[str], told: str) -> None:
    done = finished.run("fairway", "audit", *options, "--output", "elsewhere", check=False)
    assert done.returncode == 1
    assert told in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_numbers_of_a_wrong_type_end_in_failed_checks_or_one_line(copied: Path) -> None:
    content = json.loads((copied / "submission/submission.json").read_text())
    doctored = Doctored(copied)
    _ = doctored.seen
    for key in ("seeds", "seed_results", "val_bpb", "val_bpb_std", "bytes_total", "compliance", "all_runs"):
        for value in ("x", None, [], {}, [None], True, 10**400, ["../../etc"], 1e308):
            if content[key] == value:
                continue
            (copied / "submission/submission.json").write_text(json.dumps({**content, key: value}))
            assert outcome(doctored), (key, value)


def event(name: str, *arguments: object) -> Event:
    return Event(name, json.dumps(arguments))


FORBIDDEN = [
    event("open", "data/train_000000.bin"),
    event("open", "/proc/self/fd/7/train_000000.bin"),
    event("os.link", "train_000000.bin", "x", 5, -1),
    event("os.rename", "data/train_000000.bin", "x", -1, -1),
    event("os.symlink", "data/train_000000.bin", "x", -1),
    event("socket.connect", "socket", ["192.0.2.1", 80]),
    event("socket.connect", "socket", [3, 0]),
    event("socket.bind", "socket", ["0.0.0.0", 80]),
    event("socket.sendto", "socket", ["192.0.2.1", 53]),
    event("socket.sendmsg", "socket", ["192.0.2.1", 53]),
    event("socket.getaddrinfo", "127.evil.example", 80),
    event("socket.getaddrinfo", "localhost.example", 80),
    event("subprocess.Popen", "curl", ["curl", "x"], None, None),
    event("subprocess.Popen", "/tmp/x", ["/sbin/ldconfig", "-p"], None, None),
    event("subprocess.Popen", "/sbin/ldconfig", ["/sbin/ldconfig"], None, None),
    event("fork_exec", ["python"], ["python", "-c", "x"]),
    event("fork_exec", ["/tmp/x", "/sbin/ldconfig"], ["/sbin/ldconfig", "-p"]),
    event("os.system", "cat x"),
    event("os.fork"),
]


@pytest.mark.parametrize("forbidden", FORBIDDEN)
def test_a_program_that_reads_train_reaches_out_or_starts_another_fails(copied: Path, forbidden: Event) -> None:
    assert Doctored(copied, forbidden).failing() == {"T8"}


def test_what_an_honest_program_does_is_allowed(copied: Path) -> None:
    assert not Doctored(
        copied,
        event("open", "data/val_000000.bin"),
        event("open", 5),
        event("socket.connect", "s", ["127.0.0.1", 80]),
        event("socket.connect", "s", ["::1", 80, 0, 0]),
        event("socket.connect", "s", "/tmp/socket"),
        event("socket.getaddrinfo", "localhost", 80),
        event("socket.getaddrinfo", None, 80),
        event("socket.sendmsg", "s", None),
        event("os.rename", "a", "b", -1, -1),
    ).failing()


def test_a_program_that_stops_telling_fails(copied: Path) -> None:
    assert Doctored(copied, silenced=1).failing() == {"T8"}


def test_a_program_with_another_configuration_or_other_scores_fails(copied: Path) -> None:
    for change in (
        lambda seen: seen.printed.pop(0),
        lambda seen: seen.printed.append(seen.printed[-1]),
        lambda seen: seen.ledgers.update(ttt=seen.ledgers["ttt"]._replace(nats=np.zeros(2))),
        lambda seen: seen.ledgers.update(ttt=seen.ledgers["ttt"]._replace(bytes=np.ones(2))),
    ):
        doctored = Doctored(copied)
        change(doctored.seen)
        assert doctored.failing() == {"T11"}


def test_ten_minutes_hold_on_the_challenge_hardware_only(copied: Path) -> None:
    _result(train_wallclock_ms=700_000)(copied)
    doctored = Doctored(copied)
    assert doctored.findings(evidence=False)["T14"].verdict == "not applicable"
    edit_json(copied / "submission/submission.json", lambda fields: fields.update(hardware="8x NVIDIA H100"))
    assert doctored.findings(evidence=False)["T14"].verdict == "fail"


def test_weights_that_nobody_trained_are_not_in_time(copied: Path) -> None:
    _result(train_wallclock_ms=0)(copied)
    _log(lambda lines: lines.__setitem__(slice(None), [re.sub(r"train_time:\d+", "train_time:0", x) for x in lines]))(
        copied
    )
    assert Doctored(copied).findings(evidence=False)["T14"].verdict == "not applicable"


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields["seed_results"]["1"].update(val_bpb=0.9),
        lambda fields: fields["seed_results"]["1"].update(quantized_val_bpb=1.0, pre_quant_val_bpb=1.1),
    ],
)
def test_what_is_too_good_raises_an_alarm(copied: Path, change: Callable[[dict], None]) -> None:
    edit_json(copied / "submission/submission.json", change)
    assert check_alarms(RecordFolder(copied / "submission")).verdict == "alarm"


def test_a_quantizer_that_gains_by_the_runs_reports_raises_an_alarm(copied: Path) -> None:
    """The record states the headline only, which is not scored like the float weights; `blocks` is."""
    record, evidence = RecordFolder(copied / "submission"), Evidence(copied)
    for blocks, gains in ((1.5, False), (1.4, True)):
        for item, bpb in (("float", 1.45), ("blocks", blocks), ("ttt", 1.3)):
            edit_json(copied / f"seeds/1/evaluate/scores-{item}.json", lambda each, bpb=bpb: each.update(val_bpb=bpb))
        assert ("quantization gains 0.05" in check_alarms(record, evidence).evidence) == gains
    assert "quantization gains" not in check_alarms(record).evidence


def test_a_program_that_is_not_built_from_what_people_read_raises_an_alarm(copied: Path, shipped) -> None:
    folder, told = copied / "submission", " ".join(str(number) for number in range(500))  # enough to be wrapped
    source = f"import sys\n\n\ndef tell(words: str) -> None:\n    sys.stdout.write(words)\n\n\ntell('{told}')\n"
    assert "is not what this Fairway builds" not in check_alarms(RecordFolder(folder)).evidence
    for program, human, differs in (
        (shipped(source), source, False),
        (shipped(source), source.replace("7", "8"), True),
        (shipped(source), "def (", True),
        (source.encode() + b"#\n", source, True),
    ):
        (folder / "train_gpt.py").write_bytes(program)
        (folder / "train_gpt_human.py").write_text(human)
        assert ("is not what this Fairway builds" in check_alarms(RecordFolder(folder)).evidence) == differs


def test_seeds_far_apart_raise_an_alarm(copied: Path) -> None:
    folder = copied / "submission"
    shutil.copyfile(folder / "train_seed1.log", folder / "train_seed2.log")
    shutil.copyfile(folder / "model.fwy", folder / "model_seed1.fwy")
    (folder / "model.fwy").rename(folder / "model_seed2.fwy")
    for difference, is_far in ((0.001, False), (0.01, True)):

        def change(fields: dict, difference: float = difference) -> None:
            other = {**fields["seed_results"]["1"], "val_bpb": fields["seed_results"]["1"]["val_bpb"] + difference}
            fields.update(seeds=[1, 2], seed_results={"1": fields["seed_results"]["1"], "2": other})

        edit_json(folder / "submission.json", change)
        # the tiny model's own quantizer may gain: only the spread is looked at
        assert ("seeds spread" in check_alarms(RecordFolder(folder)).evidence) == is_far


def test_t10_names_both_digests_the_shard_and_the_first_text(copied: Path) -> None:
    def said() -> str:
        return Doctored(copied).findings()["T10"].evidence

    assert said().startswith("digests and fingerprints of the splits agree; 0 of ")
    edit_json(copied / "submission/submission.json", lambda fields: fields.pop("data_fingerprints"))
    _train_on_val(copied, parts=2)
    assert re.search(
        r"^0 of \d+ val documents and \d\d\.\d+% of val's text recur in train; the text begins: \w", said()
    )
    _train_on_val(copied)
    assert re.search(
        r"^\d+ of \d+ val documents \(100\.00%, [\d,]+ bytes\) and 100\.00% of val's text recur in train, "
        r"\d+ of the documents in train_999999\.bin; the text begins: \w.*; "
        r"at most 1 document and 5% of the text may recur$",
        said(),
    )
    _append("data/val/val_000000.bin")(copied)
    assert re.search(
        r"val_000000\.bin: .* one digest \(file \w{16}\.\.\., manifest \w{16}\.\.\., log of seed 1 ", said()
    )


def test_without_the_runs_files_nothing_is_claimed_of_them(copied: Path) -> None:
    findings = Doctored(copied).findings(evidence=False)
    assert {check for check, each in findings.items() if each.verdict == "not applicable"} == {"T1", "T9", "T10"}
    assert "stages: not at hand" in findings["T8"].evidence


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.symlink_to("/etc/hostname"),
        lambda path: path.symlink_to("/etc"),
        lambda path: path.symlink_to("README.md"),
        os.mkfifo,
    ],
    ids=["file outside", "folder outside", "file inside", "pipe"],
)
@pytest.mark.parametrize("name", ["notes.txt", "tokenizers/notes"])
def test_links_and_special_files_in_a_record_are_refused_everywhere(copied: Path, make, name: str) -> None:
    folder, report = copied / "submission", {"folder_digest": folder_digest(copied / "submission"), "checks": []}
    make(folder / name)
    message = f"{name}: got a .*, expected files and folders"
    for read in (RecordFolder, lambda folder: state_audit(folder, report, copied / "stated")):
        with pytest.raises(ValueError, match=message):
            read(folder)
    assert not (copied / "stated").exists()


def test_a_folder_that_changed_after_its_audit_is_not_stated(copied: Path) -> None:
    folder, report = copied / "submission", {"folder_digest": folder_digest(copied / "submission"), "checks": []}
    (folder / "README.md").write_text("another")
    with pytest.raises(ValueError, match="as audited: audit it again"):
        state_audit(folder, report, copied / "stated")


def test_a_published_folder_has_no_weights_and_says_what_verify_can_do(shared: Path) -> None:
    folder = shared / "records/headline-run-total"
    told = f"{folder}: holds no weights .*`fairway verify {folder}` compares what it states with its own files"
    with pytest.raises(ValueError, match=told):
        RecordFolder(folder)


def test_an_incomplete_folder_is_one_line(copied: Path) -> None:
    (copied / "submission/train_seed1.log").unlink()
    with pytest.raises(ValueError, match="not a complete record"):
        RecordFolder(copied / "submission")
