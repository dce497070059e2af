"""The audit of a real record: clean as it ships, and every doctored number, file and digest found by its check."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts import ROOT
from pipeline.audit import record_checks
from pipeline.audit.audit import TITLES, audit_table
from pipeline.audit.evaluator import Rows
from pipeline.audit.record_files import Evidence, RecordFolder, document_digests
from pipeline.data.shards import write_shard
from pipeline.files import files_below, folder_digest
from pipeline.submission.schema import check_submission

ITEMS = ["blocks", "sliding", "ttt"]


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
    check_submission(after)
    changed = {"README.md", "submission.json", "audit.json"}
    rest = [{path.relative_to(folder): path.read_bytes() for path in files_below(folder) if path.name not in changed}
            for folder in (package, record)]  # fmt: skip
    assert rest[0] == rest[1]
    assert len(rest[0]) == len(list(files_below(record))) - 3


@pytest.fixture
def copied(finished, tmp_path: Path) -> Path:
    """Return a copy of the run's files, free to be doctored."""
    for name in ("submission", "data", "seeds"):
        shutil.copytree(finished.root / ROOT / name, tmp_path / name)
    return tmp_path


class Doctored:
    """A record and its evidence, and the checks by name."""

    def __init__(self, root: Path) -> None:
        self.record, self.evidence = RecordFolder(root / "submission"), Evidence(root)
        self.bos_id = self.evidence.report("manifest")["bos_id"]
        score = self.record.scores(1)[0]
        self.first = {"blocks": Rows(np.arange(1), np.array([score.val_loss]), np.ones(1), np.zeros(1))}
        config = self.record.digests(1)["config"]
        name = f"{score.name} val_loss:{score.val_loss:.8f} val_bpb:{score.val_bpb:.8f}"
        self.printed = [f"sha256 {config} config", name]

    def verdicts(self, events: frozenset[str] = frozenset()) -> dict[str, str]:
        record, evidence = self.record, self.evidence
        return {
            "T1": record_checks.check_real_ledgers(record, evidence, ITEMS).verdict,
            "T4": record_checks.check_implied_bytes(record).verdict,
            "T8": record_checks.check_walls(record, evidence, set(events)).verdict,
            "T9": record_checks.check_noise(record, evidence).verdict,
            "T10": record_checks.check_split(record, evidence, self.bos_id).verdict,
            "T11": record_checks.check_provenance(record, evidence, ITEMS, self.printed, self.first, 0.0).verdict,
            "T13": record_checks.check_sizes_on_disk(record).verdict,
            "T14": record_checks.check_timers(record).verdict,
        }

    def failing(self, events: frozenset[str] = frozenset()) -> set[str]:
        return {check for check, verdict in self.verdicts(events).items() if verdict == "fail"}


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


def _train_on_val(root: Path) -> None:
    tokens = np.concatenate([np.fromfile(path, "<u2")[512:] for path in sorted((root / "data/val").glob("*.bin"))])
    write_shard(root / "data/train/train_999999.bin", tokens)


def _rescored(root: Path) -> None:
    path = root / "seeds/1/evaluate/ledger-sliding.npz"
    with np.load(path) as file:
        columns = dict(file)
    columns["target"][-1] = columns["target"][0]
    np.savez(path, **columns)


def _seal(stage: str) -> Callable[[Path], None]:
    path = f"seeds/1/{stage}/report.json"
    return lambda root: edit_json(root / path, lambda report: report["provenance"]["firewall"].update(sealed=[]))


DOCTORED = {
    "nothing": (lambda root: None, set()),
    "a target twice in the real ledger": (_rescored, {"T1"}),
    "another denominator": (_submission(lambda fields: fields["seed_results"]["1"].update(eval_bytes=9)), {"T4"}),
    "calibrate with val open": (_seal("calibrate"), {"T8", "T9"}),
    "train with val open": (_seal("train"), {"T8"}),
    "another artifact": (_append("submission/model.fwy"), {"T9", "T11", "T13"}),
    "val text among the train shards": (_train_on_val, {"T10"}),
    "another val shard": (_append("data/val/val_000000.bin"), {"T10"}),
    "another tokenizer": (_append("submission/tokenizers/tokenizer.model"), {"T10", "T11"}),
    "a typed bpb": (_submission(lambda fields: fields["seed_results"]["1"].update(val_bpb=1.0)), {"T11"}),
    "a typed mean": (_submission(lambda fields: fields.update(val_bpb=1.0)), {"T11"}),
    "a README of another run": (_text("README.md", "**val_bpb ", "**val_bpb 1"), {"T11"}),
    "an edited program": (_append("submission/train_gpt.py"), {"T11", "T13"}),
    "a typed size": (_submission(lambda fields: fields.update(bytes_total=9)), {"T13"}),
    "a lower limit": (_submission(lambda fields: fields["compliance"].update(limit_bytes=9)), {"T13"}),
    "a typed time": (_submission(lambda fields: fields["seed_results"]["1"].update(eval_time_s=9e3)), {"T14"}),
}


@pytest.mark.parametrize("name", DOCTORED)
def test_each_doctored_record_fails_exactly_its_checks(copied: Path, name: str) -> None:
    change, expected = DOCTORED[name]
    change(copied)
    assert Doctored(copied).failing() == expected


@pytest.mark.parametrize("event", ["open data/train_000000.bin", "socket.connect ('192.0.2.1', 80)"])
def test_a_program_that_reads_train_or_reaches_out_fails(copied: Path, event: str) -> None:
    assert Doctored(copied).failing(frozenset({event})) == {"T8"}
    assert (
        Doctored(copied).failing(frozenset({"socket.connect ('127.0.0.1', 80)", "open data/val_000000.bin"})) == set()
    )


def test_a_program_with_another_configuration_or_other_scores_fails(copied: Path) -> None:
    for change in (lambda each: each.printed.pop(0), lambda each: each.printed.append(each.printed[-1]),
                   lambda each: each.first.update(blocks=each.first["blocks"]._replace(nats=np.zeros(1)))):  # fmt: skip
        doctored = Doctored(copied)
        change(doctored)
        assert doctored.failing() == {"T11"}


def test_ten_minutes_hold_on_the_challenge_hardware_only(copied: Path) -> None:
    def slow(fields: dict) -> None:
        fields["seed_results"]["1"]["train_wallclock_ms"] = 700_000

    edit_json(copied / "submission/submission.json", slow)
    assert Doctored(copied).verdicts()["T14"] == "not applicable"
    edit_json(copied / "submission/submission.json", lambda fields: fields.update(hardware="8x NVIDIA H100"))
    assert Doctored(copied).verdicts()["T14"] == "fail"


@pytest.mark.parametrize("change", [
    lambda fields: fields["seed_results"]["1"].update(val_bpb=0.9),
    lambda fields: fields["seed_results"]["1"].update(quantized_val_bpb=1.0, pre_quant_val_bpb=1.1),
    lambda fields: fields.update(val_bpb_std=0.006),
])  # fmt: skip
def test_what_is_too_good_raises_an_alarm(copied: Path, change: Callable[[dict], None]) -> None:
    edit_json(copied / "submission/submission.json", change)
    assert record_checks.check_alarms(RecordFolder(copied / "submission")).verdict == "alarm"


def test_without_the_runs_files_nothing_is_claimed_of_them(copied: Path) -> None:
    record = RecordFolder(copied / "submission")
    for finding in (
        record_checks.check_real_ledgers(record, None, ITEMS),
        record_checks.check_noise(record, None),
        record_checks.check_split(record, None, 1),
    ):
        assert finding.verdict == "not applicable"
    assert "stages: not at hand" in record_checks.check_walls(record, None, set()).evidence


def test_an_incomplete_folder_is_one_line(copied: Path) -> None:
    (copied / "submission/train_seed1.log").unlink()
    with pytest.raises(ValueError, match="not a complete record"):
        RecordFolder(copied / "submission")


def test_documents_are_the_same_however_the_shards_cut_them(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    tokens = random.integers(2, 60, 5000)
    tokens[[0, *np.sort(random.integers(1, 5000, 40))]] = 1
    found = []
    for name, cuts in (("whole", []), ("cut", [700, 701, 2500])):
        paths = []
        for number, part in enumerate(np.split(tokens, cuts)):
            paths.append(tmp_path / f"{name}_{number}.bin")
            write_shard(paths[-1], part)
        found.append(np.concatenate(list(document_digests(paths, 1, 4))))
    np.testing.assert_array_equal(*found)
    assert len(found[0]) == len(np.unique(found[0]))
    assert 30 < len(found[0]) <= 41
