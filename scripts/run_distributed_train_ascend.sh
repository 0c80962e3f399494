#!/usr/bin/env bash
# Train on the first cards of an Ascend server, in the words of MindSpore's model zoo: run_train.sh does it.
set -euo pipefail
USAGE='  bash run_distributed_train_ascend.sh DATASET DEVICE_NUM RANK_TABLE_FILE
The configuration is default_config.yaml: of this folder, else of this project.'
. "$(dirname "${BASH_SOURCE[0]}")/launch_util.sh"

if [ $# -lt 3 ] || [[ $1 == --* || $2 == --* || $3 == --* ]]; then
    wrong_usage "DATASET, DEVICE_NUM and RANK_TABLE_FILE are needed"
fi
positive_number DEVICE_NUM "$2"
exec bash "$ROOT/scripts/run_train.sh" Ascend default_config.yaml "$2" "$(seq -s , 0 $(($2 - 1)))" "$3" "$1" "${@:4}"
