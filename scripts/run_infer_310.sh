#!/usr/bin/env bash
# Accuracy of a MINDIR on an Ascend 310: build the program, run it over a folder of images, count. run_infer_cpp.sh calls
# it, too.
set -euo pipefail
USAGE='usage:
  bash run_infer_310.sh MINDIR DATA LABEL {DVPP,CPU} [DEVICE_ID]
DATA: a folder of images; LABEL: their classes, of tools/make_label_file.py. DVPP or CPU prepares the images.
Environment: LITE_HOME (or MS_LITE_HOME), the folder of MindSpore Lite; DEVICE_TYPE=CPU or GPU computes without an Ascend;
BUILD_FOLDER (default ascend310_infer/build). Writes ./result_Files, ./infer.log and ./acc.log; earlier ones are moved aside.'
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() {
    echo "error: $*" >&2
    exit 2
}

wrong_usage() {
    printf 'error: %s\n%s\n' "$1" "$USAGE" >&2
    exit 2
}

# ---- arguments
[ $# -ge 4 ] || wrong_usage "MINDIR, DATA, LABEL and DVPP or CPU are needed"
[ $# -le 5 ] || wrong_usage "too many arguments: ${*:6}"
[ -f "$1" ] || fail "$1: no such MINDIR file"
[ -d "$2" ] || fail "$2: no such folder of images"
[ -f "$3" ] || fail "$3: no such label file"
preprocess=${4^^}
[ "$preprocess" = DVPP ] || [ "$preprocess" = CPU ] || wrong_usage "images are prepared by DVPP or CPU, not '$4'"
[[ ${5:-0} =~ ^[0-9]{1,3}$ ]] || wrong_usage "DEVICE_ID must be a whole number, not '$5'"
device=${DEVICE_TYPE:-Ascend}
[[ $device =~ ^(Ascend|GPU|CPU)$ ]] || fail "DEVICE_TYPE must be Ascend, GPU or CPU, not '$device'"
[ "$device" = Ascend ] || [ "$preprocess" = CPU ] ||
    fail "DVPP is a part of Ascend; with DEVICE_TYPE=$device the images are prepared by CPU"
lite=${LITE_HOME:-${MS_LITE_HOME:-}}

# ---- build
build=${BUILD_FOLDER:-$ROOT/ascend310_infer/build}
bash "$ROOT/ascend310_infer/build.sh" "$build"

# ---- run
for old in result_Files acc.log; do
    [ ! -e "$old" ] || mv -- "$old" "$old-earlier-$(date +%Y%m%d-%H%M%S-%N)"
done
aipp=()
[ "$preprocess" != DVPP ] || aipp=(--aipp "$ROOT/src/aipp.cfg")
for libraries in "$lite/runtime/lib" "$lite/lib" "$lite/mindspore_lite/lib"; do
    [ ! -d "$libraries" ] || LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
done
export LD_LIBRARY_PATH
status=0
"$build/infer310" --model "$1" --data "$2" --output result_Files --device "$device" --device_id "${5:-0}" \
    --preprocess "$preprocess" "${aipp[@]}" >infer.log 2>&1 || status=$?
grep -v '^\[\(WARNING\|INFO\)\]' infer.log || true
[ "$status" -eq 0 ] || {
    echo "error: infer310 ended with status $status; see $PWD/infer.log" >&2
    exit "$status"
}

# ---- count
python "$ROOT/postprocess.py" --result_path result_Files --label_path "$3" >acc.log.part || {
    status=$?
    rm -f acc.log.part
    exit "$status"
}
mv acc.log.part acc.log
cat acc.log
