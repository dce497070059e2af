"""The record folder with its audit in it: what a judge gets.

The one idea: a folder cannot state its own digest, so the audit names the folder as it was audited, and what is added
to that afterwards is the audit alone: audit.json, a table at the end of README.md, the verdicts in submission.json.

Checked by: tests/stages/test_audit.py.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.audit.audit import audit_table
from pipeline.base.checks import require
from pipeline.base.files import atomic_folder, folder_digest, require_plain_files


def state_audit(folder: Path, report: Mapping[str, Any], target: Path) -> None:
    """Write a copy of an audited record folder to `target`, with its audit stated; an older copy is replaced.

    `report`: what `audit_record` returned for `folder`. Raises ValueError when the folder has changed since.
    """
    verdicts = [{"id": check["id"], "verdict": check["verdict"]} for check in report["checks"]]
    require_plain_files(folder)
    with atomic_folder(target) as partial:
        shutil.copytree(folder, partial, dirs_exist_ok=True, symlinks=True)
        digest, audited = folder_digest(partial), report["folder_digest"]
        require(digest == audited, str(folder), f"digest {digest[:16]}", f"{audited[:16]}, as audited: audit it again")
        submission = json.loads((partial / "submission.json").read_text("utf-8"))
        submission["audit"] = {"version": report["version"], "checks": verdicts}
        _write_json(partial / "submission.json", submission)
        _write_json(partial / "audit.json", report)
        with open(partial / "README.md", "ab") as readme:
            readme.write(f"\n{audit_table(report)}".encode())


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_bytes((json.dumps(content, indent=2, sort_keys=True) + "\n").encode())
