"""A job on ModelArts: fetches its inputs, runs a command, and uploads the output however the command ends.

Jobs of the old kind get obs:// URLs and copy by themselves. Jobs of the new kind get folders that the platform
synchronises with the storage. The scheme of each URL decides. On each machine one process copies for all.
"""
import functools
import hashlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from src.errors import UserError
from src.log import NOTICE, logger, setup_log
from src.model_utils.config import Config, get_config
from src.model_utils.device_adapter import find_process_environment
from src.model_utils.local_adapter import ProcessEnvironment
from src.model_utils.moxing_adapter import Storage, is_remote
from src.modelarts.environment import await_rank_table
from src.modelarts.folders import JobFolders, make_folder
from src.modelarts.inputs import Inputs
from src.modelarts.lock import JobLock, wait_until
from src.modelarts.log import Log

OUTPUT_KEYS = ("save_checkpoint_path", "confusion_matrix", "report", "file_name", "predictions")
LEAVING_SECONDS = 10.0  # how long the first process of a machine waits for the others before it uploads

Main = Callable[[Config], None]


def local_or_modelarts(main: Main | None = None, *, resumes: bool = False) -> Callable:
    """Call `main` with the configuration. On ModelArts all paths in it are local.

    Args:
        main: the main function of an entry script.
        resumes: whether it can resume from the output of an earlier run in `train_url`, which is then fetched.
    """
    if main is None:
        return functools.partial(local_or_modelarts, resumes=resumes)
    run = main

    @functools.wraps(run)
    def wrapped() -> None:
        config = get_config()
        # msrun starts the script once more as its scheduler, which needs no data.
        if config.enable_modelarts and os.environ.get("MS_ROLE") != "MS_SCHED":
            Job(config, find_process_environment(config.enable_modelarts), resumes).run(run)
        else:
            run(config)

    return wrapped


class Job:
    """One process of a job.

    Args:
        config: as the user and the platform gave it.
        process: rank, machine and job of this process.
        resumes: whether to fetch the output of an earlier run from `train_url`.
    """

    def __init__(self, config: Config, process: ProcessEnvironment, resumes: bool) -> None:
        self.config, self._process = config, process
        data_url, self._train_url, checkpoint_url = (
            given or os.environ.get(name, "") for name, given in (
                ("data_url", config.data_url), ("train_url", config.train_url),
                ("checkpoint_url", config.checkpoint_url)))
        self._resumes = resumes and config.resume != "never"
        urls = (data_url, self._train_url, checkpoint_url, config.data_path, config.output_path)
        self._name = process.job_id or hashlib.sha256("\0".join(urls).encode()).hexdigest()
        self._storage = Storage(config.copy_tries, config.copy_retry_seconds)
        self._lock = JobLock(self._name, config.copy_wait_seconds)
        self._output = Path(config.output_path if is_remote(self._train_url) or not self._train_url
                            else self._train_url).absolute()
        self._log = Log()
        self._is_member = False
        self._folders = JobFolders(self._name, config.copy_wait_seconds)
        self._inputs = Inputs(config, data_url, checkpoint_url, self._storage, self._folders)

    def run(self, main: Main) -> None:
        """Fetch, run, upload. The upload also follows an error or SIGTERM."""
        setup_log(self._process.rank, self._process.rank_size)
        before = signal.signal(signal.SIGTERM, _end)
        try:
            main(self._prepare())
        except BaseException as error:
            self._log.write_end(error)
            try:
                self._finish()
            except UserError as second:
                logger.error(second)
            raise
        else:
            self._finish()
        finally:
            signal.signal(signal.SIGTERM, before)

    # ---- before

    def _prepare(self) -> Config:
        """Fetch the inputs, or wait until another process has. Returns the configuration of the run."""
        if not self._train_url:
            logger.info(f"no train_url: the output stays in {self._output}, and is lost if the platform wipes that")
        with self._lock.gate("fetch its data"):
            self._lock.join()
            self._is_member = True
            self._once("output", self._fetch_output)
            self._folders.keep(self._output)
            log = Path(sys.argv[0]).stem + (f"-rank{self._process.rank}" if self._process.rank else "") + ".log"
            self._log.open(self._output / log)
            self._once("data", self._inputs.fetch_data)
            self._once("checkpoint", self._inputs.fetch_checkpoint)
            self._folders.keep(Path(self.config.data_path))
            self._folders.keep(Path(self.config.load_path))
        await_rank_table(self.config.copy_wait_seconds)
        return self.config.replace({**self._inputs.paths(), **self._outputs()})

    def _once(self, what: str, work: Callable[[], None]) -> None:
        """Do some work, unless another living process of this job has done it. Raise its error if it failed."""
        noted = self._lock.noted(what)
        if noted:
            raise UserError(noted)
        if noted is None:
            try:
                work()
            except (UserError, OSError) as error:
                fault = str(error) if isinstance(error, UserError) else \
                    f"{error.filename or what}: cannot fetch the {what}: {error.strerror or error}"
                self._lock.note(what, fault)
                raise UserError(fault) from error
            self._lock.note(what, "")

    def _fetch_output(self) -> None:
        """Fetch an earlier run's output, only on the machine of rank 0: other machines would upload it again."""
        if not is_remote(self._train_url):
            make_folder(self._output)
            return
        if self._folders.claim(self._output):
            logger.info(f"{self._output}: going on with what this job left here")
        elif self._resumes and self._process.is_on_first_machine and self._storage.exists(self._train_url):
            logger.info(f"fetching earlier output from {self._train_url}")
            self._storage.copy_folder(self._train_url, str(self._output))
        self._folders.set_owner(self._output, whole=True)

    # ---- paths

    def _outputs(self) -> dict[str, str]:
        """The output paths by their keys. All are inside the folder that is uploaded."""
        values = self.config.as_dict()
        found = {}
        for key in OUTPUT_KEYS:
            if values.get(key):
                path = Path(os.path.normpath(self._output / values[key]))
                if not path.is_relative_to(self._output):
                    raise UserError(f"{key} is {values[key]}, which nobody uploads; give a path relative to the output "
                                    f"folder {self._output}")
                found[key] = str(path)
        resume = self._output / values["resume"]
        if values["resume"] not in {"auto", "never"} and resume.exists():
            found["resume"] = str(resume)
        return found

    # ---- after

    def _finish(self) -> None:
        """Upload the output if that is the task of this process."""
        signal.signal(signal.SIGTERM, _keep_on)
        if self._is_member and self._process.ranks_per_machine > 1:
            # Processes that still wait for data need a living member, which has noted the error.
            wait_until(lambda: not self._lock.is_awaited(), LEAVING_SECONDS)
            if self._process.is_first_on_machine:
                wait_until(self._others_have_left, LEAVING_SECONDS)
        self._log.close()
        try:
            if self._is_member and is_remote(self._train_url):
                with self._lock.gate("upload the output"):
                    # Other processes upload only if the first process was killed.
                    if self._process.is_first_on_machine or (
                            self._lock.is_alone() and self._lock.noted("uploaded") is None):
                        self._upload()
        finally:
            self._folders.release()
            self._lock.leave()

    def _others_have_left(self) -> bool:
        with self._lock.gate("end"):
            return self._lock.is_alone()

    def _upload(self) -> None:
        self._lock.note("uploaded", "")
        try:
            has_files = self._storage.copy_folder(str(self._output), self._train_url)
        except UserError as error:
            raise UserError(f"the output could not be uploaded and is still in {self._output}: {error}") from error
        logger.info(f"output uploaded to {self._train_url}" if has_files else "no output to upload")


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """Handler of SIGTERM: ends the process by an exception, so that the upload still runs."""
    logger.log(NOTICE, "SIGTERM: ending; what there is gets uploaded")
    sys.exit(128 + number)


def _keep_on(number: int, frame: FrameType | None) -> None:
    logger.log(NOTICE, "SIGTERM: ending as soon as the output is uploaded")
