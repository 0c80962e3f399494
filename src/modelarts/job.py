"""A job on ModelArts: the data come before it, the output goes where it is kept after it, however it ends.

Jobs of the old kind get obs:// URLs and copy for themselves; those of the new kind get folders that the platform keeps
in step with the storage. The scheme of each URL decides. On each machine one process copies for all.
"""
import fcntl
import functools
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from src.data.formats.mindrecord import find_parts, unpack_mindrecord
from src.data.formats.zip_archive import unpack
from src.errors import UserError
from src.json_records import read_json
from src.model_utils.config import Config, get_config
from src.model_utils.device_adapter import find_place
from src.model_utils.local_adapter import Place
from src.model_utils.moxing_adapter import Storage, harmless, is_remote
from src.modelarts.environment import await_rank_table
from src.modelarts.lock import JobLock, wait_until
from src.modelarts.log import Log

OUTPUT_KEYS = ("save_checkpoint_path", "confusion_matrix", "report", "file_name", "predictions")
MODEL_ENDINGS = (".ckpt", ".mindir", ".onnx")
DATA_KEYS = ("dataset_path", "eval_dataset_path", "pictures")
LEAVING_SECONDS = 10.0  # that the first process of a machine gives the others to end before it uploads
# The storage keeps no times, but a run goes on only with the pictures that it knows, times included.
TIME_OF_COPIES = 946684800  # seconds since 1970: the year 2000

Main = Callable[[Config], None]


def local_or_modelarts(main: Main | None = None, *, resumes: bool = False) -> Callable:
    """Give `main` the configuration, on ModelArts one in which all paths are those of files that are here.

    Args:
        main: an entry script's main function.
        resumes: whether it goes on with what an earlier run left in `train_url`, which is fetched then.
    """
    if main is None:
        return functools.partial(local_or_modelarts, resumes=resumes)
    run = main

    @functools.wraps(run)
    def wrapped() -> None:
        config = get_config()
        # msrun starts the script once more as the scheduler of its processes, which has no part in the work.
        if config.enable_modelarts and os.environ.get("MS_ROLE") != "MS_SCHED":
            Job(config, find_place(config.enable_modelarts), resumes).run(run)
        else:
            run(config)

    return wrapped


class Job:
    """One process of a job.

    Args:
        config: as the user and the platform gave it.
        place: which process this is.
        resumes: whether to fetch what an earlier run left in `train_url`.
    """

    def __init__(self, config: Config, place: Place, resumes: bool) -> None:
        self.config, self._place = config, place
        self._data_url, self._train_url, self._checkpoint_url = (
            given or os.environ.get(name, "") for name, given in (
                ("data_url", config.data_url), ("train_url", config.train_url),
                ("checkpoint_url", config.checkpoint_url)))
        self._resumes = resumes and config.resume != "never"
        urls = (self._data_url, self._train_url, self._checkpoint_url, config.data_path, config.output_path)
        self._name = place.job_id or hashlib.sha256("\0".join(urls).encode()).hexdigest()
        self._storage = Storage(config.copy_tries, config.copy_retry_seconds)
        self._lock = JobLock(self._name, config.copy_wait_seconds)
        self._output = Path(config.output_path if is_remote(self._train_url) or not self._train_url
                            else self._train_url).absolute()
        self._log = Log()
        self._is_member = False
        self._held: list[int] = []  # descriptors of the folders that this process keeps other jobs out of

    def run(self, main: Main) -> None:
        """Fetch, run, upload. The upload takes place however the rest ended, and so does a SIGTERM's end of this."""
        before = signal.signal(signal.SIGTERM, _end)
        try:
            main(self._prepare())
        except BaseException as error:
            self._log.write_end(error)
            try:
                self._finish()
            except UserError as second:
                print(f"error: {second}", file=sys.stderr)
            raise
        else:
            self._finish()
        finally:
            signal.signal(signal.SIGTERM, before)

    # ---- before

    def _prepare(self) -> Config:
        """Fetch what there is to fetch, or wait until another process has; returns the configuration to run with."""
        if not self._train_url:
            print(f"no train_url: the output stays in {self._output}, and is lost if the platform wipes that")
        with self._lock.gate("fetch its data"):
            self._lock.join()
            self._is_member = True
            self._once("output", self._fetch_output)
            self._keep(self._output)
            log = Path(sys.argv[0]).stem + (f"-rank{self._place.rank}" if self._place.rank else "") + ".log"
            self._log.open(self._output / log)
            self._once("data", self._fetch_data)
            self._once("checkpoint", self._fetch_checkpoint)
            self._keep(Path(self.config.data_path))
            self._keep(Path(self.config.load_path))
        await_rank_table(self.config.copy_wait_seconds)
        return self.config.replace({**self._inputs(), **self._outputs()})

    def _once(self, what: str, work: Callable[[], None]) -> None:
        """Do some work unless another living process of this job has, or has failed at it."""
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
        """An earlier run's output, on the machine that writes checkpoints: the others would upload it once more."""
        if not is_remote(self._train_url):
            _make_folder(self._output)
            return
        if self._claim(self._output):
            print(f"{self._output}: going on with what this job left here")
        elif self._resumes and self._place.is_on_first_machine and self._storage.exists(self._train_url):
            print(f"fetching earlier output from {self._train_url}")
            self._storage.copy_folder(self._train_url, str(self._output))
        self._set_owner(self._output, whole=True)

    def _fetch_data(self) -> None:
        config = self.config
        if not self._data_url:
            return
        if self._copies(self._data_url):
            self._fetch(self._data_url, Path(config.data_path), single=self._data_url.lower().endswith(".zip"))
        elif not Path(self._data_url).exists():
            raise UserError(f"data_url {self._data_url}: no such file or folder")
        if self._is_zip:
            self._unpack(self._archive())
        self._unpack_mindrecord()

    def _fetch_checkpoint(self) -> None:
        url, folder = self._checkpoint_url, Path(self.config.load_path)
        if not url:
            return
        single = url.endswith(MODEL_ENDINGS)
        if self._copies(url):
            self._fetch(url, folder, single)
            about = url.removesuffix(".ckpt") + ".json"  # of an exported model it is mobilenetv2.mindir.json
            if single and (self._storage.exists(about) if is_remote(url) else Path(about).is_file()):
                self._fetch(about, folder, single)
        elif not Path(url).exists():
            raise UserError(f"checkpoint_url {url}: no such file or folder")

    def _copies(self, url: str) -> bool:
        return is_remote(url) or self.config.copy_local

    def _fetch(self, url: str, folder: Path, single: bool) -> None:
        """Copy a file or what is in a folder to a folder of this job's own."""
        print(f"copying {url} to {folder}")
        self._claim(folder)
        if not is_remote(url):
            try:
                if single:
                    shutil.copy2(url, folder)
                else:
                    shutil.copytree(url, folder, dirs_exist_ok=True)
            except (OSError, shutil.Error) as error:
                raise UserError(f"cannot copy {url} to {folder}: {harmless(error)}") from error
            return
        if not self._storage.exists(url):
            raise UserError(f"{url}: no such file or folder in the storage")
        if single:
            self._storage.copy_file(url, str(folder / url.rpartition("/")[2]))
        elif not self._storage.copy_folder(url, str(folder)):
            raise UserError(f"{url}: there is no file in this folder")
        for file in folder.rglob("*"):
            if file.is_file():
                os.utime(file, (TIME_OF_COPIES, TIME_OF_COPIES))

    # ---- data sets in zip files

    @property
    def _is_zip(self) -> bool:
        return self.config.need_modelarts_dataset_unzip or self._data_url.lower().endswith(".zip")

    @property
    def _data_folder(self) -> Path:
        """Where the data set or the zip file of it lies, once it was fetched."""
        if self._copies(self._data_url):
            return Path(self.config.data_path)
        given = Path(self._data_url)
        return given.parent if given.suffix.lower() == ".zip" else given

    def _archive(self) -> Path:
        name = self.config.modelarts_dataset_unzip_name
        if self._data_url.lower().endswith(".zip"):
            name = self._data_url.replace("\\", "/").rpartition("/")[2]
        if name:
            archive = self._data_folder / (name if name.lower().endswith(".zip") else f"{name}.zip")
            if not archive.is_file():
                raise UserError(f"data_url {self._data_url}: has no {archive.name}; set modelarts_dataset_unzip_name "
                                "to the name of the zip file there")
            return archive
        found = sorted(self._data_folder.glob("*.[zZ][iI][pP]"))
        if len(found) != 1:
            raise UserError(f"data_url {self._data_url}: has {len(found)} zip files; put one there, or name it with "
                            "modelarts_dataset_unzip_name")
        return found[0]

    def _unpack(self, archive: Path) -> None:
        """Unpack into a folder of the archive's name in `data_path`."""
        data_path = Path(self.config.data_path)
        if not self._copies(self._data_url):
            self._claim(data_path)
        target = data_path / archive.stem
        mark = data_path / f".{archive.stem}.unpacked"  # tells our own folder from one that came with the data
        if target.exists():
            if not mark.exists():
                raise UserError(f"{target}: the data have both this folder and {archive.name}; keep one of them, or "
                                "set need_modelarts_dataset_unzip to False")
            shutil.rmtree(target)
        print(f"unpacking {archive} to {target}")
        mark.touch()
        unpack(archive, target)

    # ---- data sets in MindRecord files

    @property
    def _unzipped(self) -> Path:
        """Where the data set lies, once it was fetched and unpacked."""
        return Path(self.config.data_path) / self._archive().stem if self._is_zip else self._data_folder

    @property
    def _from_mindrecord(self) -> Path:
        return Path(self.config.data_path) / ".pictures-of-mindrecord"

    def _unpack_mindrecord(self) -> None:
        """Make an image folder in `data_path`, if the data are MindRecord files."""
        source, target = self._unzipped, self._from_mindrecord
        parts = find_parts(source)
        if not parts and not target.exists():
            return
        if not self._copies(self._data_url) and not self._is_zip:
            self._claim(Path(self.config.data_path))
        if target.exists():  # this job's earlier attempt made it, maybe of other data
            shutil.rmtree(target)
        if parts:
            print(f"unpacking the MindRecord files in {source} to {target}")
            unpack_mindrecord(source, target)

    # ---- folders of this job's own

    def _claim(self, folder: Path) -> bool:
        """Make a folder this job's; whether an earlier attempt of the job has left it whole.

        What others left in it is set aside, so that it gets neither into the data set nor into the upload.
        """
        owner = self._owner_file(folder)
        _make_folder(folder.parent)
        descriptor = os.open(owner, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            if self._owner(folder).get("job") == self._name:
                return False  # claimed in this same attempt
            raise UserError(f"{folder}: another job on this machine is using this folder; give this job one of its "
                            "own (--data_path, --load_path, --output_path)") from None
        self._held.append(descriptor)
        said = self._owner(folder)
        ours = said.get("job") == self._name
        if not ours and folder.is_dir() and any(folder.iterdir()):
            aside = folder.with_name(f"{folder.name}-{time.strftime('earlier-%Y%m%d-%H%M%S')}-{os.getpid()}")
            try:
                folder.rename(aside)
            except OSError as error:
                raise UserError(f"{folder}: holds files that this job did not make, and cannot be set aside "
                                f"({error.strerror}); name an empty folder") from error
            print(f"{folder}: what was here is now in {aside}")
        _make_folder(folder)
        whole = ours and bool(said.get("whole")) and any(folder.iterdir())
        self._set_owner(folder, whole)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        return whole

    def _keep(self, folder: Path) -> None:
        """Keep other jobs out of a folder that another process of this job has claimed."""
        if self._owner(folder).get("job") == self._name:
            descriptor = os.open(self._owner_file(folder), os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            self._held.append(descriptor)

    def _owner(self, folder: Path) -> dict[str, Any]:
        """What was written of the job that claimed a folder last."""
        try:
            said = read_json(self._owner_file(folder))
        except UserError:  # there is none, or it was being written by a process that was killed
            return {}
        return said if isinstance(said, dict) else {}

    def _set_owner(self, folder: Path, whole: bool) -> None:
        self._owner_file(folder).write_text(json.dumps({"job": self._name, "whole": whole}), encoding="utf-8")

    @staticmethod
    def _owner_file(folder: Path) -> Path:
        return folder.with_name(f".{folder.name}.job")

    # ---- paths

    def _inputs(self) -> dict[str, str]:
        """Where the pictures, the checkpoint and the teacher are."""
        config, found = self.config, {}
        if self._data_url:
            places = [self._data_folder, Path(config.data_path)]
            if self._is_zip:
                places.insert(0, self._unzipped)
            if find_parts(self._unzipped):
                places.insert(0, self._from_mindrecord)
            values = config.as_dict()
            for key in DATA_KEYS:
                if key in values and (values[key] or key != "eval_dataset_path"):
                    found[key] = str(_first_existing(places, values[key], key))
        if self._checkpoint_url:
            single = self._checkpoint_url.endswith(MODEL_ENDINGS)
            folder = Path(config.load_path if self._copies(self._checkpoint_url) else self._checkpoint_url)
            if single and not self._copies(self._checkpoint_url):
                folder = folder.parent
            name = self._checkpoint_url.replace("\\", "/").rpartition("/")[2] if single else ""
            wanted = {"kd_teacher": config.kd_teacher,
                      "pretrain_ckpt": config.pretrain_ckpt or _to_start_from(folder, name, config.kd_teacher)}
            found |= {key: str(_first_existing([folder], given, key)) for key, given in wanted.items() if given}
        return found

    def _outputs(self) -> dict[str, str]:
        """Where what the run makes goes: all of it below the folder that is uploaded."""
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
        """Upload the output, if it is for this process to do that."""
        signal.signal(signal.SIGTERM, _keep_on)
        if self._is_member and self._place.ranks_per_machine > 1:
            # Who still waits for the data has to hear from a living member that there are none.
            wait_until(lambda: not self._lock.is_awaited(), LEAVING_SECONDS)
            if self._place.is_first_on_machine:
                wait_until(self._others_have_left, LEAVING_SECONDS)
        self._log.close()
        try:
            if self._is_member and is_remote(self._train_url):
                with self._lock.gate("upload the output"):
                    # The others upload only in the place of a first process that was killed.
                    if self._place.is_first_on_machine or (
                            self._lock.is_alone() and self._lock.noted("uploaded") is None):
                        self._upload()
        finally:
            for descriptor in self._held:
                os.close(descriptor)
            self._lock.leave()

    def _others_have_left(self) -> bool:
        with self._lock.gate("end"):
            return self._lock.is_alone()

    def _upload(self) -> None:
        self._lock.note("uploaded", "")
        try:
            there_is_any = self._storage.copy_folder(str(self._output), self._train_url)
        except UserError as error:
            raise UserError(f"the output could not be uploaded and is still in {self._output}: {error}") from error
        print(f"output uploaded to {self._train_url}" if there_is_any else "no output to upload")


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM ends the process through all its `finally`, and so through the upload."""
    print("SIGTERM: ending; what there is gets uploaded", file=sys.stderr)
    sys.exit(128 + number)


def _keep_on(number: int, frame: FrameType | None) -> None:
    print("SIGTERM: ending as soon as the output is uploaded", file=sys.stderr)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot make this folder: {error.strerror}") from error


def _first_existing(folders: list[Path], given: str, key: str) -> Path:
    """A path in the first of some folders that has it; an absolute one is taken as it is."""
    if Path(given).is_absolute():
        return Path(given)
    found = next((folder / given for folder in folders if (folder / given).exists()), None)
    if found is None:
        raise UserError(f"{key} {given}: not found in {' or '.join(dict.fromkeys(map(str, folders)))}")
    return found


def _to_start_from(folder: Path, name: str, teacher: str) -> str:
    """The model to take when `pretrain_ckpt` names none: `name`, or where that is empty the folder's only checkpoint or
    exported model, or `best`. The teacher's file does not count; if that is all there is, none is taken.
    """
    found = [name] if name else sorted(file.name for file in folder.glob("*.ckpt")) or sorted(
        file.name for ending in MODEL_ENDINGS for file in folder.glob(f"*{ending}"))
    if teacher in found:
        found.remove(teacher)
        if not found:
            return ""
    if len(found) == 1:
        return found[0]
    if "best.ckpt" in found:
        return "best.ckpt"
    raise UserError(f"checkpoint_url: {folder} has {len(found)} models; name one with --pretrain_ckpt")
