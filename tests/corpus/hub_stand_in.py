"""A local server with the hub's URLs and headers: what `huggingface_hub` needs to see, and faults on demand.

As on the hub, a large file answers with a redirect to another place and states its sha256 and size in X-Linked-*; a
small one is served at once under git's digest.
"""

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REPOSITORY = "somebody/golf"


class HubStandIn:
    """The files of one dataset repository, a log of what was asked for, and the faults to come."""

    def __init__(self, files: dict[str, bytes], repository: str = REPOSITORY) -> None:
        self.files, self.repository = dict(files), repository
        self.commit = "c0ffee" + 34 * "0"
        self.requests: list[tuple[str, str, int]] = []
        """Method, file and first byte of each request for content or metadata."""
        self.cut_after: dict[str, int] = {}
        """File -> bytes after which the connection breaks, once."""
        self.false_content: dict[str, bytes] = {}
        """File -> what is sent instead, always."""
        self.exports: dict[str, dict[str, bytes]] = {}
        """Commit -> its files, where they are others than `files`, which every other revision has."""
        self.refused: set[str] = set()
        """Revisions that do not exist any more."""
        self.states_digests = True
        self.endpoint = ""

    def downloads(self) -> list[str]:
        """Return the files whose content was asked for, in order."""
        return [name for method, name, _ in self.requests if method == "GET"]

    def files_at(self, revision: str) -> dict[str, bytes]:
        """Return the files of a revision."""
        return self.exports.get(revision, self.files)

    @contextmanager
    def serving(self) -> Iterator["HubStandIn"]:
        """Serve until the block ends."""
        handler = type("Handler", (_Handler,), {"hub": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        self.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: HubStandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        blob = re.fullmatch("/blobs/([^/]+)/(.+)", self.path)
        asked = re.fullmatch(f"/datasets/{self.hub.repository}/resolve/([^/]+)/(.+)", self.path)
        found = blob or asked
        revision, name = found.groups() if found else ("", "")
        files = self.hub.files_at(revision)
        commit = revision if revision in self.hub.exports else self.hub.commit
        if blob:
            self._send_content(name, files[name])
        elif asked is None or name not in files:
            self._refuse("EntryNotFound" if asked else "RepoNotFound")
        elif revision in self.hub.refused:
            self._refuse("RevisionNotFound")
        elif name.endswith(".json"):
            content = files[name]
            digest = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
            self._send_content(name, content, {"ETag": f'"{digest}"', "X-Repo-Commit": commit})
        else:
            self._redirect(f"{revision}/{name}", files[name], commit)

    def _refuse(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _redirect(self, place: str, content: bytes, commit: str) -> None:
        if self.command == "HEAD":
            self.hub.requests.append((self.command, place.partition("/")[2], 0))
        self.send_response(302)
        # Another host, as the hub redirects to its CDN: the client takes the digest from this answer, not from there.
        self.send_header("Location", self.hub.endpoint.replace("127.0.0.1", "localhost") + f"/blobs/{place}")
        self.send_header("X-Repo-Commit", commit)
        self.send_header("X-Linked-Size", str(len(content)))
        if self.hub.states_digests:
            self.send_header("X-Linked-Etag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("ETag", '"of-the-redirect"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_content(self, name: str, content: bytes, headers: dict[str, str] | None = None) -> None:
        content = self.hub.false_content.get(name, content)
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        first = int(asked[1]) if asked else 0
        self.hub.requests.append((self.command, name, first))
        self.send_response(206 if asked else 200)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        if self.command == "GET":
            cut = self.hub.cut_after.pop(name, None)
            self.wfile.write(content[first:cut])
            self.close_connection = cut is not None
