"""No moment to kill training at costs more than the step that it was in."""
from pathlib import Path

from tests.end_to_end.kill_and_resume import run_with_kills

KILLS = 20


def test_killed_at_random_moments_it_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    killed, different = run_with_kills(tmp_path, KILLS, seed=0)
    assert killed == KILLS
    assert not different
