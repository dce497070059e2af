"""Fetching from the hub: broken connections resume, wrong files do not stay, finished ones are not fetched again."""

import hashlib
import json
import random
import re
from pathlib import Path

import pytest

from pipeline.corpus.hub import DownloadError, HubDataset
from tests.corpus.hub_stand_in import REPOSITORY, HubStandIn

SMALL = random.Random(1).randbytes(5000)
FILES = {"root/manifest.json": b'{"a": 1}\n', "root/one.bin": SMALL, "root/two.bin": SMALL[::-1]}
OLD = "01d" + 37 * "0"
"""A commit before main's."""


@pytest.fixture
def hub():
    """Return a running stand-in that serves `FILES`."""
    with HubStandIn(FILES).serving() as running:
        yield running


def dataset(hub: HubStandIn, folder: Path, revision: str = "main") -> HubDataset:
    return HubDataset(REPOSITORY, revision, hub.endpoint, folder)


def read(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", FILES)
def test_a_file_copied_into_place_is_taken_as_it_is(tmp_path, hub, name):
    path = tmp_path / REPOSITORY / name
    path.parent.mkdir(parents=True)
    path.write_bytes(FILES[name])
    assert dataset(hub, tmp_path).fetch(name).path == path
    assert hub.downloads() == []


@pytest.mark.parametrize("name", FILES)
def test_fetches_large_and_small_files_once(tmp_path, hub, name):
    path, sha256 = dataset(hub, tmp_path).fetch(name)
    assert path.read_bytes() == FILES[name]
    assert sha256 == hashlib.sha256(FILES[name]).hexdigest()
    assert path.is_relative_to(tmp_path)
    assert hub.downloads() == [name]
    assert dataset(hub, tmp_path).fetch(name) == (path, sha256)
    assert hub.downloads() == [name]


def test_what_the_publisher_changes_later_is_named_with_both_digests_and_not_taken(tmp_path, hub):
    """Whoever fetched it first keeps it; both ways out that the message names are open."""
    path, first = dataset(hub, tmp_path).fetch("root/one.bin")
    dataset(hub, tmp_path).fetch("root/two.bin")
    hub.exports[OLD] = dict(hub.files)
    hub.files["root/one.bin"] = b"changed"
    now = hashlib.sha256(b"changed").hexdigest()
    with pytest.raises(DownloadError, match=f"^root/one.bin: got digest {now} from .*, expected {first}, to which"):
        dataset(hub, tmp_path).fetch("root/one.bin")
    assert path.read_bytes() == SMALL
    assert dataset(hub, tmp_path, OLD).fetch("root/one.bin") == (path, first)
    pins = tmp_path / REPOSITORY / "digests.json"
    pins.write_text(json.dumps({revision: each for revision, each in read(pins).items() if revision != "main"}))
    assert dataset(hub, tmp_path).fetch("root/one.bin") == (path, now)
    assert read(pins) == {"main": {"root/one.bin": now}, OLD: {"root/one.bin": first}}


def test_every_revision_has_pins_of_its_own(tmp_path, hub):
    """Going to another revision and back again fetches what each has, and meets no pin of the other."""
    hub.exports[OLD] = {**hub.files, "root/one.bin": b"older"}
    for revision, content in (("main", SMALL), (OLD, b"older"), ("main", SMALL), (OLD, b"older")):
        assert dataset(hub, tmp_path, revision).fetch("root/one.bin").path.read_bytes() == content
    hub.exports[OLD]["root/one.bin"] = SMALL
    with pytest.raises(DownloadError, match=f"revision {OLD}, expected .* remove the entry '{OLD}' there"):
        dataset(hub, tmp_path, OLD).fetch("root/one.bin")


def test_a_table_of_digests_from_elsewhere_is_held_to_before_anything_is_fetched(tmp_path, hub):
    pins = tmp_path / REPOSITORY / "digests.json"
    pins.parent.mkdir(parents=True)
    pins.write_text(json.dumps({"main": {"root/two.bin": "0" * 64}}))
    dataset(hub, tmp_path).fetch("root/one.bin")
    with pytest.raises(DownloadError, match=f"expected {'0' * 64}, to which"):
        dataset(hub, tmp_path).fetch("root/two.bin")
    assert hub.downloads() == ["root/one.bin"]
    flat = json.dumps({"root/one.bin": "0" * 64})
    for damaged in ("[", "[]", "null", flat, '{"main": {"root/one.bin": 1}}', '{"main": {"root/one.bin": "12"}}'):
        pins.write_text(damaged)
        with pytest.raises(DownloadError, match=r"digests\.json: not a JSON object of revisions, .*; mend it"):
            dataset(hub, tmp_path)


def test_a_broken_connection_resumes_where_it_broke(tmp_path, hub):
    # The client hands on 10 MB at a time; what came after the last full piece is asked for again.
    big = random.Random(2).randbytes(12_000_000)
    hub.files["root/one.bin"] = big
    hub.cut_after["root/one.bin"] = 11_000_000
    path, _ = dataset(hub, tmp_path).fetch("root/one.bin")
    assert path.read_bytes() == big
    starts = [first for method, _, first in hub.requests if method == "GET"]
    assert starts[0] == 0
    assert len(starts) == 2
    assert 0 < starts[1] <= 11_000_000


@pytest.mark.parametrize("sent", [SMALL[:-1] + b"!", SMALL[:-100], SMALL + b"more", b""])
@pytest.mark.parametrize("name", ["root/one.bin", "root/manifest.json"])
def test_a_wrong_file_is_named_and_does_not_stay(tmp_path, hub, name, sent):
    hub.false_content[name] = sent
    with pytest.raises(DownloadError) as caught:
        dataset(hub, tmp_path).fetch(name)
    message = str(caught.value)
    assert "\n" not in message
    assert name in message
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".bin", ".json", ".incomplete")]
    hub.false_content.clear()
    assert dataset(hub, tmp_path).fetch(name).path.read_bytes() == FILES[name]


def test_a_wrong_file_of_the_right_length_states_both_digests(tmp_path, hub):
    false = SMALL[:-1] + b"!"
    hub.false_content["root/one.bin"] = false
    digests = [hashlib.sha256(content).hexdigest() for content in (SMALL, false)]
    with pytest.raises(DownloadError, match=f"one.bin: expected digest {digests[0]}, got {digests[1]} from http"):
        dataset(hub, tmp_path).fetch("root/one.bin")


def test_a_file_damaged_on_disk_is_fetched_anew(tmp_path, hub):
    path = dataset(hub, tmp_path).fetch("root/one.bin").path
    path.write_bytes(SMALL[:-1] + b"!")
    dataset(hub, tmp_path).fetch("root/one.bin")
    assert path.read_bytes() == SMALL
    assert hub.downloads() == ["root/one.bin", "root/one.bin"]


def test_a_branch_that_moves_does_not_mix_two_exports(tmp_path, hub):
    moving = dataset(hub, tmp_path)
    moving.fetch("root/manifest.json")
    assert moving.revision == hub.commit
    hub.refused.add("main")  # would answer with another commit
    assert moving.fetch("root/one.bin").path.read_bytes() == SMALL
    with pytest.raises(DownloadError, match="revision main"):
        dataset(hub, tmp_path).fetch("root/two.bin")


def test_what_is_not_there_and_what_cannot_be_checked(tmp_path, hub):
    with pytest.raises(DownloadError, match=r"^root/three.bin: cannot be fetched .*Entry Not Found.*run again: fin"):
        dataset(hub, tmp_path).fetch("root/three.bin")
    with pytest.raises(DownloadError, match="cannot be fetched from dataset no/body"):
        HubDataset("no/body", "main", hub.endpoint, tmp_path).fetch("root/one.bin")
    hub.states_digests = False
    with pytest.raises(DownloadError, match=r"states no digest and commit for it \(ETag 'of-the-redirect'"):
        dataset(hub, tmp_path).fetch("root/one.bin")
    for name in ("../outside.bin", "root/../../outside.bin", "/outside.bin"):
        with pytest.raises(DownloadError, match=re.escape(name)):
            dataset(hub, tmp_path).fetch(name)
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".bin"]


@pytest.mark.slow
def test_a_hub_that_does_not_answer_is_one_line(tmp_path):
    # Slow: the client tries again for half a minute first.
    with HubStandIn(FILES).serving() as hub:
        closed = hub.endpoint
    with pytest.raises(DownloadError, match=r"^root/one.bin: cannot be fetched .*check section data.fineweb"):
        HubDataset(REPOSITORY, "main", closed, tmp_path).fetch("root/one.bin")
