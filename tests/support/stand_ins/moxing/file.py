"""The calls of moxing.file that this project uses, as Huawei documents them."""
import json
import os
import shutil
import time
from pathlib import Path


def exists(url: str) -> bool:
    _record("exists", url)
    return _path(url).exists()


def copy(src_url: str, dst_url: str) -> None:
    _record("copy", src_url, dst_url)
    _path(dst_url).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_path(src_url), _path(dst_url))


def copy_parallel(src_url: str, dst_url: str, file_list: object = None, threads: int = 16,
                  is_processing: bool = True) -> None:
    _record("copy_parallel", src_url, dst_url, threads=threads, is_processing=is_processing)
    source = _path(src_url)
    files = [path for path in sorted(source.rglob("*")) if path.is_file()]
    if not files:
        raise ValueError("No files to copy")
    for path in files:
        target = _path(dst_url) / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _path(url: str) -> Path:
    scheme, found, rest = url.partition("://")
    return Path(os.environ["MOXING_STORAGE"]) / rest if found and scheme in {"obs", "s3"} else Path(url)


def _record(call: str, *urls: str, **options: object) -> None:
    storage = Path(os.environ["MOXING_STORAGE"])
    with (storage / ".calls").open("a", encoding="utf-8") as calls:
        calls.write(json.dumps({"call": call, "urls": urls, "pid": os.getpid(), **options}) + "\n")
    faults_file = storage / ".faults.json"
    if not faults_file.exists():
        return
    faults = json.loads(faults_file.read_text(encoding="utf-8"))
    for fault in faults:
        if fault["match"] in " ".join((call, *urls)) and fault["times"]:
            fault["times"] -= fault["times"] > 0
            faults_file.write_text(json.dumps(faults), encoding="utf-8")
            time.sleep(fault.get("seconds", 0))
            if "errno" in fault:
                raise OSError(fault["errno"], fault["error"])
            if "error" in fault:
                raise RuntimeError(fault["error"])
