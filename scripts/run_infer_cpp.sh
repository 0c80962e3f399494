#!/usr/bin/env bash
# The command of MindSpore's model zoo for accuracy of a MINDIR by C++ on any device: run_infer_310.sh with a DEVICE_TYPE.
set -euo pipefail

if [ $# -lt 5 ] || [ $# -gt 6 ]; then
    printf 'error: 5 or 6 arguments are needed, not %s\nusage:\n%s\n' $# \
        '  bash run_infer_cpp.sh MINDIR DATA LABEL {DVPP,CPU} {Ascend,GPU,CPU} [DEVICE_ID]' >&2
    exit 2
fi
DEVICE_TYPE=$5 exec bash "$(dirname "${BASH_SOURCE[0]}")/run_infer_310.sh" "${@:1:4}" "${@:6}"
