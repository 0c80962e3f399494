"""ModelArts' environment, and its object storage (OBS) through Huawei's MoXing.

MoXing is part of ModelArts' images and cannot be installed elsewhere. The package of that name on PyPI is unrelated. So
MoXing is imported only when a URL of the storage is used, and is recognised by its functions.
"""
import dataclasses
import errno
import importlib
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from src.errors import UserError, first_line
from src.log import logger
from src.model_utils.local_adapter import ProcessEnvironment, local_environment, number_from

REMOTE_SCHEMES = ("obs://", "s3://")
NOTHING_THERE = "No files to copy"  # MoXing's words for a source without a file
JOB_VARIABLES = ("MA_VJ_NAME", "JOB_ID")  # of the present jobs and of the old ones
LONGEST_WAIT = 120.0  # seconds between two tries
NOTHING = object()  # what a copy of nothing returns
SECRET = re.compile(r"(?i)((?:access|secret|signature|token|credential|password|auth)[\w.-]*[\"']?\s*[=:]\s*)\S+")


def modelarts_environment() -> ProcessEnvironment:
    """The environment of this process on ModelArts.

    Raises:
        UserError: an environment variable is not a number.
    """
    return dataclasses.replace(
        local_environment(), machines=number_from("MA_NUM_HOSTS", "VC_WORKER_NUM") or 1,
        job_id=next((os.environ[name] for name in JOB_VARIABLES if os.environ.get(name)), ""))


def is_remote(url: str) -> bool:
    """Whether a URL is one of the object storage; anything else is a path."""
    return url.lower().startswith(REMOTE_SCHEMES)


def load_moxing() -> ModuleType:
    """Huawei's MoXing.

    Raises:
        UserError: it is missing, or another package has its name.
    """
    try:
        moxing = importlib.import_module("moxing")
    except ModuleNotFoundError as error:
        if error.name == "moxing":
            raise UserError("obs:// and s3:// need Huawei's MoXing, which only ModelArts' images have; elsewhere give "
                            "local folders as data_url, train_url and checkpoint_url") from None
        moxing = None
    except Exception:  # an unrelated package may fail in any way
        moxing = None
    if moxing is None or not hasattr(getattr(moxing, "file", None), "copy_parallel"):
        raise UserError("the package moxing that is installed here is not Huawei's MoXing, but an unrelated one from "
                        "PyPI; pip uninstall moxing, and use an image of ModelArts, which has the right one")
    return moxing


@dataclass(frozen=True)
class Storage:
    """Copies to and from the object storage. A copy that fails is tried again after a while.

    Args:
        tries: number of tries in all.
        wait_seconds: time before the second try; it doubles before each further one.
        sleep: waits for some seconds.
    """

    tries: int = 5
    wait_seconds: float = 5.0
    sleep: Callable[[float], None] = time.sleep

    def exists(self, url: str) -> bool:
        """Whether there is a file or folder of that URL.

        Raises:
            UserError: the storage did not answer.
        """
        return bool(self._try(f"cannot look for {url}", lambda file: file.exists(url)))

    def copy_file(self, source: str, target: str) -> None:
        """Copy one file.

        Raises:
            UserError: all tries failed.
        """
        self._try(f"cannot copy {source} to {target}", lambda file: file.copy(source, target))

    def copy_folder(self, source: str, target: str) -> bool:
        """Copy what is in a folder; returns False if there is no file in it.

        Raises:
            UserError: all tries failed.
        """
        # Huawei advises one thread of this process, against copies that hang or break off.
        return self._try(f"cannot copy {source} to {target}", lambda file: file.copy_parallel(
            source, target, threads=0, is_processing=False)) is not NOTHING

    def _try(self, fault: str, call: Callable[[ModuleType], object]) -> object:
        file = load_moxing().file
        for left in range(self.tries - 1, -1, -1):
            try:
                return call(file)
            except Exception as error:  # MoXing documents none of its exceptions
                if NOTHING_THERE.lower() in str(error).lower():
                    return NOTHING
                reason = harmless(error)
                if not left or getattr(error, "errno", None) == errno.ENOSPC:
                    raise UserError(f"{fault}: {reason}" + ("" if left else f"; tried {self.tries} times")) from error
                seconds = min(LONGEST_WAIT, self.wait_seconds * 2 ** (self.tries - 1 - left))
                logger.info(f"{fault}: {reason}; trying again in {seconds:g} seconds")
                self.sleep(seconds)
        raise AssertionError("not reached")


def harmless(error: BaseException) -> str:
    """The first line of an error's text; parts that look like a key or password are masked."""
    return SECRET.sub(r"\1***", first_line(error))
