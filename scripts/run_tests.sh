#!/usr/bin/env bash
# Set up as quickstart.sh does, then lint, check types and run every test. Options go to pytest.
#
#   bash scripts/run_tests.sh [PYTEST_OPTION ...]
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

use_environment requirements.txt requirements-dev.txt
cd "$ROOT"
ruff check .
mypy
exec python -m pytest "$@"
