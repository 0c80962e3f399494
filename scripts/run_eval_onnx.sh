#!/usr/bin/env bash
# Score an ONNX file on a folder of images, and wait until it is done: eval_onnx.py.
set -euo pipefail
USAGE='  bash run_eval_onnx.sh {GPU,CPU} [CONFIG] DATASET ONNX
CONFIG is a .yaml file. Log: ./eval_onnx.log.'
. "$(dirname "${BASH_SOURCE[0]}")/launch_util.sh"

split_arguments "$@"
set -- "${ARGUMENTS[@]}"
[ $# -eq 2 ] || wrong_usage "DATASET and ONNX are needed, not $# arguments"
dataset=$(absolute_folder "data set" "$1")
model=$(absolute_file "ONNX file" "$2")
DEVICES='' FROM_RANK_TABLE='' LOCAL_RANKS=1
check_machines
check_tools
RUN_ARGUMENTS=(--platform "$PLATFORM" ${CONFIG:+--config_path "$CONFIG"} --dataset_path "$dataset" --file_name "$model"
    "${OPTIONS[@]}")
launch eval_onnx "$ROOT/eval_onnx.py"
grep '^accuracy:' "$LOG" || true
