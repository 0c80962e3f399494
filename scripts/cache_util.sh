# Sourced by run_train_nfs_cache.sh: MindSpore's dataset cache server, which keeps images of a slow (network) file
# system in the memory of this machine. Host and port: MS_CACHE_HOST and MS_CACHE_PORT (127.0.0.1, 50052).
# shellcheck shell=bash

CACHE_SESSION=''        # the session of this run
CACHE_SERVER_IS_OURS='' # set if this run started the server

# The command, with the server's address: old releases of MindSpore call it cache_admin.
cache_command() {
    local program
    program=$(command -v dataset-cache || command -v cache_admin) || return 1
    "$program" "$@" -h "${MS_CACHE_HOST:-127.0.0.1}" -p "${MS_CACHE_PORT:-50052}"
}

# Starts a server if none runs at that address.
bootup_cache_server() {
    local said
    command -v dataset-cache >/dev/null || command -v cache_admin >/dev/null ||
        fail "neither dataset-cache nor cache_admin on PATH, one of which comes with MindSpore; activate its environment"
    if cache_command --list_sessions >/dev/null 2>&1; then
        echo "cache: using the server that runs on port ${MS_CACHE_PORT:-50052}"
    elif said=$(cache_command --start 2>&1); then
        CACHE_SERVER_IS_OURS=yes
        echo "cache: server started on port ${MS_CACHE_PORT:-50052}"
    elif cache_command --list_sessions >/dev/null 2>&1; then
        echo "cache: using the server that another run has just started"
    else
        fail "cannot start the cache server on port ${MS_CACHE_PORT:-50052}: $(one_line "$said"); is the port taken? set MS_CACHE_PORT"
    fi
}

# Makes a session for this run: CACHE_SESSION.
generate_cache_session() {
    local said
    said=$(cache_command --generate_session 2>&1) || fail "the cache server makes no session: $(one_line "$said")"
    CACHE_SESSION=$(sed -n 's/^Session created.*: \([0-9][0-9]*\)$/\1/p' <<<"$said")
    [ -n "$CACHE_SESSION" ] || fail "the cache server names no session: $(one_line "$said")"
    echo "cache: session $CACHE_SESSION"
}

# Says how many images the session holds, in memory and on disk.
report_cache() {
    cache_command --list_sessions 2>/dev/null | awk -v session="$CACHE_SESSION" '
        $1 == session { images += $3 + $4 }
        END { printf "cache: %d images in session %s\n", images, session }'
}

# Ends this run's session, and the server if this run started it and nobody else uses it.
shutdown_cache() {
    if [ -n "$CACHE_SESSION" ]; then
        report_cache || true
        cache_command --destroy_session "$CACHE_SESSION" >/dev/null 2>&1 ||
            echo "warning: cache session $CACHE_SESSION could not be ended; dataset-cache -d $CACHE_SESSION does it" >&2
        CACHE_SESSION=''
    fi
    if [ -n "$CACHE_SERVER_IS_OURS" ]; then
        CACHE_SERVER_IS_OURS=''
        if cache_command --list_sessions 2>/dev/null | grep -q '^ *[0-9]'; then
            echo "cache: another run uses the server; it is left running"
        elif cache_command --stop >/dev/null 2>&1; then
            echo "cache: server stopped"
        else
            echo "warning: the cache server could not be stopped; dataset-cache --stop does it" >&2
        fi
    fi
}

one_line() { tr -s '[:space:]' ' ' <<<"$1" | cut -c 1-300; }
