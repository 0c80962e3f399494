#!/usr/bin/env bash
# Another spelling of run_distributed_train_ascend.sh.
exec bash "$(dirname "${BASH_SOURCE[0]}")/run_distributed_train_ascend.sh" "$@"
