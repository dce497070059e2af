"""What DVC is at work on in a checkout: stages that a living process makes, experiments of its queue.

Checked by: tests/stages/test_status.py.
"""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dvc.repo import Repo


def stages_at_work(repo: "Repo") -> dict[str, int]:
    """Return stage -> process of those whose outputs a living DVC process is about to write."""
    import psutil

    try:
        writers = json.loads((Path(repo.tmp_dir) / "rwlock").read_bytes()).get("write", {})
    except (OSError, ValueError):  # none yet, or one being written
        return {}
    at_work: dict[str, int] = {}
    for stage in repo.index.stages if writers else []:
        for process in (writers[out.fs_path]["pid"] for out in stage.outs if out.fs_path in writers):
            at_work |= {stage.addressing: process} if psutil.pid_exists(process) else {}
    return at_work


def queue_counts(repo: "Repo") -> dict[str, int]:
    """Return state -> experiments of DVC's queue, those of success left out; asks DVC only where there is a queue."""
    messages = list((Path(repo.tmp_dir) / "exps/celery/broker").glob("*/*.msg"))
    if not messages:
        return {}
    from dvc.exceptions import DvcException
    from scmrepo.exceptions import SCMError

    try:
        counts = Counter(task["status"].lower() for task in repo.experiments.celery_queue.status())
    except (DvcException, SCMError):  # a commit of an experiment is gone, as after `git gc`
        return {"unreadable": len(messages)}
    return {state: count for state, count in counts.items() if state != "success"}
