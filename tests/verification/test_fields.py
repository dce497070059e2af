"""submission.json is read in every form; what is wrong with it is a finding and not the end."""

import json
from decimal import Decimal

import pytest

from pipeline.verification.fields import read_submission
from pipeline.verification.keys import meaning_of

ENTRY = {"val_bpb": 1.25, "steps": 9}
FORMS = {
    "seed_results": {"seeds": [7, 8], "seed_results": {"7": ENTRY, "8": ENTRY}},
    "seed_results as a list": {"seed_results": [{"seed": 7, **ENTRY}, {"seed": 8, **ENTRY}]},
    "seeds as an object": {"seeds": {"7": ENTRY, "8": ENTRY}},
    "seeds as a list of objects": {"seeds": [{"seed": 7, **ENTRY}, {"seed": 8, **ENTRY}]},
    "at the top": {"seed_7": ENTRY, "seed8": ENTRY},
    "named": {"seed_results": {"seed_7": ENTRY, "seed_8": ENTRY}},
}


@pytest.mark.parametrize("form", FORMS)
def test_seeds_are_found_in_every_form(form):
    submission = read_submission(json.dumps(FORMS[form]).encode())
    assert list(submission.seeds) == ["7", "8"]
    assert {(each.seed, each.quantity, float(each.value)) for each in submission.stated} == {
        (seed, quantity, value) for seed in "78" for quantity, value in (("bpb", 1.25), ("steps", 9.0))
    }
    assert submission.findings == []


def test_seeds_that_are_only_listed_have_empty_entries():
    assert read_submission(b'{"seeds": [1337, 42]}').seeds == {"1337": {}, "42": {}}


def test_a_bare_number_of_a_seed_is_its_bpb():
    (stated,) = read_submission(b'{"seed_results": {"42": 1.0599}}').stated
    assert (stated.seed, stated.quantity, stated.value) == ("42", "bpb", Decimal("1.0599"))


@pytest.mark.parametrize(
    ("key", "meaning"),
    [
        ("val_bpb", ("bpb", "")),
        ("val_bpb_exact", ("bpb", "")),
        ("int6_sw_bpb", ("bpb", "")),
        ("mean_bpb", ("bpb", "mean")),
        ("valBpbMean", ("bpb", "mean")),
        ("sliding_bpb_mean", ("bpb", "mean")),
        ("val_loss_std", ("loss", "std")),
        ("bytes_total", ("total bytes", "")),
        ("bytes_code", ("code bytes", "")),
        ("artifact_bytes_max", ("artifact bytes", "max")),
        ("model_bytes", ("artifact bytes", "")),
        ("eval_bytes", ("text bytes", "")),
        ("steps", ("steps", "")),
        ("train_steps_mean", ("steps", "mean")),
        ("train_wallclock_ms", ("train ms", "")),
        ("train_time_seconds", ("train ms", "")),
        ("ttt_time_ms", ("eval ms", "")),
        ("eval_time_s", ("eval ms", "")),
        ("step_avg_ms", ("step ms", "")),
        ("step_avg_ms_mean", ("step ms", "mean")),
        ("model_params", ("params", "")),
        ("target_tokens", ("targets", "")),
        *(
            (key, None)
            for key in ("delta_vs_leaderboard_bpb", "comparison_baseline_bpb", "val_bpb_method", "eval_stride")
        ),
        *((key, None) for key in ("train_loss", "num_layers", "warmup_steps", "limit_bytes", "calibration_ms", "name")),
        ("train_time_minutes", None),
    ],
)
def test_a_keys_words_say_what_its_number_is(key, meaning):
    found = meaning_of(key)
    assert (found and found[:2]) == meaning


@pytest.mark.parametrize(
    ("text", "verdict", "said"),
    [
        ("", "contradiction", "not valid JSON"),
        ("[1]", "contradiction", "not valid JSON (got list, expected an object)"),
        ("[" * 100_000, "contradiction", "not valid JSON"),
        ('{"val_bpb": 1.1', "contradiction", "not valid JSON"),
        ('{"val_bpb": "1.10"}', "warning", "val_bpb is the text '1.10', expected a number"),
        ('{"val_bpb": "PENDING"}', "contradiction", "val_bpb is PENDING, expected a number"),
        ('{"val_bpb": NaN}', "contradiction", "val_bpb is NaN, expected a number"),
        ('{"steps": Infinity}', "contradiction", "steps is Infinity, expected a number"),
        ('{"val_bpb": true}', "contradiction", "val_bpb is True, expected a number"),
        ('{"steps": "many"}', "not stated", "steps is many, expected a number"),
        ('{"val_bpb": 1.1, "val_bpb": 1.2}', "contradiction", "val_bpb is there twice, as 1.1 and 1.2"),
        ('{"val_bpb": 1.1, "val_bpb": 1.1}', "warning", "val_bpb is there twice, as 1.1 and 1.1"),
        ('\ufeff{"val_bpb": 1.1}', "warning", "begins with a byte order mark, expected none"),
        ('{"val_bpb": "\x1b[2J"}', "contradiction", "not valid JSON"),
        ('{"val_bpb": "\\u001b[2J"}', "contradiction", r"val_bpb is \x1b[2J, expected a number"),
    ],
)
def test_what_is_wrong_is_a_finding(text, verdict, said):
    found = read_submission(text.encode()).findings
    assert [each.verdict for each in found] == [verdict]
    assert f"submission.json: {said}" in found[0].message
    assert found[0].message.isprintable()


def test_a_number_in_a_text_and_behind_a_mark_is_read_all_the_same():
    (stated,) = read_submission('\ufeff{"val_bpb": "1.10"}'.encode()).stated
    assert (stated.value, str(stated.value)) == (Decimal("1.10"), "1.10")
    assert (
        read_submission(b"\xff\xfe{}").findings[0].message.startswith("submission.json: not valid JSON ('utf-8' codec")
    )
