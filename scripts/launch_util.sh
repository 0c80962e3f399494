# Sourced by the launchers: checks their arguments, starts the processes of a run, waits for them and ends them.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
FAILURE_GRACE=${GRACE_SECONDS:-10} # seconds that the other ranks have to end by themselves when one has failed
SIGNAL_GRACE=${GRACE_SECONDS:-60}  # and that all have to save what they did when the launcher is told to stop
PORT_TRIES=5
LOG_LINES=20                       # of the log of a failed rank that are shown

ENVIRONMENT_HELP='Environment: WORKER_NUM=2 processes on CPU; MASTER_PORT=8118 (default: a free one);
  ATLAS=A2 allows 3, 5, 6 or 7 cards, or any group of them, in a rank table; ATLAS=A3 also cards 8 to 15.
  RANK_TABLE_START=legacy starts the processes from the rank table itself, not by msrun on its cards.
  Several machines: run the same command on each, with NODE_NUM=2, NODE_RANK=0 or 1, MASTER_ADDR=the address of
  machine 0 and one MASTER_PORT (default 8118). Each machine contributes as many processes.
Options of train.py and eval.py (--key value) may follow the arguments.'

fail() {
    echo "error: $*" >&2
    exit 2
}

wrong_usage() {
    printf 'error: %s\nusage:\n%s\n%s\n' "$1" "$USAGE" "$ENVIRONMENT_HELP" >&2
    exit 2
}

# ---- arguments

# Splits "$@" into ARGUMENTS and, from the first that starts with --, OPTIONS. Takes the platform and a configuration
# file off the front: PLATFORM, CONFIG. MindSpore's model zoo also writes --config_path before that file.
split_arguments() {
    ARGUMENTS=() OPTIONS=() CONFIG=
    if [ "${2:-}" = --config_path ] && [[ ${4:---} != --* ]]; then set -- "$1" "${@:3}"; fi
    while [ $# -gt 0 ] && [[ $1 != --* ]]; do
        ARGUMENTS+=("$1")
        shift
    done
    OPTIONS=("$@")
    if [[ " ${OPTIONS[*]} " == *" --help "* ]]; then
        printf 'usage:\n%s\n%s\n' "$USAGE" "$ENVIRONMENT_HELP"
        exit 0
    fi
    case ${ARGUMENTS[0]:-} in
        Ascend | GPU | CPU) PLATFORM=${ARGUMENTS[0]} ;;
        "") wrong_usage "no platform named" ;;
        *) wrong_usage "${ARGUMENTS[0]} is no platform; it must be Ascend, GPU or CPU" ;;
    esac
    ARGUMENTS=("${ARGUMENTS[@]:1}")
    if [[ (${ARGUMENTS[0]:-} == *.yaml || ${ARGUMENTS[0]:-} == *.yml) && ! -d ${ARGUMENTS[0]} ]]; then
        CONFIG=$(absolute_file "configuration file" "${ARGUMENTS[0]}" "$ROOT")
        ARGUMENTS=("${ARGUMENTS[@]:1}")
    fi
}

# absolute_file WHAT PATH [FOLDER]: the absolute path of a file, found from here or else from FOLDER.
absolute_file() {
    local path=$2
    [ -f "$path" ] || path=${3:+$3/}$2
    [ -f "$path" ] || fail "$2: no such $1"
    [ -r "$path" ] || fail "$2: this $1 cannot be read"
    realpath -- "$path"
}

# The absolute path of a checkpoint; the name of published weights (docs/weights.md) stays as it is.
checkpoint_or_name() {
    case $1 in
        imagenet | torchvision/* | timm/*) [ -f "$1" ] || { printf '%s\n' "$1"; return; } ;;
    esac
    absolute_file checkpoint "$1"
}

absolute_folder() {
    [ -n "$2" ] || wrong_usage "no $1 named"
    [ -d "$2" ] || fail "$2: no such folder; the $1 must be one"
    if [ ! -r "$2" ] || [ ! -x "$2" ]; then fail "$2: this folder cannot be read"; fi
    realpath -- "$2"
}

positive_number() {
    [[ $2 =~ ^[1-9][0-9]{0,3}$ ]] || wrong_usage "$1 must be a whole number above 0, not '$2'"
}

# check_devices DEVICE_NUM DEVICES
check_devices() {
    if [ -z "${1:-}" ] || [ -z "${2:-}" ]; then wrong_usage "DEVICE_NUM and DEVICES are missing"; fi
    positive_number DEVICE_NUM "$1"
    [ "$1" -le 16 ] || wrong_usage "DEVICE_NUM must be 1 to 16, the cards of one machine, not $1"
    [[ $2 =~ ^(0|[1-9][0-9]?)(,(0|[1-9][0-9]?))*$ ]] || wrong_usage "DEVICES must be card numbers as in 0,1,2,3, not '$2'"
    local devices twice
    IFS=, read -ra devices <<<"$2"
    [ "${#devices[@]}" -eq "$1" ] || wrong_usage "DEVICE_NUM is $1, but DEVICES names ${#devices[@]} ($2)"
    twice=$(printf '%s\n' "${devices[@]}" | sort | uniq -d | head -n 1)
    [ -z "$twice" ] || wrong_usage "DEVICES names card $twice twice ($2)"
}

# check_rank_table WORD...: the words after DEVICES. Sets RANK_TABLE, and GIVEN to 1 if the first word is a rank table or
# None. It may be left out, as in the last releases of MindSpore's model zoo: a folder is the data set.
check_rank_table() {
    RANK_TABLE='' GIVEN=1
    [ -n "${1:-}" ] || wrong_usage "RANK_TABLE_FILE is missing; None leaves it to msrun"
    if [ "${1,,}" = none ]; then
        [ -d "$1" ] || return 0
        if [ -d "${2:-}" ]; then
            (checkpoint_or_name "$2") >/dev/null 2>&1 || return 0
            wrong_usage "'$1 $2' has two readings: no rank table and the data set $2 (write $1 ./$2), or the data set $1 \
and the checkpoint $2 (write ./$1 $2)"
        fi
        GIVEN=0
    elif [[ -f $1 || $1 == *.json ]]; then
        RANK_TABLE=$(absolute_file "rank table" "$1")
    else
        GIVEN=0
    fi
}

# The part of the arguments that is the same on every platform: DATASET [CKPT] [FREEZE_LAYER] [FILTER_HEAD].
check_training_arguments() {
    [ $# -le 4 ] || wrong_usage "too many arguments: ${*:5}"
    local dataset ckpt
    dataset=$(absolute_folder "data set" "${1:-}")
    RUN_ARGUMENTS=(--dataset_path "$dataset")
    if [ -n "${2:-}" ]; then
        ckpt=$(checkpoint_or_name "$2")
        RUN_ARGUMENTS+=(--pretrain_ckpt "$ckpt")
    elif [ -n "${3:-}${4:-}" ]; then
        wrong_usage "FREEZE_LAYER and FILTER_HEAD need a checkpoint (CKPT) before them"
    fi
    case ${3:-} in
        "") ;;
        none | backbone) RUN_ARGUMENTS+=(--freeze_layer "$3") ;;
        *) wrong_usage "FREEZE_LAYER must be none or backbone, not '$3'" ;;
    esac
    case ${4:-} in
        "") ;;
        [Tt]rue | TRUE | [Ff]alse | FALSE) RUN_ARGUMENTS+=(--filter_head "$4") ;;
        *) wrong_usage "FILTER_HEAD must be True or False, not '$4'" ;;
    esac
}

# check_train_command SCRIPT_ARGUMENT...: sets PLATFORM, LOCAL_RANKS, DEVICES, FROM_RANK_TABLE (the rank table, if the
# processes are to be started from it) and RUN_ARGUMENTS.
check_train_command() {
    split_arguments "$@"
    set -- "${ARGUMENTS[@]}"
    DEVICES='' RANK_TABLE='' LOCAL_RANKS=1
    case $PLATFORM in
        CPU) LOCAL_RANKS=${WORKER_NUM:-1} ;;
        GPU)
            check_devices "${1:-}" "${2:-}"
            LOCAL_RANKS=$1 DEVICES=$2
            shift 2
            ;;
        Ascend)
            check_devices "${1:-}" "${2:-}"
            LOCAL_RANKS=$1 DEVICES=$2
            shift 2
            check_rank_table "$@"
            shift "$GIVEN"
            ;;
    esac
    check_training_arguments "$@"
    check_machines
    FROM_RANK_TABLE=''
    case ${RANK_TABLE_START:-msrun} in
        msrun) ;;
        legacy) FROM_RANK_TABLE=$RANK_TABLE ;;
        *) wrong_usage "RANK_TABLE_START must be msrun or legacy, not '$RANK_TABLE_START'" ;;
    esac
    check_tools
    if [ -n "$RANK_TABLE" ]; then
        "$PYTHON" "$ROOT/src/distributed/rank_table.py" "$RANK_TABLE" "$DEVICES" "$NODE_RANK" "$NODE_NUM" \
            "${ATLAS:-910}" || exit 2
    fi
    RUN_ARGUMENTS=(--platform "$PLATFORM" ${CONFIG:+--config_path "$CONFIG"} "${RUN_ARGUMENTS[@]}" "${OPTIONS[@]}")
}

# Several machines, and several processes on this one.
check_machines() {
    NODE_NUM=${NODE_NUM:-1} NODE_RANK=${NODE_RANK:-0}
    positive_number WORKER_NUM "$LOCAL_RANKS"
    positive_number NODE_NUM "$NODE_NUM"
    if [[ ! $NODE_RANK =~ ^(0|[1-9][0-9]{0,3})$ ]] || [ "$NODE_RANK" -ge "$NODE_NUM" ]; then
        wrong_usage "NODE_RANK must be 0 to $((NODE_NUM - 1)) on $NODE_NUM machines, not '$NODE_RANK'"
    fi
    [ "$NODE_NUM" -eq 1 ] || [ -n "${MASTER_ADDR:-}" ] || wrong_usage "NODE_NUM is $NODE_NUM; set MASTER_ADDR too"
    local port=${MASTER_PORT:-8118}
    if [[ ! $port =~ ^[1-9][0-9]{3,4}$ ]] || [ "$port" -lt 1024 ] || [ "$port" -gt 65535 ]; then
        wrong_usage "MASTER_PORT must be 1024 to 65535, not '$port'"
    fi
    FIRST_RANK=$((NODE_RANK * LOCAL_RANKS))
    RANKS=$((NODE_NUM * LOCAL_RANKS))
}

# The environment that quickstart.sh made serves where no other is active.
check_tools() {
    command -v python >/dev/null || [ ! -x "$ROOT/.venv/bin/python" ] || PATH=$ROOT/.venv/bin:$PATH
    PYTHON=$(command -v python || command -v python3) ||
        fail "no python on PATH; activate the environment that has MindSpore, or run bash scripts/quickstart.sh"
    [ "$RANKS" -eq 1 ] || [ -n "$FROM_RANK_TABLE" ] || command -v msrun >/dev/null ||
        fail "no msrun on PATH, which comes with MindSpore; activate the environment that has it"
}

# ---- processes

# launch NAME SCRIPT: runs SCRIPT with RUN_ARGUMENTS on LOCAL_RANKS processes and waits; the log goes to NAME.log, and
# with several processes or on Ascend to NAME/rank*/log*.log. Exits with the status of the first rank that failed.
launch() {
    local name=$1
    RUN_FOLDER=$PWD/$name LOG=$PWD/$name.log
    prepare_logs "$name"
    # Every process of this run has this variable, wherever it was started from and in whatever session it is.
    MARK=$(date +%s%N)-$$ MSRUN=''
    GRACE=$FAILURE_GRACE
    trap 'GRACE=$SIGNAL_GRACE; exit 129' HUP
    trap 'GRACE=$SIGNAL_GRACE; exit 130' INT
    trap 'GRACE=$SIGNAL_GRACE; exit 143' TERM
    trap 'trap "" HUP INT TERM; stop_all "$GRACE"; rm -rf -- "$STATE"; ${BEFORE_EXIT:-}' EXIT
    export PYTHONUNBUFFERED=1
    if [ "$PLATFORM" = CPU ] && [ "$LOCAL_RANKS" -gt 1 ]; then
        local threads=$(($(nproc) / LOCAL_RANKS))
        export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
    fi
    if [ "$PLATFORM" = Ascend ]; then
        # Seconds that the cards wait for one another when they connect (CANN's default 120) and in a collective (1800).
        export HCCL_CONNECT_TIMEOUT=${HCCL_CONNECT_TIMEOUT:-3600} HCCL_EXEC_TIMEOUT=${HCCL_EXEC_TIMEOUT:-3600}
    fi
    local command=("$PYTHON" "$2" "${RUN_ARGUMENTS[@]}")
    if [ "$RANKS" -eq 1 ]; then
        start_alone "${command[@]}"
    elif [ -n "$FROM_RANK_TABLE" ]; then
        start_from_rank_table "${command[@]}" --distribute True
    else
        start_msrun "$2" "${RUN_ARGUMENTS[@]}" --distribute True
    fi
    echo "$name: $LOCAL_RANKS process$([ "$LOCAL_RANKS" -eq 1 ] || echo es) on $PLATFORM; log: $LOG"
    supervise
    echo "$name: done; log: $LOG"
}

# Moves what an earlier run left aside; a folder that no run of ours made is not touched.
prepare_logs() {
    local name=$1 date strange=''
    date=$(date +%Y%m%d-%H%M%S-%3N)
    [ -w "$PWD" ] || fail "$PWD: no permission to write the log here; start from another folder"
    [ "$PLATFORM-$name" = Ascend-train ] || [ "$RANKS" -gt 1 ] || RUN_FOLDER=''
    if [ -n "$RUN_FOLDER" ]; then
        [ ! -e "$RUN_FOLDER" ] || strange=$(find "$RUN_FOLDER" -mindepth 1 -maxdepth 1 ! -name 'rank[0-9]*' ! -name msrun -print -quit)
        [ -z "$strange" ] || fail "$RUN_FOLDER is where logs go, but holds other things ($(basename "$strange")); start from another folder"
        set_aside "$RUN_FOLDER" "$RUN_FOLDER-earlier-$date"
        local rank
        for ((rank = FIRST_RANK; rank < FIRST_RANK + LOCAL_RANKS; rank++)); do
            mkdir -p "$RUN_FOLDER/rank$rank"
            : >"$RUN_FOLDER/rank$rank/log$rank.log"
        done
    fi
    local first_log=$RUN_FOLDER/rank$FIRST_RANK/log$FIRST_RANK.log
    if [ "$PLATFORM-$name" = Ascend-train ]; then
        LOG=$first_log
    else
        set_aside "$LOG" "$PWD/$name-earlier-$date.log"
        if [ -n "$RUN_FOLDER" ]; then # the first rank's log under a second name
            ln "$first_log" "$LOG" 2>/dev/null || ln -s "$first_log" "$LOG"
        else
            : >"$LOG"
        fi
    fi
    STATE=$(mktemp -d)
    : >"$STATE/ended"
}

set_aside() {
    [ -e "$1" ] || [ -L "$1" ] || return 0
    mv -n -- "$1" "$2"
    echo "an earlier run's $(basename "$1") is now $(basename "$2")"
}

# run_rank RANK LOG [NAME=VALUE ...] COMMAND...: runs a command of this run and notes how it ended.
run_rank() {
    local rank=$1 log=$2 status=0
    shift 2
    RUN_MARK=$MARK env "$@" >"$log" 2>&1 </dev/null || status=$?
    echo "$rank $status" >>"$STATE/ended"
}

start_alone() {
    local visible=()
    [ -z "$DEVICES" ] || visible=("$(visible_variable)=$DEVICES")
    [ "$PLATFORM" != Ascend ] || visible+=(DEVICE_ID=0 RANK_ID=0 RANK_SIZE=1)
    run_rank 0 "$LOG" "${visible[@]}" "$@" 2>/dev/null & # where bash says that a process was ended
}

# The vendor's older start, which makes MindSpore use its deprecated GE backend:
# https://www.mindspore.cn/tutorials/en/r2.6.0/parallel/rank_table.html
start_from_rank_table() {
    local devices i rank
    IFS=, read -ra devices <<<"$DEVICES"
    for i in "${!devices[@]}"; do
        rank=$((FIRST_RANK + i))
        run_rank "$rank" "$RUN_FOLDER/rank$rank/log$rank.log" RANK_TABLE_FILE="$FROM_RANK_TABLE" RANK_ID="$rank" \
            RANK_SIZE="$RANKS" DEVICE_ID="${devices[i]}" "$@" 2>/dev/null &
    done
}

start_msrun() {
    MSRUN_COMMAND=("$@")
    local port=${MASTER_PORT:-8118} machines=()
    if [ "$NODE_NUM" -eq 1 ]; then
        if [ -z "${MASTER_PORT:-}" ] || port_is_taken "$port"; then port=$(free_port); fi
    else
        machines=(--node_rank="$NODE_RANK")
    fi
    local visible=() bind=()
    [ -z "$DEVICES" ] || visible=("$(visible_variable)=$DEVICES")
    [ "$PLATFORM" != Ascend ] || bind=(--bind_core=True) # each process to cores near its card
    mkdir -p "$RUN_FOLDER/msrun"
    # rank.py gives each rank its own log and notes how it ended: msrun tells neither which rank failed first, nor how.
    # Workers that come before the scheduler listens try again after this many milliseconds; the default is 15000.
    # MindSpore would use its deprecated GE backend if it saw a RANK_TABLE_FILE.
    RUN_MARK=$MARK RUN_LOGS=$RUN_FOLDER RUN_ENDED=$STATE/ended \
        MS_RECEIVE_MSG_TIMEOUT=${MS_RECEIVE_MSG_TIMEOUT:-1000} env -u RANK_TABLE_FILE "${visible[@]}" \
        msrun --worker_num="$RANKS" --local_worker_num="$LOCAL_RANKS" --master_addr="${MASTER_ADDR:-127.0.0.1}" \
        --master_port="$port" --join=True --log_dir="$RUN_FOLDER/msrun" "${bind[@]}" "${machines[@]}" \
        "$ROOT/scripts/rank.py" "${MSRUN_COMMAND[@]}" >"$RUN_FOLDER/msrun/msrun.log" 2>&1 </dev/null &
    MSRUN=$!
}

visible_variable() { if [ "$PLATFORM" = GPU ]; then echo CUDA_VISIBLE_DEVICES; else echo ASCEND_RT_VISIBLE_DEVICES; fi; }

port_is_taken() { (: <>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Below the ports that the system gives to outgoing connections.
free_port() {
    local port
    while port=$((10000 + RANDOM % 20000)); do
        port_is_taken "$port" || break
    done
    echo "$port"
}

# Returns when all processes ended well; exits when one did not.
supervise() {
    local tries=1 patience=10
    while [ -n "$(jobs -pr)" ] && [ -z "$(first_failure)" ]; do
        if grep -qs '^scheduler [^0]' "$STATE/ended"; then
            if grep -qs 'Address already in use' "$RUN_FOLDER/msrun/scheduler.log"; then
                [ "$NODE_NUM" -eq 1 ] || fail "port ${MASTER_PORT:-8118} is taken; set another MASTER_PORT on all machines"
                [ $((tries++)) -lt $PORT_TRIES ] || fail "no free port found; set MASTER_PORT"
                stop_all "$FAILURE_GRACE"
                : >"$STATE/ended"
                MASTER_PORT='' start_msrun "${MSRUN_COMMAND[@]}"
            fi
            [ $((patience--)) -gt 0 ] || break # else a rank tells more about the same fault in a moment
        fi
        sleep 0.5 &
        wait $! || true
    done
    report_failure
}

# "RANK STATUS" of the first rank that did not end well, or nothing.
first_failure() { grep -m 1 '^[0-9]* [^0]' "$STATE/ended" || true; }

# Exits if the run failed.
report_failure() {
    local failure status=0 rank log
    failure=$(first_failure)
    if [ -n "$MSRUN" ] && [ -z "$failure" ]; then
        [ "$(grep -c '^[0-9]* 0$' "$STATE/ended")" -lt "$LOCAL_RANKS" ] || return 0
        [ -n "$(jobs -pr)" ] || wait "$MSRUN" || status=$?
        failure=$(killed_rank)
    fi
    if [ -n "$failure" ]; then
        read -r rank status <<<"$failure"
        log=$RUN_FOLDER/rank$rank/log$rank.log
        [ -n "$RUN_FOLDER" ] || log=$LOG
        echo "error: rank $rank ended with status $status$(signal_name "$status"); the end of its log, $log:" >&2
    elif [ -n "$MSRUN" ]; then
        [ "$status" -ne 0 ] || [ -n "$(jobs -pr)" ] || return 0 # nothing was run, and nothing went wrong
        log=$RUN_FOLDER/msrun/msrun.log status=$((status > 0 ? status : 1))
        [ ! -s "$RUN_FOLDER/msrun/scheduler.log" ] || log=$RUN_FOLDER/msrun/scheduler.log
        echo "error: msrun or its scheduler ended with status $status; the end of $log:" >&2
    else
        return 0
    fi
    grep -av '^\[\(WARNING\|INFO\)\]' "$log" | tail -n $LOG_LINES >&2 || true
    exit "$status"
}

# The same when rank.py itself was killed and could note nothing: msrun tells the process and its status.
killed_rank() {
    local pid status rank
    read -r pid status <<<"$(sed -n 's/.*Worker process \([0-9]*\) exit with exception. Error code: \(-\?[0-9]*\).*/\1 \2/p' \
        "$RUN_FOLDER/msrun/msrun.log" | head -n 1)"
    rank=$(sed -n "s/^pid ${pid:-none} //p" "$STATE/ended")
    [ -z "$rank" ] || echo "$rank $((status < 0 ? 128 - status : status))"
}

signal_name() { [ "$1" -le 128 ] || echo " (signal $(kill -l "$1" 2>/dev/null || echo $(($1 - 128))))"; }

# Processes of this run, by their environment: msrun's workers are in sessions of their own, and outlive it.
marked() { grep -lsz -- "^RUN_MARK=$MARK\$" /proc/[0-9]*/environ | cut -d / -f 3 || true; }

marked_workers() {
    local pid
    for pid in $(marked); do
        grep -qsz '^MS_ROLE=MS_SCHED$' "/proc/$pid/environ" || echo "$pid"
    done
}

# stop_all SECONDS: asks every process of this run to end, and kills those that have not after so long.
stop_all() {
    local deadline=$((SECONDS + $1)) pids
    # First msrun, which would kill all others as soon as one has ended.
    [ -z "$MSRUN" ] || kill -KILL "$MSRUN" 2>/dev/null || true
    MSRUN=''
    pids=$(marked_workers)
    # shellcheck disable=SC2086 # a list of numbers
    [ -z "$pids" ] || kill -TERM $pids 2>/dev/null || true
    while [ -n "$(marked_workers)" ] && [ $SECONDS -lt $deadline ]; do sleep 0.2; done
    while pids=$(marked) && [ -n "$pids" ]; do
        # shellcheck disable=SC2086
        kill -KILL $pids 2>/dev/null || true
        sleep 0.1
    done
}
