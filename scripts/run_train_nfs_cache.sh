#!/usr/bin/env bash
# Train as run_train.sh does, with the images of a slow (network) file system kept in a cache server's memory.
set -euo pipefail
USAGE='  bash run_train_nfs_cache.sh Ascend [CONFIG] DEVICE_NUM DEVICES [RANK_TABLE_FILE|None] DATASET [CKPT] [FREEZE_LAYER] [FILTER_HEAD]
  bash run_train_nfs_cache.sh GPU [CONFIG] DEVICE_NUM DEVICES DATASET [CKPT] [FREEZE_LAYER] [FILTER_HEAD]
  bash run_train_nfs_cache.sh CPU [CONFIG] DATASET [CKPT] [FREEZE_LAYER] [FILTER_HEAD]
CONFIG is a .yaml file; DEVICES as in 0,1,2,3; FREEZE_LAYER none or backbone; FILTER_HEAD True or False.
Logs: ./train.log, of several processes ./train/rank*/log*.log; on Ascend ./train/rank*/log*.log.
A cache server that runs (dataset-cache; MS_CACHE_HOST, MS_CACHE_PORT) is used and left; else one is started and stopped.'
. "$(dirname "${BASH_SOURCE[0]}")/launch_util.sh"
. "$(dirname "${BASH_SOURCE[0]}")/cache_util.sh"

check_train_command "$@"
BEFORE_EXIT=shutdown_cache
trap shutdown_cache EXIT
bootup_cache_server
generate_cache_session
RUN_ARGUMENTS+=(--enable_cache True --cache_session_id "$CACHE_SESSION")
launch train "$ROOT/train.py"
