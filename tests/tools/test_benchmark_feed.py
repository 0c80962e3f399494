"""The benchmark of the feed measures each of its parts; what it finds depends on the machine."""
import json

import pytest

from tools.benchmark_feed import main


def test_every_part_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--images", "40", "--batch_size", "2", "--image_size", "32", "--step_seconds", "0"])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["images"] == 40
    for start in ("first", "second"):
        assert set(report[start]) == {"list_s", "check_s", "hash_s", "first_batch_s", "bytes_per_image"}
        assert min(value for name, value in report[start].items() if name.endswith("_s")) >= 0
    assert report["epochs"]["longest_wait_for_other_s"] >= report["epochs"]["median_wait_for_other_s"] >= 0
    assert report["resume"]["read_s"] > 0
