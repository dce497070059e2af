"""The page after no stage at all, with names that try to be markup, and the texts of its sections."""

import dataclasses
import re
from html.parser import HTMLParser

import numpy as np

from pipeline.base.artifacts import path_of, write_json
from pipeline.base.config import SECTIONS, load_params
from pipeline.optim.config import SparseEmaConfig
from pipeline.reports.page import page
from pipeline.reports.run_facts import run_facts
from pipeline.reports.text_losses import PositionLoss, WorstDocument
from tests.conftest import REPO

SECTION_KEYS = ["results", "training", "bytes", "map", "error", "position", "documents", "time", "audit"]
VOID = {"meta", "link"}


class Reader(HTMLParser):
    """Whether elements close in order, which sections there are, and the elements and attributes that occur."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sections: list[str] = []
        self.seen: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open += [] if tag in VOID else [tag]
        self.seen |= {tag, *(name for name, _ in attrs)}
        self.sections += [dict(attrs)["id"]] if tag == "section" else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def facts(monkeypatch, folder, name="run"):
    """Return the facts of the demo's parameters in an empty folder."""
    monkeypatch.chdir(folder)
    return run_facts(load_params(str(REPO / "params.yaml"), SECTIONS), name, False)


def test_before_any_stage_every_section_says_what_brings_it(monkeypatch, tmp_path):
    text = page([facts(monkeypatch, tmp_path)])
    reader = Reader(text)
    assert reader.open == []
    assert reader.sections == SECTION_KEYS
    brought = re.findall(r"Not there yet: stage (\w+) brings it", text)
    assert brought == ["train", "quantize", "quantize", "quantize", "evaluate", "evaluate", "train", "audit"]
    assert "no score; audit not done yet" in text


def test_no_text_becomes_markup(monkeypatch, tmp_path):
    evil = '<script>"&'
    run = facts(monkeypatch, tmp_path, evil)
    check = {"id": evil, "verdict": "fail", "title": evil, "evidence": evil}
    seed = dataclasses.replace(
        run.seeds[0],
        label=evil,
        curve=[{"step": n, "loss": 2.0, "lr_scale": 1.0, "seconds": n} for n in (1, 2)],
        by_document_position={evil: [PositionLoss(1, 1, 3, 2.0)]},
        document_bpb=np.array([1.0, 2.0]),
        document_item=evil,
    )
    run = dataclasses.replace(
        run,
        seeds=[seed],
        worst=[WorstDocument(0, 10, 2.0, evil)],
        audit={"verdict": "fail", "checks": [check, {**check, "verdict": "pass"}]},
    )
    text = page([run, run])
    reader = Reader(text)
    assert reader.open == []
    assert not reader.seen & {"script", "onload", "style-src", "img", "iframe"}
    assert text.count("1 of 2 checks failed") == 2
    assert "Verdict: fail" in text


def test_after_training_alone_no_mark_is_told_of(monkeypatch, tmp_path):
    run = facts(monkeypatch, tmp_path)
    curve = [{"step": n, "loss": 2.0, "lr_scale": 1.0, "seconds": n} for n in (1, 2)]
    run = dataclasses.replace(run, seeds=[dataclasses.replace(run.seeds[0], curve=curve)])
    assert "Loss of single training batches, as they were logged. Below:" in page([run])


def test_what_every_nth_step_does_begins_once(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    params = load_params(str(REPO / "params.yaml"), SECTIONS)
    average = SparseEmaConfig(kind="ema", decay=0.9, from_frac=0.25, every_steps=7)
    params.train = dataclasses.replace(
        params.train, max_steps=500, average=average, quantization=None, loop_stages=None, all_loops_every_steps=2
    )
    (seed,) = params.seeds
    write_json(path_of("train_report", seed=seed), {"imported": None})
    rows = [f"{step},2.0,1.0,0.0,{step}" for step in (1, 100, 140, 200, 210, 301)]
    path_of("curve", seed=seed).write_text("\n".join(["step,loss,lr_scale,seconds,tokens", *rows, ""]))
    assert run_facts(params, "run", False).changes == [(140, "average")]
