#!/usr/bin/env bash
# Set up as quickstart.sh does, then lint, check types and run every test. Options go to pytest.
#
#   bash scripts/run_tests.sh [--coverage] [PYTEST_OPTION ...]
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
. "$ROOT/scripts/lite_wheel.sh"

use_environment requirements.txt requirements-dev.txt requirements-compiler.txt requirements-runtimes.txt \
    requirements-serve.txt requirements-tracking.txt
use_lite
cd "$ROOT"
ruff check .
mypy
bash scripts/lint_cpp.sh
# By file: what a file has started, as several ranks, serves all its tests. One more than two processors, for ranks often
# wait for each other.
tests=(pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder)
[ "${1:-}" = --coverage ] || exec python -m "${tests[@]}" "$@"

# Which lines the tests run, in the processes that they start, too. It takes about a sixth more time.
status=0
coverage run -m "${tests[@]}" "${@:2}" || status=$?
coverage combine --quiet
coverage report
exit "$status"
