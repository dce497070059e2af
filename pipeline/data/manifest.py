"""The manifest of prepared data, read, and the shards that it lists.

The one idea: a folder may hold shards of another run, of a run that was killed or of nobody; the manifest is written
last and names each shard with its tokens and its digest. What stages open is therefore what it lists, no more and no
less. A record has no manifest: it takes the shards of its folder (`shards.shard_paths`).

Axes: M tokens.
Checked by: tests/data/test_manifest.py.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import numpy as np

from pipeline.base.checks import explain_failure, require
from pipeline.base.files import sha256_of_file
from pipeline.data.shards import ShardError, open_shards, shard_paths

_REMEDY = "run `dvc repro -f prepare`"


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a manifest; ValueError, one line, when it is absent or not what `prepare` writes."""
    try:
        manifest = json.loads(path.read_bytes())
        for value, kind in _typed_values(manifest):
            require(type(value) is kind, "a value", value, kind.__name__)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; {_REMEDY}") from None
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a manifest of prepared data ({explain_failure(error)}); {_REMEDY}") from None
    return manifest


def fingerprint(digests: Iterable[str]) -> str:
    """Return what stands for a split: the sha256 of its shards' sha256, a line each, in their order.

    In a shell: `sha256sum fineweb_val_*.bin | cut -c-64 | sha256sum`.
    """
    return hashlib.sha256("".join(f"{each}\n" for each in digests).encode()).hexdigest()


def split_fingerprints(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return the fingerprint of each split of a manifest."""
    return {
        split: fingerprint(shard["sha256"] for shard in entry["shards"]) for split, entry in manifest["splits"].items()
    }


class ListedShard(NamedTuple):
    """A shard that lies in place, and what the manifest says of it."""

    path: Path
    tokens: int
    sha256: str


def listed_shards(path: Path, split: Literal["train", "val"]) -> list[ListedShard]:
    """Return the shards of a split in the order of the manifest at `path`; ShardError unless these lie beside it."""
    folder, listed = path.parent / split, read_manifest(path)["splits"][split]["shards"]
    found = shard_paths(folder, split)
    names, wanted = [each.name for each in found], [PurePosixPath(entry["file"]).name for entry in listed]
    if names != wanted:
        odd = min({*names} ^ {*wanted}, default="one lies there twice")
        raise ShardError(
            f"{folder}: got {len(names)} shards, expected the {len(wanted)} that {path} lists "
            f"(first difference: {odd}); {_REMEDY}"
        )
    return [ListedShard(each, entry["tokens"], entry["sha256"]) for each, entry in zip(found, listed, strict=True)]


def open_listed(listed: Sequence[ListedShard], vocab_size: int, *, check_content: bool = True) -> list[np.ndarray]:
    """Map listed shards read-only, uint16 (M,) each; ShardError when one is damaged or not the one that was listed.

    `check_content=False` skips ids and digests, whose checks read every byte: for ranks beside one that does check.
    """
    shards = open_shards([shard.path for shard in listed], vocab_size, check_ids=check_content)
    for shard, tokens_M in zip(listed, shards, strict=True):
        if len(tokens_M) != shard.tokens:
            expected = f"expected the {shard.tokens} that the manifest lists"
            raise ShardError(f"{shard.path}: got {len(tokens_M)} tokens, {expected}; {_REMEDY}")
    if check_content:
        check_digests(listed)
    return shards


def check_tokenizer(path: Path, tokenizer: Path) -> None:
    """Raise ValueError unless a tokenizer is the one that the manifest at `path` names."""
    if not tokenizer.is_file() or sha256_of_file(tokenizer) != read_manifest(path)["tokenizer_sha256"]:
        raise ValueError(f"{tokenizer}: not the tokenizer that {path} names; {_REMEDY}")


def check_digests(listed: Iterable[ListedShard]) -> None:
    """Raise ShardError for the first shard whose content is not what the manifest says; reads all of them."""
    for shard in listed:
        if (got := sha256_of_file(shard.path)) != shard.sha256:
            raise ShardError(
                f"{shard.path}: got digest {got}, expected {shard.sha256} as the manifest lists; {_REMEDY}"
            )


def _typed_values(manifest: dict[str, Any]) -> Iterator[tuple[object, type]]:
    """Yield the values that stages read, each with its type."""
    yield manifest["unigram_bpb"], float
    yield manifest["tokenizer_sha256"], str
    yield from ((manifest[key], int) for key in ("vocab_size", "bos_id"))
    for split in ("train", "val"):
        entry = manifest["splits"][split]
        yield from ((entry[key], int) for key in ("documents", "tokens", "targets", "bytes"))
        for shard in entry["shards"]:
            yield from ((shard[key], kind) for key, kind in (("file", str), ("sha256", str), ("tokens", int)))
