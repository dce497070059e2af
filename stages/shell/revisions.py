"""Files of a Git revision or a DVC experiment, from DVC's cache or its remote, laid out as in a checkout."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.base.checks import one_line

_STATES = {
    "Queued": "`dvc queue start` runs it",
    "Running": "`dvc queue logs {name}` shows how far it is",
    "Failed": "`dvc queue logs {name}` says why",
    "Success": "name it `{name}`",
}
"""Status of a task in DVC's queue -> what to do, so that there is an experiment to compare."""


class Revision:
    """A revision of the checkout in the current folder."""

    def __init__(self, name: str) -> None:
        """Raise ValueError, one line, for what is neither a revision nor an experiment that has ended well."""
        from dvc.api import DVCFileSystem
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

        self.name, tasks = name, list[dict[str, Any]]()
        try:
            with Repo() as repo:
                tasks = repo.experiments.celery_queue.status()
                remote = repo.config["core"].get("remote")  # also for revisions from before it was set
            self._files = DVCFileSystem(rev=name, remote=remote)
            self.commit = self._files.repo.get_rev()
        except DvcException as error:
            _refuse_task(name, [task for task in tasks if task["name"] == name])
            raise ValueError(
                f"{name}: got no folder with params.yaml and no revision ({one_line(error)}), expected a run folder, "
                "a revision or an experiment; `dvc exp list -A` names experiments"
            ) from None
        _refuse_task(name, [task for task in tasks if task["rev"] == self.commit])

    def fetch(self, paths: Iterable[Path], folder: Path) -> None:
        """Copy those of `paths` that the revision has; ValueError for one whose content cannot be had."""
        from dvc.exceptions import DvcException
        from dvc_data.index import DataIndexDirError

        for path in paths:
            try:
                self._fetch(str(path), folder / path)
            except (FileNotFoundError, DataIndexDirError):
                raise ValueError(
                    f"{self.name}: {path} lies neither in DVC's cache nor on its remote; run `dvc push -A`, for an "
                    "experiment `dvc exp push`, where it was made, with the remote in a committed .dvc/config"
                ) from None
            except DvcException as error:
                raise ValueError(f"{self.name}: {path}: {error}") from None

    def _fetch(self, path: str, target: Path) -> None:
        try:
            info = self._files.info(path)
        except FileNotFoundError:
            return
        if "md5" in info.get("dvc_info", {"md5": ""}):  # an output that no stage has made is without
            target.parent.mkdir(parents=True, exist_ok=True)
            self._files.get(path, str(target), recursive=info["type"] == "directory")


def _refuse_task(name: str, tasks: list[dict[str, Any]]) -> None:
    """Raise ValueError when there is a task in DVC's queue: the commit that holds it has another run's outputs."""
    for task in tasks:
        state, advice = task["status"], _STATES[task["status"]].format(name=task["name"])
        raise ValueError(f"{name}: got a task of DVC's queue ({state.lower()}), expected an experiment; {advice}")
