#!/usr/bin/env bash
# Score a checkpoint on a folder of images, each exactly once, and wait until it is done.
set -euo pipefail
USAGE='  bash run_eval.sh {Ascend,GPU,CPU} [CONFIG] DATASET CKPT
CONFIG is a .yaml file. Log: ./eval.log, of several processes ./eval/rank*/log*.log too.'
. "$(dirname "${BASH_SOURCE[0]}")/launch_util.sh"

split_arguments "$@"
set -- "${ARGUMENTS[@]}"
[ $# -ge 2 ] || wrong_usage "DATASET and CKPT are needed"
[ $# -eq 2 ] || wrong_usage "too many arguments: ${*:3}"
dataset=$(absolute_folder "data set" "$1")
ckpt=$(checkpoint_or_name "$2")
DEVICES='' FROM_RANK_TABLE='' LOCAL_RANKS=1
[ "$PLATFORM" != CPU ] || LOCAL_RANKS=${WORKER_NUM:-1}
check_machines
check_tools
RUN_ARGUMENTS=(--platform "$PLATFORM" ${CONFIG:+--config_path "$CONFIG"} --dataset_path "$dataset" --pretrain_ckpt "$ckpt"
    "${OPTIONS[@]}")
launch eval "$ROOT/eval.py"
grep '^result:' "$LOG" || true
