"""The folders of a job on a machine with several jobs. Other jobs cannot use them; a restarted job finds them again."""
import json
import os
import time
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.files import lock
from src.json_records import read_json
from src.log import logger
from src.modelarts.lock import lock_shared


class JobFolders:
    """The folders that a process has locked against other jobs.

    Args:
        job: the name of the job.
        seconds: how long to wait for another process at a lock.
    """

    def __init__(self, job: str, seconds: float) -> None:
        self._job, self._seconds = job, seconds
        self._held: list[int] = []  # descriptors of the locked files

    def claim(self, folder: Path) -> bool:
        """Lock a folder for this job. Returns whether an earlier attempt of the job has completed it.

        Files of other jobs in it are set aside, so that they get neither into the data set nor into the upload.
        """
        make_folder(folder.parent)
        descriptor = os.open(self._owner_file(folder), os.O_RDWR | os.O_CREAT, 0o644)
        if not lock(descriptor):
            os.close(descriptor)
            if self._owner(folder).get("job") == self._job:
                return False  # claimed in this same attempt
            raise UserError(f"{folder}: another job on this machine is using this folder; give this job one of its "
                            "own (--data_path, --load_path, --output_path)")
        self._held.append(descriptor)
        owner = self._owner(folder)
        ours = owner.get("job") == self._job
        if not ours and folder.is_dir() and any(folder.iterdir()):
            aside = folder.with_name(f"{folder.name}-{time.strftime('earlier-%Y%m%d-%H%M%S')}-{os.getpid()}")
            try:
                folder.rename(aside)
            except OSError as error:
                raise UserError(f"{folder}: holds files that this job did not make, and cannot be set aside "
                                f"({error.strerror}); name an empty folder") from error
            logger.info(f"{folder}: what was here is now in {aside}")
        make_folder(folder)
        whole = ours and bool(owner.get("whole")) and any(folder.iterdir())
        self.set_owner(folder, whole)
        lock_shared(descriptor, self._seconds, self._owner_file(folder))
        return whole

    def keep(self, folder: Path) -> None:
        """Lock a folder, too, that another process of this job has claimed."""
        if self._owner(folder).get("job") == self._job:
            descriptor = os.open(self._owner_file(folder), os.O_RDONLY)
            lock_shared(descriptor, self._seconds, self._owner_file(folder))
            self._held.append(descriptor)

    def _owner(self, folder: Path) -> dict[str, Any]:
        """The note about the job that claimed a folder last."""
        try:
            owner = read_json(self._owner_file(folder))
        except UserError:  # missing, or incomplete because its writer was killed
            return {}
        return owner if isinstance(owner, dict) else {}

    def set_owner(self, folder: Path, whole: bool) -> None:
        """Note that a folder belongs to this job, and whether it is complete."""
        self._owner_file(folder).write_text(json.dumps({"job": self._job, "whole": whole}), encoding="utf-8")

    @staticmethod
    def _owner_file(folder: Path) -> Path:
        return folder.with_name(f".{folder.name}.job")

    def release(self) -> None:
        """Unlock all folders."""
        for descriptor in self._held:
            os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder unless it exists.

    Raises:
        UserError: that is not possible.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot make this folder: {error.strerror}") from error
