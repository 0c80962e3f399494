"""Checks an Ascend rank table before processes are started from it. It needs Python alone, so it is quick.

    python rank_table.py TABLE.json DEVICES NODE_RANK NODE_NUM SERVER_KIND

The format is that of "Configuring Distributed Environment Variables" in Huawei's documents: all numbers are strings.
"""
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# An Atlas 900/800 with 910 (A) cards has two rings of four; others (A2) may group them as they like.
RINGED = "910"
RINGED_COUNTS = (1, 2, 4, 8)
RING = 4
CARDS = {"910": 8, "A2": 8, "A3": 16}  # of a server of each kind
LONGEST = 9  # digits of a number


class RankTableError(Exception):
    """What is wrong with a rank table, in one line."""


def check_rank_table(path: Path, devices: Sequence[int], node_rank: int = 0, node_num: int = 1,
                     server_kind: str = RINGED) -> None:
    """Check that a rank table describes `node_num` servers, of which server `node_rank` has just these devices.

    Args:
        path: the JSON file.
        devices: device numbers to be used on this server, in the order of their ranks.
        node_rank: which server this is.
        node_num: number of servers.
        server_kind: one of `CARDS`. "910" has rules for how cards may be grouped, the others have none.

    Raises:
        RankTableError: it does not, or a run with it could not work.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RankTableError(f"{path}: cannot read this rank table: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise RankTableError(f"{path}: not JSON: {error}") from None
    servers = _list(_dict(table, path, "the file"), "server_list", path)
    count = table.get("server_count")
    if str(count) != str(len(servers)):
        raise RankTableError(f"{path}: server_count is {count!r}, but server_list has {len(servers)}")
    if len(servers) != node_num:
        raise RankTableError(f"{path}: describes {len(servers)} servers, but the run has {node_num}; "
                             "the number of machines is NODE_NUM")
    ranked = [_server(server, index, path, server_kind) for index, server in enumerate(servers)]
    ranks = sorted(rank for server in ranked for rank, _ in server)
    if ranks != list(range(len(ranks))):
        raise RankTableError(f"{path}: rank_id must be 0 to {len(ranks) - 1}, each once, not {_numbers(ranks)}")
    first = node_rank * len(devices)
    here = next((server for server in ranked if server[0][0] == first), None)
    if here is None or len(ranks) != node_num * len(devices):
        raise RankTableError(f"{path}: has {len(ranks)} devices, but DEVICES names {len(devices)} on each of "
                             f"{node_num} machines" if len(ranks) != node_num * len(devices) else
                             f"{path}: no server begins with rank {first}, the first of machine {node_rank}")
    if [rank for rank, _ in here] != list(range(first, first + len(here))):
        raise RankTableError(f"{path}: the ranks of one server must follow each other")
    if [device for _, device in here] != list(devices):
        raise RankTableError(f"{path}: has devices {_numbers([device for _, device in here])} in the order of their "
                             f"ranks, but DEVICES is {_numbers(devices)}; name the same")


def _server(server: object, index: int, path: Path, server_kind: str) -> list[tuple[int, int]]:
    """(rank, device) of a server's devices, sorted."""
    place = f"server {index}"
    entries = _list(_dict(server, path, place), "device", path)
    devices = []
    for entry in entries:
        device = _dict(entry, path, f"a device of {place}")
        devices.append((_number(device, "rank_id", path), _number(device, "device_id", path)))
        if not device.get("device_ip"):
            raise RankTableError(f"{path}: device {devices[-1][1]} of {place} has no device_ip")
    numbers = sorted(device for _, device in devices)
    if len(set(numbers)) != len(numbers):
        raise RankTableError(f"{path}: {place} names a device twice ({_numbers(numbers)})")
    cards = CARDS[server_kind]
    if not numbers or numbers[-1] >= cards:
        raise RankTableError(f"{path}: the devices of {place} must be 0 to {cards - 1}, not {_numbers(numbers)}"
                             + ("" if server_kind == "A3" else "; on an Atlas A3 set ATLAS=A3"))
    if server_kind == RINGED:
        one_ring = len({number // RING for number in numbers}) == 1
        if len(numbers) not in RINGED_COUNTS or (1 < len(numbers) < cards and not one_ring):
            raise RankTableError(f"{path}: devices {_numbers(numbers)} cannot work together on an Atlas 910: "
                                 "take 1, 2, 4 or 8, and 2 or 4 all of 0-3 or all of 4-7; on an Atlas A2 set ATLAS=A2")
    return sorted(devices)


def _dict(value: object, path: Path, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RankTableError(f"{path}: {place} must be a JSON object")
    return value


def _list(value: dict[str, Any], key: str, path: Path) -> list[Any]:
    found = value.get(key)
    if not isinstance(found, list) or not found:
        raise RankTableError(f"{path}: {key} is missing, or not a list with something in it")
    return found


def _number(value: dict[str, Any], key: str, path: Path) -> int:
    found = value.get(key)
    if not isinstance(found, str) or not found.isdecimal() or len(found) > LONGEST:
        raise RankTableError(f'{path}: {key} must be a number in quotes, such as "0", not {found!r}')
    return int(found)


def _numbers(values: Sequence[int]) -> str:
    return ",".join(map(str, values))


def main(argv: Sequence[str]) -> None:
    """End with status 0 for a good table; else with 2 and one line on stderr."""
    path, devices, node_rank, node_num, server_kind = argv
    try:
        if server_kind not in CARDS:
            raise RankTableError(f"ATLAS must be one of {', '.join(CARDS)}, not {server_kind!r}")
        check_rank_table(Path(path), [int(device) for device in devices.split(",")], int(node_rank), int(node_num),
                         server_kind)
    except RankTableError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main(sys.argv[1:])
