"""Files of a dataset repository on the Hugging Face hub: fetched once, checked always, never left in place when wrong.

The one idea: the hub states a digest for every file (for large files their sha256), so a file is done when its content
has that digest, whatever happened before. A file that is done is not fetched again, one that is not is fetched anew;
within a file the hub's client resumes a broken connection where it broke. The first answer names the commit that the
revision stands for, and everything after it is asked of that commit: a branch that moves cannot mix two exports.
`digests.json` in the folder pins, under every revision that was configured, every large file to the digest that it had
when it was first fetched, or that somebody put there: a publisher who changes a file later, or a mirror that lies, is
named and nothing is touched. Another revision is another choice, and has pins of its own.

Source: huggingface_hub's public functions; digests are the ETag of a file's metadata.
Differs: the client itself trusts a file that it finds in place with a note of its own beside it.
Checked by: tests/corpus/test_hub.py, against a local server with the hub's URLs and headers.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline.base.checks import FairwayError
from pipeline.base.files import sha256_of_file, write_bytes

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata


class DownloadError(FairwayError):
    """A file could not be fetched, or is not what its publisher says."""


class HubFile(NamedTuple):
    """A file that has been checked."""

    path: Path
    sha256: str


class HubDataset:
    """A dataset repository at one commit and the folder that keeps its files, under their names in the repository."""

    def __init__(self, repository: str, revision: str, endpoint: str, folder: Path) -> None:
        self.repository = repository
        self.revision = revision
        """A branch, tag or commit; after the first file the commit."""
        self.endpoint = endpoint
        self.folder = folder / repository
        self._configured = revision
        self._pins = self.folder / "digests.json"
        self._pinned = _read_pins(self._pins).get(revision, {})

    def fetch(self, name: str) -> HubFile:
        """Return file `name` of the repository, downloaded unless it lies in place with the right content.

        DownloadError, one line, when the hub cannot be reached or knows no such file, when the content is wrong, or
        when the hub states another digest than the pinned one.
        """
        if name.startswith("/") or ".." in name.split("/"):
            raise DownloadError(f"{name}: not a file inside dataset {self.repository}; check section data.fineweb")
        expected = self._published_digest(name)
        self._require_pinned(name, expected)
        path = self.folder / name
        if path.is_file() and _digest_like(expected, path) != expected:
            path.unlink(missing_ok=True)  # another checkout may share the folder
        if not path.is_file():
            self._download(name)
            got = _digest_like(expected, path)
            if got != expected:
                path.unlink()
                raise DownloadError(
                    f"{path}: expected digest {expected}, got {got} from {self.endpoint}; the file was removed: run "
                    "again, and if that does not help choose another data.fineweb.endpoint"
                )
        self._pin(name, expected)
        return HubFile(path, expected if _is_sha256(expected) else sha256_of_file(path))

    def _require_pinned(self, name: str, stated: str) -> None:
        """Raise DownloadError when the hub states another digest for a large file than it was pinned to."""
        pinned = self._pinned.get(name, stated)
        if _is_sha256(stated) and pinned != stated:
            raise DownloadError(
                f"{name}: got digest {stated} from {self.endpoint}, revision {self.revision}, expected {pinned}, to "
                f"which {self._pins} pins it; set data.fineweb.revision to the commit that has it, or remove the entry "
                f"{self._configured!r} there to take what the hub has now"
            )

    def _pin(self, name: str, digest: str) -> None:
        """Note the digest of a large file that lies in place, at its first fetch."""
        if _is_sha256(digest) and name not in self._pinned:
            pins = _read_pins(self._pins)  # another checkout may share the folder
            self._pinned = pins[self._configured] = {**pins.get(self._configured, {}), name: digest}
            write_bytes(self._pins, (json.dumps(pins, indent=0, sort_keys=True) + "\n").encode())

    def _published_digest(self, name: str) -> str:
        """Return the digest that the hub states for a file, and hold on to the commit it is asked of."""
        metadata = self._metadata(name)
        digest = metadata.etag or ""
        if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", digest) or not metadata.commit_hash:
            raise DownloadError(
                f"{name}: {self.endpoint} states no digest and commit for it (ETag {digest!r}, commit "
                f"{metadata.commit_hash!r}), so it cannot be checked; choose another data.fineweb.endpoint"
            )
        self.revision = metadata.commit_hash
        return digest

    def _metadata(self, name: str) -> "HfFileMetadata":
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.errors import HTTPError

        try:
            url = hf_hub_url(self.repository, name, repo_type="dataset", revision=self.revision, endpoint=self.endpoint)
            return get_hf_file_metadata(url, endpoint=self.endpoint, retry_on_errors=True)
        except (OSError, ValueError, HTTPError) as error:
            raise self._failure(name, error) from error

    def _download(self, name: str) -> None:
        """Fetch a file into the folder with the hub's client, which writes beside it and renames."""
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HTTPError
        from tqdm import tqdm

        class NoBar(tqdm):
            """The client draws a bar per file; the stage has one of its own."""

            def __init__(self, *arguments: object, **options: object) -> None:
                super().__init__(*arguments, **{**options, "disable": True})

        try:
            hf_hub_download(
                self.repository,
                name,
                repo_type="dataset",
                revision=self.revision,
                endpoint=self.endpoint,
                local_dir=self.folder,
                tqdm_class=NoBar,
            )
        except (OSError, ValueError, RuntimeError, HTTPError) as error:
            raise self._failure(name, error) from error

    def _failure(self, name: str, error: Exception) -> DownloadError:
        cause = " ".join(str(error).split()) or type(error).__name__
        return DownloadError(
            f"{name}: cannot be fetched from dataset {self.repository}, revision {self.revision}, at {self.endpoint} "
            f"({cause}); check section data.fineweb and the network, then run again: finished files are kept"
        )


def _read_pins(path: Path) -> dict[str, dict[str, str]]:
    """Return the digests of a file of pins by revision and name; none where there is no such file."""
    try:
        pins = json.loads(path.read_bytes()) if path.is_file() else {}
        sound = all(_is_sha256(digest) for pinned in pins.values() for digest in pinned.values())
    except (AttributeError, TypeError, ValueError):
        sound = False
    if not sound:
        raise DownloadError(
            f"{path}: not a JSON object of revisions, each of names and their sha256; mend it, or remove it to pin anew"
        )
    return pins


def _is_sha256(digest: str) -> bool:
    """Whether a digest is a large file's; a small file's is git's, which is shorter."""
    return len(digest) == 64


def _digest_like(expected: str, path: Path) -> str:
    """Return a file's sha256, or git's digest of it where `expected` is one."""
    if _is_sha256(expected):
        return sha256_of_file(path)
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
