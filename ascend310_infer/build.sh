#!/usr/bin/env bash
# Build infer310 against MindSpore Lite.
#
#   LITE_HOME=/path/to/mindspore-lite bash ascend310_infer/build.sh [BUILD_FOLDER]
#
# The program is then BUILD_FOLDER/infer310 (default: ascend310_infer/build).
set -euo pipefail

fail() {
    echo "error: $*" >&2
    exit 2
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
build=${1:-$here/build}
lite=${LITE_HOME:-${MS_LITE_HOME:-}}
[ -n "$lite" ] || fail "set LITE_HOME to the folder of MindSpore Lite (the older name MS_LITE_HOME will do)"
[ -d "$lite" ] || fail "LITE_HOME=$lite: no such folder"
for tool in cmake make "${CXX:-c++}"; do
    command -v "$tool" >/dev/null || fail "$tool not found; on Debian and Ubuntu: apt-get install cmake g++ make"
done

mkdir -p "$build"
log=$build/build.log
{ cmake -S "$here" -B "$build" -DLITE_HOME="$(cd "$lite" && pwd)" && cmake --build "$build"; } >"$log" 2>&1 || {
    cat "$log" >&2
    fail "infer310 could not be built; see $log"
}
grep '^-- preprocessing' "$log" || true
echo "$build/infer310"
