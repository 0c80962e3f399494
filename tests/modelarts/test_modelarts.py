"""What happens around a job on ModelArts: copies before and after it, whatever goes wrong. The job itself is small."""
import errno
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, assert_one_clear_line

from src.errors import UserError
from src.modelarts.inputs import _first_existing
from tests.support.modelarts_tools import RAISE, REFUSE, WAIT, Platform, ended, kill, wait_for

DATA, OUT = "obs://bucket/data", "obs://bucket/out"
IMAGES = ("train/cat/0.jpg", "train/dog/0.jpg", "val/cat/0.jpg")


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    """A platform with a few files that look like images."""
    made = Platform(tmp_path)
    write_images(made.storage / "bucket" / "data")
    return made


def write_images(root: Path) -> None:
    for name in IMAGES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def write_zip(path: Path, names: tuple[str, ...] = IMAGES) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, name)
    return path


def assert_done(run: subprocess.CompletedProcess) -> None:
    assert run.returncode == 0, run.stderr
    assert "images " + " ".join(IMAGES) in run.stdout


# ---- a job that goes well

def test_old_job_copies_and_uploads(platform: Platform) -> None:
    run = platform.run(platform.program, *platform.options(data_url=DATA, train_url=OUT), "--num_gpus=8",
                       "--security_token=hush", "--vendor_key", "hush")
    assert_done(run)
    assert platform.stored("bucket/out") == ["checkpoint/made-by-0.ckpt", "program.log"]
    assert all((call["threads"], call["is_processing"]) == (0, False) for call in platform.calls())
    log = (platform.storage / "bucket/out/program.log").read_text()
    assert "copying obs://bucket/data" in log
    assert "images train/cat/0.jpg" in log
    for name in ("--num_gpus", "--security_token", "--vendor_key"):
        assert f"{name}: not an option of this program, passed over" in run.stdout
    assert "hush" not in run.stdout + run.stderr + log


def test_new_job_works_in_place(platform: Platform) -> None:
    data, out = platform.storage / "bucket/data", platform.folder / "outputs/train_url_0"
    run = platform.run(platform.program, *platform.options(), data_url=data, train_url=out)  # the environment's
    assert_done(run)
    assert f"dataset_path {data}" in run.stdout
    assert sorted(path.name for path in out.rglob("*") if path.is_file()) == ["made-by-0.ckpt", "program.log"]
    assert platform.calls() == []
    assert not (platform.machine / "data").exists()
    again = platform.run(platform.program, *platform.options(), data_url=data, train_url=out)
    assert "earlier made-by-0.ckpt" in again.stdout


def test_local_data_are_copied_when_asked(platform: Platform) -> None:
    run = platform.run(platform.program, *platform.options(
        data_url=platform.storage / "bucket/data", train_url=platform.folder / "out", copy_local=True))
    assert_done(run)
    assert f"dataset_path {platform.machine / 'data'}" in run.stdout


def test_restarted_job_gets_its_earlier_output(platform: Platform) -> None:
    earlier = platform.storage / "bucket/out/checkpoint"
    earlier.mkdir(parents=True)
    (earlier / "mobilenetv2-3_7.ckpt").write_text("earlier")
    run = platform.run(platform.program, *platform.options(data_url=DATA, train_url=OUT))
    assert_done(run)
    assert "earlier mobilenetv2-3_7.ckpt" in run.stdout
    assert platform.stored("bucket/out/checkpoint") == ["made-by-0.ckpt", "mobilenetv2-3_7.ckpt"]
    shutil.rmtree(platform.machine / "train")
    run = platform.run(platform.program, *platform.options(data_url=DATA, train_url=OUT, resume="never"))
    assert "earlier mobilenetv2" not in run.stdout


def test_same_job_on_the_same_machine_keeps_what_was_never_uploaded(platform: Platform) -> None:
    options = platform.options(data_url=DATA, train_url=OUT, seed=WAIT)
    process = platform.start(platform.program, *options)
    wait_for(platform.machine / "train/checkpoint/waiting-0", process)
    kill(process)
    assert platform.uploads() == []
    run = platform.run(platform.program, *platform.options(data_url=DATA, train_url=OUT))
    assert_done(run)
    assert "earlier made-by-0.ckpt waiting-0" in run.stdout
    assert platform.stored("bucket/out/checkpoint") == ["made-by-0.ckpt", "waiting-0"]


def test_another_jobs_leftovers_are_set_aside(platform: Platform) -> None:
    """They must get neither into the data set nor into the upload."""
    for folder in ("data/train/stranger", "train/checkpoint"):
        (platform.machine / folder).mkdir(parents=True)
        (platform.machine / folder / "9.jpg").touch()
    run = platform.run(platform.program, *platform.options(data_url=DATA, train_url=OUT))
    assert_done(run)
    assert platform.stored("bucket/out") == ["checkpoint/made-by-0.ckpt", "program.log"]
    assert len(list(platform.machine.glob("*-earlier-*/**/9.jpg"))) == 2


@pytest.mark.parametrize(("path", "found"), [("train", "data/train"), ("", "data")])
def test_relative_dataset_path_is_one_in_the_data(platform: Platform, path: str, found: str) -> None:
    run = platform.run(platform.program, *platform.options(data_url=DATA, train_url=OUT, dataset_path=path))
    assert f"dataset_path {platform.machine / found} " in run.stdout


def test_wrong_paths_are_one_line(platform: Platform) -> None:
    run = platform.run(platform.program, *platform.options(data_url=DATA, train_url=OUT, dataset_path="trian"))
    assert_one_clear_line(run, "dataset_path trian: not found in", str(platform.machine / "data"))
    run = platform.run(platform.program, *platform.options(
        data_url=DATA, train_url=OUT, save_checkpoint_path="/elsewhere/checkpoint"))
    assert_one_clear_line(run, "save_checkpoint_path is /elsewhere/checkpoint, which nobody uploads")
    run = platform.run(platform.program, *platform.options(data_url="/not/there", train_url=OUT))
    assert_one_clear_line(run, "data_url /not/there: no such file or folder")


def test_config_path_is_found_beside_the_program(platform: Platform) -> None:
    """ModelArts does not start a job in its code folder."""
    options = platform.options(data_url=DATA, train_url=OUT, config_path="default_config_cpu.yaml")
    assert_done(platform.run(platform.program, *options))
    options = platform.options(data_url=DATA, train_url=OUT, config_path="none.yaml")
    assert_one_clear_line(platform.run(platform.program, *options), "none.yaml: cannot read this configuration file")


# ---- checkpoints to start from

def test_published_weights_are_no_file_of_the_job(tmp_path: Path) -> None:
    assert _first_existing([tmp_path], "imagenet", "pretrain_ckpt") == Path("imagenet")
    with pytest.raises(UserError, match=r"pretrain_ckpt net\.ckpt: not found in"):
        _first_existing([tmp_path], "net.ckpt", "pretrain_ckpt")


def test_checkpoint_url_is_a_file_or_a_folder_with_one(platform: Platform) -> None:
    bucket = platform.storage / "bucket/start"
    bucket.mkdir()
    (bucket / "best.ckpt").write_text("weights")
    (bucket / "best.json").write_text("{}")

    def pretrained(url: str, **options: str) -> subprocess.CompletedProcess:
        return platform.run(platform.program, *platform.options(train_url=OUT, checkpoint_url=url, **options))

    for url, options in (("obs://bucket/start", {}), ("s3://bucket/start/best.ckpt", {}),
                         ("obs://bucket/start/", {"pretrain_ckpt": "best.ckpt"})):
        run = pretrained(url, **options)
        assert f"pretrain_ckpt {platform.machine / 'load/best.ckpt'}\n" in run.stdout, run.stderr
        assert (platform.machine / "load/best.json").exists()
        shutil.rmtree(platform.machine / "load")
    assert f"pretrain_ckpt {bucket / 'best.ckpt'}\n" in pretrained(str(bucket)).stdout
    assert f"pretrain_ckpt {bucket / 'best.ckpt'}\n" in pretrained(str(bucket / "best.ckpt")).stdout
    (bucket / "best.mindir").write_text("model")
    (bucket / "best.mindir.json").write_text("{}")
    run = pretrained("obs://bucket/start/best.mindir")
    assert f"pretrain_ckpt {platform.machine / 'load/best.mindir'}\n" in run.stdout, run.stderr
    assert (platform.machine / "load/best.mindir.json").exists()
    (bucket / "other.ckpt").write_text("weights")
    assert f"pretrain_ckpt {bucket / 'best.ckpt'}\n" in pretrained(str(bucket)).stdout
    (bucket / "best.ckpt").rename(bucket / "third.ckpt")
    assert_one_clear_line(pretrained(str(bucket)), "has 2 models; name one with --pretrain_ckpt")
    assert_one_clear_line(pretrained(str(bucket), pretrain_ckpt="none.ckpt"), "pretrain_ckpt none.ckpt: not found in")


def test_a_teacher_comes_with_the_checkpoints(platform: Platform) -> None:
    bucket, load = platform.storage / "bucket/start", platform.machine / "load"
    bucket.mkdir()
    (bucket / "teacher.ckpt").write_text("weights")

    def told(url: str, **options: str) -> str:
        run = platform.run(platform.program, *platform.options(train_url=OUT, checkpoint_url=url, **options))
        return run.stdout if run.returncode == 0 else run.stderr

    for url in "obs://bucket/start", "obs://bucket/start/teacher.ckpt":  # the student has new weights
        assert f"pretrain_ckpt \nkd_teacher {load / 'teacher.ckpt'}\n" in told(url, kd_teacher="teacher.ckpt")
        shutil.rmtree(load)
    (bucket / "start.ckpt").write_text("weights")
    assert f"pretrain_ckpt {bucket / 'start.ckpt'}\nkd_teacher {bucket / 'teacher.ckpt'}\n" in told(
        str(bucket), kd_teacher="teacher.ckpt")
    assert "kd_teacher none.ckpt: not found in" in told(str(bucket), kd_teacher="none.ckpt", pretrain_ckpt="start.ckpt")


# ---- copies that fail

def test_copy_that_fails_twice_is_tried_again(platform: Platform) -> None:
    platform.fail("copy_parallel obs://bucket/data", times=2, error="Broken pipe, access_key=hush")
    run = platform.run(platform.program, *platform.options(data_url=DATA, train_url=OUT))
    assert_done(run)
    assert run.stdout.count("Broken pipe, access_key=***; trying again in 0 seconds") == 2
    assert "hush" not in run.stdout
    assert "made-by-0.ckpt" in platform.stored("bucket/out")[0]


def test_copy_that_fails_for_good(platform: Platform) -> None:
    platform.fail("copy_parallel obs://bucket/data", error="Connection reset")
    run = platform.run(platform.program, *platform.options(data_url=DATA, train_url=OUT, copy_tries=3))
    assert_one_clear_line(run, "cannot copy obs://bucket/data", "Connection reset; tried 3 times")
    assert platform.stored("bucket/out") == ["program.log"]
    assert "error: cannot copy" in (platform.storage / "bucket/out/program.log").read_text()


def test_upload_that_fails_for_good_keeps_the_output(platform: Platform) -> None:
    platform.fail("copy_parallel /", error="Connection reset")
    run = platform.run(platform.program, *platform.options(data_url=DATA, train_url=OUT, copy_tries=2))
    assert_one_clear_line(run, "the output could not be uploaded and is still in", str(platform.machine / "train"))
    assert (platform.machine / "train/checkpoint/made-by-0.ckpt").read_text() == "whole"


def test_missing_data_is_refused(platform: Platform) -> None:
    run = platform.run(platform.program, *platform.options(data_url="obs://bucket/none", train_url=OUT))
    assert_one_clear_line(run, "obs://bucket/none: no such file or folder in the storage")
    (platform.storage / "bucket/empty").mkdir()
    run = platform.run(platform.program, *platform.options(data_url="obs://bucket/empty", train_url=OUT))
    assert_one_clear_line(run, "obs://bucket/empty: there is no file in this folder")


def test_earlier_output_that_is_empty_is_none(platform: Platform) -> None:
    (platform.storage / "bucket/out").mkdir()
    assert_done(platform.run(platform.program, *platform.options(data_url=DATA, train_url=OUT)))


# ---- runs that fail

def test_output_is_uploaded_after_an_exception(platform: Platform) -> None:
    run = platform.run(platform.program, *platform.options(data_url=DATA, train_url=OUT, seed=RAISE))
    assert run.returncode == 1
    assert "ValueError: the network fell over" in run.stderr
    assert platform.stored("bucket/out") == ["checkpoint/made-by-0.ckpt", "program.log"]
    assert "ValueError: the network fell over" in (platform.storage / "bucket/out/program.log").read_text()


def test_both_faults_are_told_when_the_upload_fails_too(platform: Platform) -> None:
    platform.fail("copy_parallel /", error="Connection reset")
    run = platform.run(platform.program, *platform.options(data_url=DATA, train_url=OUT, seed=REFUSE))
    assert run.returncode == 2
    assert [line.partition(":")[2].partition(" ")[2][:25] for line in run.stderr.splitlines()] == [
        "the output could not be u", "the images are bad"]


def test_output_is_uploaded_after_sigterm(platform: Platform) -> None:
    process = platform.start(platform.program, *platform.options(data_url=DATA, train_url=OUT, seed=WAIT))
    wait_for(platform.machine / "train/checkpoint/waiting-0", process)
    process.send_signal(signal.SIGTERM)
    assert ended(process).returncode == 143
    assert platform.stored("bucket/out") == ["checkpoint/made-by-0.ckpt", "checkpoint/waiting-0", "program.log"]


def test_sigterm_during_the_upload_waits_for_it(platform: Platform) -> None:
    platform.fail("copy_parallel /", seconds=3)
    process = platform.start(platform.program, *platform.options(data_url=DATA, train_url=OUT))
    assert process.stdout
    while not platform.uploads():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    run = ended(process)
    assert (run.returncode, "as soon as the output is uploaded" in run.stderr) == (0, True)
    assert platform.stored("bucket/out") == ["checkpoint/made-by-0.ckpt", "program.log"]


def test_a_second_sigterm_does_not_cut_the_upload_off() -> None:
    """Where a job waits to upload, the step is finished however often the platform asks; elsewhere two are enough."""
    code = ("import os, signal, sys\nfrom src.training.signals import StopRequest\n"
            "if sys.argv[1] == 'job': signal.signal(signal.SIGTERM, lambda *_: None)\n"
            "with StopRequest() as stop:\n"
            "    for _ in range(3): os.kill(os.getpid(), signal.SIGTERM)\n"
            "    print('step finished', stop.is_wanted, flush=True)\n")
    found = [subprocess.run([sys.executable, "-c", code, where], cwd=ROOT, capture_output=True, text=True, check=False)
             for where in ("job", "elsewhere")]
    assert [(run.returncode, run.stdout) for run in found] == [(0, "step finished True\n"), (143, "")]


def test_a_folder_that_cannot_be_made_is_one_line(platform: Platform) -> None:
    (platform.machine / "file").touch()
    for key in ("data_path", "output_path"):
        options = platform.options(**{"data_url": DATA, "train_url": OUT, key: platform.machine / "file/x"})
        assert_one_clear_line(platform.run(platform.program, *options), str(platform.machine / "file"))


# ---- several processes on a machine, as old jobs start them

def start_rank(platform: Platform, rank: int, count: int, **options: object) -> subprocess.Popen:
    return platform.start(platform.program, *platform.options(data_url=DATA, train_url=OUT, **options),
                          RANK_ID=rank, RANK_SIZE=count, ASCEND_DEVICE_ID=rank)


def start_ranks(platform: Platform, count: int, **options: object) -> list[subprocess.Popen]:
    return [start_rank(platform, rank, count, **options) for rank in range(count)]


def test_one_process_of_a_machine_copies(platform: Platform) -> None:
    platform.fail("copy_parallel obs://bucket/data", seconds=1)  # long enough for the others to come
    for process in start_ranks(platform, 4):
        assert_done(ended(process))
    assert len([call for call in platform.calls() if call["urls"][0] == DATA]) == 1
    assert len(platform.uploads()) == 1
    assert platform.stored("bucket/out") == sorted(
        [f"checkpoint/made-by-{rank}.ckpt" for rank in range(4)]
        + ["program.log", *(f"program-rank{rank}.log" for rank in range(1, 4))])


def test_copy_that_fails_for_good_fails_for_all_at_once(platform: Platform) -> None:
    platform.fail("copy_parallel obs://bucket/data", error="Connection reset", seconds=0.5)
    for process in start_ranks(platform, 3, copy_tries=2):
        assert_one_clear_line(ended(process), "Connection reset; tried 2 times")
    assert len([call for call in platform.calls() if call["urls"][0] == DATA]) == 2


def test_the_lock_dies_with_its_owner(platform: Platform) -> None:
    """The one that copies is killed: another one copies."""
    platform.fail("copy_parallel obs://bucket/data", times=1, seconds=60)
    first = start_rank(platform, 0, 2)
    while not [call for call in platform.calls() if call["urls"][0] == DATA]:
        assert first.poll() is None
    second = start_rank(platform, 1, 2)
    kill(first)
    assert_done(ended(second))
    assert len(platform.uploads()) == 1  # by the second, in the place of the first


def test_stale_lock_files_make_nobody_skip(platform: Platform) -> None:
    assert_done(platform.run(platform.program, *platform.options(data_url=DATA, train_url=OUT)))
    assert list((platform.machine / "tmp").glob("*.notes"))
    (platform.storage / "bucket/data/train/cat/0.jpg").rename(platform.storage / "bucket/data/train/cat/1.jpg")
    shutil.rmtree(platform.machine / "data")
    run = platform.run(platform.program, *platform.options(data_url=DATA, train_url=OUT))
    assert "images train/cat/1.jpg" in run.stdout
    assert len(platform.uploads()) == 2


def test_waiting_has_an_end(platform: Platform) -> None:
    platform.fail("copy_parallel obs://bucket/data", times=1, seconds=60)
    first = start_rank(platform, 0, 2)
    while not [call for call in platform.calls() if call["urls"][0] == DATA]:
        assert first.poll() is None
    try:
        assert_one_clear_line(ended(start_rank(platform, 1, 2, copy_wait_seconds=0.5)),
                              "waited 0.5 seconds for another process of this job to fetch its data")
    finally:
        kill(first)


def test_two_jobs_on_one_machine(platform: Platform) -> None:
    """Each copies for itself; in one folder they are not let."""
    options = {"data_url": DATA, "seed": WAIT}
    first = platform.start(platform.program, *platform.options(train_url=OUT, **options))
    wait_for(platform.machine / "train/checkpoint/waiting-0", first)
    other = platform.options(train_url="obs://bucket/out2", data_url=DATA, output_path=platform.machine / "train2")
    assert_one_clear_line(platform.run(platform.program, *other, MA_VJ_NAME="job-2"),
                          str(platform.machine / "data"), "another job on this machine is using this folder")
    assert_done(platform.run(platform.program, *other[:1], *(
        word.replace("/data", "/data2") if word.startswith("--data_path") else word for word in other[1:]),
        MA_VJ_NAME="job-2"))
    first.send_signal(signal.SIGTERM)
    assert ended(first).returncode == 143
    assert "checkpoint/waiting-0" in platform.stored("bucket/out")
    assert "checkpoint/made-by-0.ckpt" in platform.stored("bucket/out2")


def test_second_machine_uploads_its_logs_alone(platform: Platform) -> None:
    """Earlier checkpoints on it would be uploaded over the new ones of the first."""
    earlier = platform.storage / "bucket/out/checkpoint"
    earlier.mkdir(parents=True)
    (earlier / "last.ckpt").write_text("earlier")
    run = platform.run(platform.program, *platform.options(data_url=DATA, train_url=OUT), RANK_ID="1", RANK_SIZE="2",
                       MA_NUM_HOSTS="2")
    assert_done(run)
    assert "earlier last.ckpt" not in run.stdout
    assert platform.stored("bucket/out") == ["checkpoint/last.ckpt", "checkpoint/made-by-1.ckpt", "program-rank1.log"]


# ---- zip files

@pytest.mark.parametrize("root", ["", "photos/", "anything/"])
def test_zip_with_and_without_a_root_folder(platform: Platform, root: str) -> None:
    write_zip(platform.storage / "bucket/zipped/photos.zip", tuple(root + name for name in IMAGES))
    run = platform.run(platform.program, *platform.options(
        data_url="obs://bucket/zipped", train_url=OUT, need_modelarts_dataset_unzip=True,
        modelarts_dataset_unzip_name="photos"))
    assert_done(run)
    assert f"dataset_path {platform.machine / 'data/photos'} " in run.stdout
    assert sorted(path.name for path in (platform.machine / "data").iterdir()) == [".photos.unpacked", "photos",
                                                                                  "photos.zip"]


def test_zip_named_by_its_url_or_in_a_local_folder(platform: Platform) -> None:
    archive = write_zip(platform.storage / "bucket/zipped/photos.zip")
    assert_done(platform.run(platform.program, *platform.options(data_url="obs://bucket/zipped/photos.zip",
                                                                 train_url=OUT)))
    for url, options in ((archive, {}), (archive.parent, {"need_modelarts_dataset_unzip": True})):
        run = platform.run(platform.program, *platform.options(data_url=url, train_url=OUT, **options))
        assert_done(run)
        assert f"dataset_path {platform.machine / 'data/photos'} " in run.stdout
    assert [path.name for path in archive.parent.iterdir()] == ["photos.zip"]


def test_killed_while_unpacking_leaves_no_half(platform: Platform) -> None:
    """What a killed process left is not taken for the data set."""
    archive = write_zip(platform.storage / "bucket/zipped/photos.zip",
                        (*IMAGES, *(f"train/cat/{number}.bmp" for number in range(20000))))
    options = platform.options(data_url="obs://bucket/zipped/photos.zip", train_url=OUT)
    half = platform.machine / "data/.photos.unfinished"
    process = platform.start(platform.program, *options)
    wait_for(half / "train/cat", process)
    kill(process)
    assert (half.exists(), (platform.machine / "data/photos").exists()) == (True, False)
    write_zip(archive)
    assert_done(platform.run(platform.program, *options))
    assert not half.exists()
    assert not list((platform.machine / "data/photos").rglob("*.bmp"))


def test_zip_beside_a_folder_of_its_name(platform: Platform) -> None:
    write_zip(platform.storage / "bucket/data/train.zip")
    run = platform.run(platform.program, *platform.options(data_url=DATA, train_url=OUT,
                                                           need_modelarts_dataset_unzip=True))
    assert_one_clear_line(run, "the data have both this folder and train.zip")
    assert (platform.machine / "data/train/cat/0.jpg").exists()


def test_bad_zips_are_one_line_and_the_log_is_uploaded(platform: Platform) -> None:
    write_zip(platform.storage / "bucket/zipped/bad.zip", ("../outside.jpg",))
    run = platform.run(platform.program, *platform.options(data_url="obs://bucket/zipped/bad.zip", train_url=OUT))
    assert_one_clear_line(run, "bad.zip", "'../outside.jpg' in it would be written outside")
    assert platform.stored("bucket/out") == ["program.log"]
    whole = write_zip(platform.storage / "bucket/zipped/cut.zip").read_bytes()
    (platform.storage / "bucket/zipped/cut.zip").write_bytes(whole[:len(whole) // 2])
    run = platform.run(platform.program, *platform.options(data_url="obs://bucket/zipped/cut.zip", train_url=OUT))
    assert_one_clear_line(run, "cut.zip: not a whole zip file")
    assert not list(platform.machine.rglob("*.jpg"))


def test_the_zip_file_must_be_clear(platform: Platform) -> None:
    for name in ("a", "b"):
        write_zip(platform.storage / f"bucket/zipped/{name}.zip")
    options = {"data_url": "obs://bucket/zipped", "train_url": OUT, "need_modelarts_dataset_unzip": True}
    assert_one_clear_line(platform.run(platform.program, *platform.options(**options)), "has 2 zip files")
    assert_one_clear_line(platform.run(platform.program, *platform.options(
        **options, modelarts_dataset_unzip_name="c")), "has no c.zip")


# ---- a full disk

def test_zip_that_the_disk_has_no_room_for(platform: Platform, small_disk: Path) -> None:
    archive = platform.storage / "bucket/zipped/big.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("train/cat/0.jpg", bytes(2 << 20))
    run = platform.run(platform.program, *platform.options(
        data_url="obs://bucket/zipped/big.zip", train_url=OUT, data_path=small_disk / "data"))
    assert_one_clear_line(run, "unpacking big.zip takes up to 2.0 MB", "are free; choose another --data_path")
    assert [path.name for path in (small_disk / "data").rglob("*") if path.suffix != ".zip"] == [".big.unpacked"]


def test_copy_that_fills_the_disk_is_not_tried_again(platform: Platform, small_disk: Path) -> None:
    (platform.storage / "bucket/data/train/cat/big.jpg").write_bytes(bytes(2 << 20))
    run = platform.run(platform.program, *platform.options(data_url=DATA, train_url=OUT,
                                                           data_path=small_disk / "data"))
    assert_one_clear_line(run, "cannot copy obs://bucket/data", os.strerror(errno.ENOSPC))
    assert len([call for call in platform.calls() if call["urls"][0] == DATA]) == 1
    assert platform.stored("bucket/out") == ["program.log"]


def test_full_output_disk_does_not_end_the_log_or_the_run(platform: Platform, small_disk: Path) -> None:
    code = (f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
            "from pathlib import Path\nfrom src.modelarts.log import Log\n"
            f"log = Log(); log.open(Path({str(small_disk / 'x.log')!r}))\n"
            "for _ in range(300): print('x' * 10000)\nlog.close(); print('went on')")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout.endswith("went on\n"), run.stderr


# ---- MoXing

def test_without_moxing_it_is_refused(platform: Platform) -> None:
    run = platform.run(platform.program, *platform.options(data_url=DATA, train_url=platform.folder / "out"),
                       PYTHONPATH=ROOT)
    assert_one_clear_line(run, "Huawei's MoXing, which only ModelArts' images have")


@pytest.mark.parametrize("content", ["", "import llama_cpp_that_is_not_there", "1 / 0", "file = 3"])
def test_the_unrelated_package_is_told_from_moxing(platform: Platform, content: str) -> None:
    package = platform.folder / "unrelated/moxing"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(content)
    run = platform.run(platform.program, *platform.options(data_url=DATA, train_url=platform.folder / "out"),
                       PYTHONPATH=f"{package.parent}:{ROOT}")
    assert_one_clear_line(run, "not Huawei's MoXing, but an unrelated one from PyPI")


def test_nothing_of_this_happens_elsewhere(platform: Platform) -> None:
    run = platform.run(platform.program, "--save_checkpoint_path=here", "--data_url=obs://bucket/data")
    assert (run.returncode, platform.calls(), list((platform.machine / "tmp").iterdir())) == (0, [], [])
    assert (platform.machine / "here/made-by-0.ckpt").exists()
    assert_one_clear_line(platform.run(platform.program, "--num_gpus=8"), "unknown key num_gpus")


def test_msruns_scheduler_copies_nothing(platform: Platform) -> None:
    run = platform.run(platform.program, *platform.options(data_url=DATA, train_url=OUT), MS_ROLE="MS_SCHED")
    assert (run.returncode, platform.calls()) == (0, [])
