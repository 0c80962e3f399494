"""Waits for the rank table of ModelArts."""
import os
import time
from collections.abc import Callable
from pathlib import Path

from src.errors import UserError
from src.json_records import read_json
from src.modelarts.lock import wait_until

RANK_TABLE_NAME = "jobstart_hccl.json"


def await_rank_table(seconds: float, sleep: Callable[[float], None] = time.sleep) -> None:
    """If RANK_TABLE_FILE is a folder, as in custom images, wait for the table in it and set the variable to the table.

    Raises:
        UserError: the table was not complete within `seconds`.
    """
    folder = os.environ.get("RANK_TABLE_FILE", "")
    if not Path(folder).is_dir() or not folder:
        return
    table = Path(folder) / RANK_TABLE_NAME
    if not wait_until(lambda: _is_completed(table), seconds, sleep, f"{table} to be complete"):
        raise UserError(f"{table}: the platform did not complete this rank table within {seconds:g} seconds")
    os.environ["RANK_TABLE_FILE"] = str(table)


def _is_completed(table: Path) -> bool:
    try:
        found = read_json(table)
    except UserError:  # missing, or not yet complete
        return False
    return isinstance(found, dict) and found.get("status") == "completed"
