"""The folder for files that can be made again: built kernels, features of a frozen backbone."""
import contextlib
import getpass
import os
import tempfile
from pathlib import Path


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def cache_folder(name: str) -> Path:
    """The existing, writable cache folder for one subject.

    It is in `$MOBILENETV2_CACHE`, else in `$XDG_CACHE_HOME/mobilenetv2-mindspore`, else in
    `~/.cache/mobilenetv2-mindspore`. If that is not writable, it is a private folder of the user in the directory for
    temporary files.

    Args:
        name: the subject, a relative path such as "kernels".

    Raises:
        OSError: the private folder is not writable either, or belongs to another user.
    """
    given = os.environ.get("MOBILENETV2_CACHE")
    root = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "mobilenetv2-mindspore"
    with contextlib.suppress(RuntimeError):  # of expanduser: a user without a home, as in many containers
        folder = root.expanduser() / name
        if _writable(folder):
            return folder
    private = Path(tempfile.gettempdir()) / f"mobilenetv2-mindspore-{_user()}"
    private.mkdir(mode=0o700, exist_ok=True)
    if private.is_symlink() or private.stat().st_uid != os.getuid():
        raise PermissionError(f"{private} belongs to someone else; set MOBILENETV2_CACHE to a folder of your own")
    folder = private / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in many containers
        return str(os.getuid())
