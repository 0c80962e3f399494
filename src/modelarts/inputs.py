"""The inputs of a job: copies its data set and its models from the storage, and unpacks them."""
import os
import shutil
from pathlib import Path

from src.checkpoint.names import BEST
from src.checkpoint.published import is_published
from src.data.formats.mindrecord import find_parts, unpack_mindrecord
from src.data.formats.zip_archive import unpack
from src.errors import UserError
from src.log import logger
from src.model_utils.config import Config
from src.model_utils.moxing_adapter import Storage, harmless, is_remote
from src.modelarts.folders import JobFolders

MODEL_ENDINGS = (".ckpt", ".mindir", ".onnx", ".tflite", ".pth", ".pth.tar", ".pt", ".safetensors")
DATA_KEYS = ("dataset_path", "eval_dataset_path", "test_dataset_path", "images")
# The storage keeps no file times, but a run resumes only with the same images, times included.
TIME_OF_COPIES = 946684800  # seconds since 1970: the year 2000


class Inputs:
    """The inputs of a job.

    Args:
        config: as the user and the platform gave it.
        data_url: where the data set comes from; empty for nowhere.
        checkpoint_url: where models come from; empty for nowhere.
        storage: copies what is remote.
        folders: where copies go.
    """

    def __init__(self, config: Config, data_url: str, checkpoint_url: str, storage: Storage,
                 folders: JobFolders) -> None:
        self._config, self._data_url, self._checkpoint_url = config, data_url, checkpoint_url
        self._storage, self._folders = storage, folders

    def fetch_data(self) -> None:
        """Copy the data set to where the run reads it, and unpack it there.

        Raises:
            UserError: that is not possible.
        """
        config = self._config
        if not self._data_url:
            return
        if self._copies(self._data_url):
            self._fetch(self._data_url, Path(config.data_path), single=self._data_url.lower().endswith(".zip"))
        elif not Path(self._data_url).exists():
            raise UserError(f"data_url {self._data_url}: no such file or folder")
        if self._is_zip:
            self._unpack(self._archive())
        self._unpack_mindrecord()

    def fetch_checkpoint(self) -> None:
        """Copy the model to begin with, or a folder of models, and the JSON beside it.

        Raises:
            UserError: that is not possible.
        """
        url, folder = self._checkpoint_url, Path(self._config.load_path)
        if not url:
            return
        single = url.endswith(MODEL_ENDINGS)
        if self._copies(url):
            self._fetch(url, folder, single)
            json_url = url.removesuffix(".ckpt") + ".json"  # of an exported model it is mobilenetv2.mindir.json
            if single and (self._storage.exists(json_url) if is_remote(url) else Path(json_url).is_file()):
                self._fetch(json_url, folder, single)
        elif not Path(url).exists():
            raise UserError(f"checkpoint_url {url}: no such file or folder")

    def _copies(self, url: str) -> bool:
        return is_remote(url) or self._config.copy_local

    def _fetch(self, url: str, folder: Path, single: bool) -> None:
        """Copy a file, or the content of a folder, to a folder of this job."""
        logger.info(f"copying {url} to {folder}")
        self._folders.claim(folder)
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
        return self._config.need_modelarts_dataset_unzip or self._data_url.lower().endswith(".zip")

    @property
    def _data_folder(self) -> Path:
        """The folder of the fetched data set or of its zip file."""
        if self._copies(self._data_url):
            return Path(self._config.data_path)
        given = Path(self._data_url)
        return given.parent if given.suffix.lower() == ".zip" else given

    def _archive(self) -> Path:
        name = self._config.modelarts_dataset_unzip_name
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
        data_path = Path(self._config.data_path)
        if not self._copies(self._data_url):
            self._folders.claim(data_path)
        target = data_path / archive.stem
        mark = data_path / f".{archive.stem}.unpacked"  # says that this tool made the folder, and not the data set
        if target.exists():
            if not mark.exists():
                raise UserError(f"{target}: the data have both this folder and {archive.name}; keep one of them, or "
                                "set need_modelarts_dataset_unzip to False")
            shutil.rmtree(target)
        logger.info(f"unpacking {archive} to {target}")
        mark.touch()
        unpack(archive, target)

    # ---- data sets in MindRecord files

    @property
    def _unzipped(self) -> Path:
        """The folder of the fetched and unpacked data set."""
        return Path(self._config.data_path) / self._archive().stem if self._is_zip else self._data_folder

    @property
    def _from_mindrecord(self) -> Path:
        return Path(self._config.data_path) / ".pictures-of-mindrecord"

    def _unpack_mindrecord(self) -> None:
        """Make an image folder in `data_path` if the data set has MindRecord files."""
        source, target = self._unzipped, self._from_mindrecord
        parts = find_parts(source)
        if not parts and not target.exists():
            return
        if not self._copies(self._data_url) and not self._is_zip:
            self._folders.claim(Path(self._config.data_path))
        if target.exists():  # from an earlier attempt of this job, maybe with other data
            shutil.rmtree(target)
        if parts:
            logger.info(f"unpacking the MindRecord files in {source} to {target}")
            unpack_mindrecord(source, target)

    def paths(self) -> dict[str, str]:
        """The paths of the images, the checkpoint and the teacher, by their keys."""
        config, found = self._config, {}
        if self._data_url:
            places = [self._data_folder, Path(config.data_path)]
            if self._is_zip:
                places.insert(0, self._unzipped)
            if find_parts(self._unzipped):
                places.insert(0, self._from_mindrecord)
            values = config.as_dict()
            for key in DATA_KEYS:
                if key in values and (values[key] or key not in {"eval_dataset_path", "test_dataset_path"}):
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


def _first_existing(folders: list[Path], given: str, key: str) -> Path:
    """A path in the first folder that has it. An absolute path and the name of published weights stay as
    they are.
    """
    if Path(given).is_absolute() or is_published(given):
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
    if f"{BEST}.ckpt" in found:
        return f"{BEST}.ckpt"
    raise UserError(f"checkpoint_url: {folder} has {len(found)} models; name one with --pretrain_ckpt")
