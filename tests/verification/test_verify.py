"""`fairway verify`: every disagreement is named by its check; foreign and damaged folders get as far as they go."""

import hashlib
import json
import time
from decimal import Decimal
from pathlib import Path

import pytest
from scipy import stats

from pipeline.verification.findings import COARSEST_SCORE, agree, is_cut_off
from pipeline.verification.runs import BEYOND, stated_number
from pipeline.verification.verify import verify_folder, verify_table
from stages.cli import main
from tests.verification.conftest import LOSSES, SCRIPT, replace_line, seed_lines, write_submission


def failures(folder: Path) -> dict[str, str]:
    """Return the last contradiction of each check."""
    return {each.check: each.message for each in verify_folder(folder) if each.verdict == "contradiction"}


def test_a_sound_published_folder_passes_as_far_as_it_goes(published):
    findings = verify_folder(published)

    assert {each.verdict for each in findings} == {"agreement"}
    assert {each.check for each in findings} == {
        *("program", "scores", "means", "code size", "total size", "shipped size", "implied bytes", "README")
    }
    assert verify_table(findings).splitlines()[-1] == "compared 18 of 18 statements, 0 contradictions"


def test_a_score_that_is_not_its_logs_fails(published):
    write_submission(
        published, seed_results={"444": {"val_loss": 1.9171557, "val_bpb": 1.13541288}}, val_bpb=1.1354, val_loss=1.9172
    )
    replace_line(published, "README.md", "1.1377", "1.1354")

    line = "stated, train_seed444.log line 6 (final_int6_sliding_window_exact) says"
    told = [each.message for each in verify_folder(published) if each.verdict == "contradiction"]
    assert told == [
        f"seed_results.444.val_loss 1.9171557 {line} 1.91946510",
        f"seed_results.444.val_bpb 1.13541288 {line} 1.13678077",
    ]


TOTAL = "Total submission size int6+brotli: 1500005"
SCORE = "val_loss:1.92242000 val_bpb:1.13853000"
NO_PYTHON = "def f(:\n" + "#" * (len(SCRIPT) - 9) + "\n"
DISAGREEMENTS = [
    (
        "code size",
        "train_gpt.py",
        SCRIPT,
        SCRIPT + "#\n",
        "train_seed300.log states 55 bytes of code; train_gpt.py has 57",
    ),
    ("total size", "train_seed444.log", TOTAL + "5", TOTAL + "4", "total 15,000,054, its model and code 15,000,055"),
    ("total size", "submission.json", "15000055", "15000000", "bytes_total 15,000,000 is supported by nothing"),
    ("means", "submission.json", "1.9209", "1.9206", "val_loss 1.9206 is supported by nothing; nearest: 1.92094255"),
    (
        "means",
        "submission.json",
        "{",
        '{"val_bpb_std": 5e-4, ',
        "val_bpb_std 0.0005 is supported by nothing; nearest: 0.000874",
    ),
    ("implied bytes", "train_seed300.log", SCORE, f"{SCORE}\nfinal_ttt_exact {SCORE[:-8]}03853000", "implies 151,08"),
    ("program", "train_gpt.py", SCRIPT, NO_PYTHON, "train_gpt.py does not compile: SyntaxError"),
]


@pytest.mark.parametrize(("check", "name", "old", "new", "evidence"), DISAGREEMENTS)
def test_each_disagreement_is_named_by_its_check(published, check, name, old, new, evidence):
    replace_line(published, name, old, new)
    told = [each.message for each in verify_folder(published) if (each.check, each.verdict) == (check, "contradiction")]
    assert any(evidence in message for message in told), told
    assert set(failures(published)) <= {check, "scores", *(["implied bytes"] if check == "means" else [])}


def test_a_readme_of_another_score_contradicts_and_one_of_none_warns(published):
    said = "README.md nowhere states val_bpb 1.1377 of submission.json"
    replace_line(published, "README.md", "1.1377", "1.2345")
    assert failures(published) == {"README": f"{said} but 1.2345"}
    replace_line(published, "README.md", "1.2345", "low")
    assert [each.message for each in verify_folder(published) if each.verdict == "warning"] == [said]


def test_a_deviation_at_fewer_digits_agrees(published):
    write_submission(published, val_bpb_std=0.0012)
    assert failures(published) == {}


def test_too_large_a_record_fails(published):
    for seed in LOSSES:
        lines = "\n".join(seed_lines(seed, len(SCRIPT), 16_000_000))
        (published / f"train_seed{seed}.log").write_text(lines)
    write_submission(published, bytes_total=16_000_000 + len(SCRIPT))
    assert failures(published) == {
        "total size": "submission.json bytes_total: 16,000,055 bytes of 16,000,000",
        "shipped size": "train_seed300.log: train_gpt.py 55 + model 16,000,000 = 16,000,055 of 16,000,000 bytes "
        "as shipped",
    }


def test_digests_and_artifact_are_those_on_disk(published):
    artifact = published / "model_seed444.fwy"
    artifact.write_bytes(bytes(100))
    lines = [*seed_lines("444", len(SCRIPT), 100), f"sha256 {hashlib.sha256(bytes(100)).hexdigest()} {artifact.name}"]
    (published / "train_seed444.log").write_text("\n".join(lines))
    assert failures(published) == {}

    artifact.write_bytes(b"1" + bytes(99))
    digests = [hashlib.sha256(content).hexdigest()[:12] for content in (b"1" + bytes(99), bytes(100))]
    wrong = "model_seed444.fwy: train_seed444.log states {1}, model_seed444.fwy {0}".format(*digests)
    assert failures(published) == {"digests": wrong}
    artifact.write_bytes(bytes(99))
    wrong = "seed 444: train_seed444.log line 4 states 100, model_seed444.fwy 99"
    assert failures(published)["artifact size"] == wrong


def test_p_values_are_recomputed(published):
    baseline = {"name": "before", "val_losses": [1.93, 1.931, 1.932]}
    losses = [float(loss) for loss, _ in LOSSES.values()]
    p = stats.ttest_ind(baseline["val_losses"], losses, equal_var=False, alternative="greater").pvalue
    write_submission(published, comparison_baseline=baseline, p_value=p)
    assert failures(published) == {}
    write_submission(published, comparison_baseline=baseline, p_value=0.009)
    assert failures(published) == {"statistics": f"p_value: 0.009 stated, {p:.8g} by its losses"}


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["verify", *arguments])
    return int(str(ended.value.code))


def test_the_command_tells_by_its_exit_code(published, capsys, tmp_path):
    assert run(str(published)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "compared 18 of 18 statements, 0 contradictions"
    write_submission(published, val_bpb=1.2)
    assert run(str(published)) == 1
    assert capsys.readouterr().out.startswith("contradiction  means          val_bpb 1.2 is supported by nothing")
    (tmp_path / "empty").mkdir()
    assert run(str(tmp_path / "empty")) == 3
    assert capsys.readouterr().out.splitlines()[-1] == "compared 0 of 0 statements, 0 contradictions"
    assert run(str(tmp_path / "none")) == 1
    assert "no such folder" in capsys.readouterr().err


def test_a_finding_is_folded_below_its_own_column(published, capsys):
    write_submission(published, val_bpb=1.2)
    run(str(published))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    found = verify_folder(published)
    assert any(len(line) > 80 for line in verify_table(found).splitlines())
    column = verify_table(found).index(found[0].message)
    assert lines[1].startswith(column * " ")
    assert lines[1][column] != " "
    assert " ".join(" ".join(lines).split()) == " ".join(verify_table(found).split())


def test_the_findings_are_json_too(published, capsys):
    write_submission(published, val_bpb=1.2)
    assert run(str(published), "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert set(report) == {"findings", "compared", "stated"}
    worst = report["findings"][0]
    assert (worst["check"], worst["verdict"]) == ("means", "contradiction")
    assert worst["stated"] == {"file": "submission.json", "place": "val_bpb", "value": 1.2}
    assert worst["found"] == {"file": "train_seed300.log", "line": 6, "value": 1.13853}
    assert {each["verdict"] for each in report["findings"]} == {"contradiction", "agreement"}
    assert report["compared"] == report["stated"] == 19


def test_without_a_program_the_rest_is_compared(published):
    (published / "train_gpt.py").unlink()
    findings = verify_folder(published)
    assert {each.verdict for each in findings} == {"agreement", "not stated"}
    assert {each.check for each in findings if each.verdict == "agreement"} >= {"scores", "means", "total size"}


HUGE = "9" * 400


@pytest.mark.parametrize("number", [HUGE, "1" * 5000, "1e400", "-1e999999999999999999999", "0e400"])
def test_a_number_beyond_anything_counted_disagrees(published, number):
    text = (published / "submission.json").read_text()
    (published / "submission.json").write_text(text.replace('"val_loss": 1.9209', f'"val_loss": {number}'))
    assert "val_loss" in failures(published)["means"]


@pytest.mark.parametrize(
    ("line", "check"),
    [
        (f"Code size: {HUGE}", "code size"),
        ("Code size: " + "1" * 5000, "code size"),
        (f"val_loader: tokens:{HUGE}", None),
        (f"final_x_exact val_loss:{HUGE}.0 val_bpb:1.0", "implied bytes"),
        (f"final_x_exact val_loss:1.0 val_bpb:{HUGE}.0", "implied bytes"),
    ],
)
def test_so_does_one_in_a_log(published, line, check):
    with open(published / "train_seed444.log", "a") as log:
        log.write(line + "\n")
    assert check is None or check in failures(published)


@pytest.mark.parametrize(("loss", "bpb"), [("0.0", "1.1"), ("1.9", "0.00"), ("0." + "0" * 400 + "1", "1.1")])
def test_a_score_of_zero_implies_nothing(published, loss, bpb):
    with open(published / "train_seed444.log", "a") as log:
        log.write(f"final_int6_sliding_window_exact val_loss:{loss} val_bpb:{bpb}\n")
    assert "expected scores above 0" in failures(published)["implied bytes"]


def test_names_that_no_file_system_takes_are_no_files(published):
    write_submission(published, seed_results={}, seeds=["a" * 3000])
    with open(published / "train_seed444.log", "a") as log:
        log.write(f"sha256 {'0' * 64} {'b' * 3000}\n")
    assert all(len(line) < 3000 for line in verify_table(verify_folder(published)).splitlines())


def test_long_lines_take_linear_time(published):
    with open(published / "train_seed444.log", "a") as log:
        log.write("final_x " + "val_loss:1.1 " * 200_000 + "\n" + "final_" * 200_000 + "\n" + "tokens:" * 200_000)
    started = time.monotonic()
    verify_folder(published)
    assert time.monotonic() - started < 5


def test_inputs_that_ended_in_tracebacks(shared, published):
    paths = sorted((shared / "hostile" / "parsers").glob("verify-*.txt"))
    assert paths
    for path in paths:
        statement, _, log = path.read_text().partition("\n#LOG\n")
        (published / "submission.json").write_text(statement)
        (published / "train_seed444.log").write_text(log)
        assert verify_folder(published), path


def test_nothing_is_run_unasked(published, capsys, tmp_path):
    (published / "train_gpt.py").write_text(f"# ArgumentParser\nopen({str(tmp_path / 'out')!r}, 'w')\n")
    run(str(published))
    assert not (tmp_path / "out").exists()
    assert run("--unsafe", str(published)) == 2
    assert "--run" in capsys.readouterr().err


def test_a_program_is_run_on_request(published, capsys):
    assert run(str(published), "--run", "--unsafe") == 0
    told = capsys.readouterr()
    assert "agreement      program        starts alone" in told.out
    assert "runs without a sandbox, with your rights (--unsafe)" in told.err
    replace_line(published, "train_gpt.py", "parse_args()", "exit('no   ')")
    assert run(str(published), "--run", "--unsafe") == 1
    assert "train_gpt.py --help: exit status 1: no" in capsys.readouterr().out


def test_without_a_sandbox_a_stranger_is_not_run(published, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert run(str(published), "--run") == 1
    assert "sandbox: got 'no bwrap', expected bubblewrap that starts: `apt-get install bubblewrap`" in (
        capsys.readouterr().err
    )


def said(folder: Path, **changes: object) -> list[str]:
    write_submission(folder, **changes)
    return [each.message for each in verify_folder(folder) if each.verdict == "contradiction"]


RESULTS = {seed: {"val_loss": float(loss), "val_bpb": float(bpb)} for seed, (loss, bpb) in LOSSES.items()}


@pytest.mark.parametrize(
    "changes",
    [
        {"seed_results": {**RESULTS, "7": {"val_bpb": 0.5, "val_loss": 0.8}}, "val_bpb": 0.9251, "val_loss": 1.5473},
        {"seed_results": {"444": RESULTS["444"], "301": {"val_bpb": 0.9}}, "val_bpb": 1.0184, "val_loss": 1.91946510},
        {"seed_results": {}, "seeds": [1, 2]},
        {"seed_results": {}, "seed": 7},
        {"per_seed": {"444": {"val_bpb": 0.9}}},
        {"results": {"val_bpb": 0.9}},
        {"best_val_bpb": 0.9},
        {"val_bpb": 1},
        {"val_bpb": 1.1},
    ],
)
def test_what_no_log_supports_contradicts(published, changes):
    assert said(published, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"pre_quant_val_bpb": 1.1528},
        {"seed_results": {}},
        {"max_wallclock_seconds": 600, "train_time_minutes": 10, "z_loss": 0.1, "raw_model_bytes": 9},
        {"val_bpb": {"mean": 1.1377, "std": 0.0012}},
        {"quantization_penalty_bpb": 0.01, "val_bpb_ci95": 0.002, "target_bpb": 1.1, "ablation_bpb": 1.3},
        {"all_runs": [{"seed": 9, "val_bpb": 1.2}]},
        {"post_ema_bpb": 1.1528, "train_bpb": 1.1528},
        {"seed_300": RESULTS["300"], "seed_444": RESULTS["444"]},
    ],
)
def test_what_people_state_beside_it_does_not(published, changes):
    assert said(published, **changes) == []


def test_more_numbers_than_any_record_states_are_one_finding(published):
    started = time.monotonic()
    told = said(published, **{f"x{number}_bpb": 1.0 for number in range(30_000)})
    assert "submission.json: states more than 400 numbers of the record: the rest is not compared" in told
    assert time.monotonic() - started < 5


def test_losses_that_no_test_can_take_are_a_finding(published):
    tiny = {seed: {"val_loss": float(f"{seed}e-110")} for seed in LOSSES}
    baseline = {"val_losses": [1e-110, 2e-110]}
    told = said(published, seed_results=tiny, comparison_baseline=baseline, p_value=0.1)
    assert any(message.startswith("comparison_baseline: no test of its losses (") for message in told)


def test_a_mean_of_entries_without_logs_supports_no_headline(published):
    results = {**RESULTS, "7": {"val_loss": 0.8, "val_bpb": 0.5}}
    told = said(published, seed_results=results, val_bpb=0.9251, val_loss=1.5473)
    assert "val_bpb 0.9251: mean of the seeds' val_bpb, as stated; no log of seed 7" in told


def test_a_score_before_quantization_is_named_as_such(published):
    replace_line(published, "train_seed444.log", "Code size", "post_ema val_loss:1.9 val_bpb:1.12527\nCode size")
    told = said(published, seed_results={**RESULTS, "444": {"val_bpb": 1.12527}})
    assert (
        told[0] == "seed_results.444.val_bpb 1.12527 is no score of the artifact: train_seed444.log line 3 (post_ema)"
    )


def test_the_longest_scoring_counts(published):
    with open(published / "train_seed444.log", "a") as log:
        log.write("total_eval_time:1890.0s\ndiagnostic eval_time:500ms\n")
    assert failures(published) == {"time limit": "train_seed444.log line 7: scoring took 1,890.0 s of 600"}


@pytest.mark.parametrize("content", [b"\0" + b"\n" * 50_000, b"x" * 9_000_000])
def test_a_file_without_an_ending_may_be_anything(published, content):
    (published / "model").write_bytes(content)
    assert failures(published) == {}


def test_numbers_agree_at_the_digits_of_the_shorter_one_but_scores_need_three():
    assert agree(Decimal("1.1377"), Decimal("1.13765539"))
    assert not agree(Decimal("1.1376"), Decimal("1.13765539"))
    assert not agree(Decimal("1.13765539"), Decimal("1.13765541"))
    assert agree(Decimal("1"), Decimal("1.08"))
    assert not agree(Decimal("1"), Decimal("1.08"), COARSEST_SCORE)
    assert is_cut_off(Decimal("1.1353"), Decimal("1.13536063"))
    assert not is_cut_off(Decimal("1.1"), Decimal("1.13536063"), COARSEST_SCORE)
    assert [str(stated_number(text)) for text in ("2e7", "0e8", "1,234", "1e30", "x" * 3000)] == [
        *("20000000", "0", "1234", str(BEYOND), str(BEYOND))
    ]


def test_seconds_of_seeds_have_their_mean_in_seconds(published):
    results = {seed: {**RESULTS[seed], "eval_time_s": 455.1} for seed in LOSSES}
    write_submission(published, seed_results=results, eval_time_s_mean=455.1)
    (found,) = (each for each in verify_folder(published) if each.stated and each.stated.where == "eval_time_s_mean")
    assert (found.verdict, found.message) == ("agreement", "eval_time_s_mean 455.1: mean of the seeds' eval_time_s")


def test_the_log_that_states_the_score_is_named(published):
    (published / "submission.json").write_text("{}")
    (published / "a_seed1.log").write_text("Code size: 55 bytes\n")
    assert failures(published)["means"] == "submission.json states no score, train_seed300.log line 6 1.13853000"
