#!/usr/bin/env bash
# Train on one or several Ascend cards, GPUs or CPU processes, and wait until it is done.
set -euo pipefail
USAGE='  bash run_train.sh Ascend [CONFIG] DEVICE_NUM DEVICES [RANK_TABLE_FILE|None] DATASET [CKPT] [FREEZE_LAYER] [FILTER_HEAD]
  bash run_train.sh GPU [CONFIG] DEVICE_NUM DEVICES DATASET [CKPT] [FREEZE_LAYER] [FILTER_HEAD]
  bash run_train.sh CPU [CONFIG] DATASET [CKPT] [FREEZE_LAYER] [FILTER_HEAD]
CONFIG is a .yaml file; DEVICES as in 0,1,2,3; FREEZE_LAYER none or backbone; FILTER_HEAD True or False.
Logs: ./train.log, of several processes ./train/rank*/log*.log; on Ascend ./train/rank*/log*.log.'
. "$(dirname "${BASH_SOURCE[0]}")/launch_util.sh"

check_train_command "$@"
launch train "$ROOT/train.py"
