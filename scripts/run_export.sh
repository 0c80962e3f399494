#!/usr/bin/env bash
# Write a checkpoint as a file for deployment: export.py, in the words of MindSpore's model zoo.
set -euo pipefail
USAGE='  bash run_export.sh {Ascend,GPU,CPU} [CONFIG] CKPT FORMAT FILE
CONFIG is a .yaml file; FORMAT as in MINDIR or ONNX. Options of export.py (--key value) may follow.'
. "$(dirname "${BASH_SOURCE[0]}")/launch_util.sh"
ENVIRONMENT_HELP='It runs in the foreground, without a log.'

split_arguments "$@"
set -- "${ARGUMENTS[@]}"
[ $# -eq 3 ] || wrong_usage "CKPT, FORMAT and FILE are needed, not $# arguments"
ckpt=$(checkpoint_or_name "$1")
LOCAL_RANKS=1
check_machines
check_tools
exec "$PYTHON" "$ROOT/export.py" --platform "$PLATFORM" ${CONFIG:+--config_path "$CONFIG"} --ckpt_file "$ckpt" \
    --file_format "$2" --file_name "$3" "${OPTIONS[@]}"
