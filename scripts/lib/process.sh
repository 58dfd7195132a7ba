# shellcheck shell=bash
# Background processes. Each has a record, a file of one line: its process id, and when that process was born.
#
# The birth is what makes it safe to stop a process by a number read from a file: after a crash or a restart of the
# machine the number may belong to somebody else's process, and that one has another birth.

# Prints something that tells this process from any other that has, had or will have the same id.
process_birth() {
    local pid=$1 stat boot=''
    if [ -r /proc/self/stat ]; then
        stat=$(cat "/proc/$pid/stat" 2>/dev/null) || return 1
        # The second field is the program's name in parentheses and may contain spaces: count from behind it.
        stat=${stat##*) }
        # A zombie has ended; it only waits to be noticed by its parent.
        [ "${stat%% *}" != Z ] || return 1
        boot=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null) || true
        printf '%s@%s' "$(cut -d ' ' -f 20 <<<"$stat")" "$boot"
    else
        ps -o lstart= -p "$pid" 2>/dev/null | tr -s ' ' '_'
    fi
}

# Prints the id of the recorded process, if it still runs.
process_id() {
    local record=$1 pid='' birth=''
    [ -s "$record" ] || return 1
    read -r pid birth <"$record" || return 1
    [ -n "$birth" ] && [ "$(process_birth "$pid")" = "$birth" ] || return 1
    printf '%s' "$pid"
}

process_runs() { process_id "$1" >/dev/null; }

process_record() {
    local record=$1 pid=$2 birth
    birth=$(process_birth "$pid") || return 1
    mkdir -p "$(dirname "$record")"
    printf '%s %s\n' "$pid" "$birth" >"$record.new"
    mv -f "$record.new" "$record"
}

# process_start RECORD LOG COMMAND…: starts the command in a session of its own, so that Ctrl-C in this terminal, and
# the end of it, do not reach it.
process_start() {
    local record=$1 log=$2 pid new_session=()
    shift 2
    mkdir -p "$(dirname "$record")" "$(dirname "$log")"
    ! command -v setsid >/dev/null || new_session=(setsid)
    # Descriptor 9 is the lock of `only_one`: a server that inherited it would hold the lock for ever.
    # More open files than the usual 1024, since each connection is one; not the boundless limit that some systems
    # have, because Erlang makes tables of that size.
    (
        ulimit -S -n 65536 2>/dev/null || ulimit -S -n "$(ulimit -H -n)" 2>/dev/null || true
        cd /
        exec ${new_session[@]+"${new_session[@]}"} "$@" </dev/null >>"$log" 2>&1 9>&-
    ) &
    pid=$!
    # A process that ends at once leaves no record; whoever waits for it to be ready finds out.
    process_record "$record" "$pid" || rm -f "$record"
}

# process_stop RECORD SIGNAL SECONDS: asks, waits, and after that ends the process for good.
process_stop() {
    local record=$1 signal=$2 seconds=$3 pid
    if pid=$(process_id "$record"); then
        kill "-$signal" "$pid" 2>/dev/null || true
        if ! wait_for "$seconds" process_gone "$record"; then
            warn "process $pid did not stop within ${seconds}s; killing it"
            # Its own session, so its own group: this takes its children along.
            kill -KILL -- "-$pid" 2>/dev/null || kill -KILL "$pid" 2>/dev/null || true
            wait_for 5 process_gone "$record" || true
        fi
    fi
    rm -f "$record"
}

process_gone() { ! process_runs "$1"; }

# wait_for SECONDS COMMAND…: repeats the command until it succeeds; fails when the time is over.
wait_for() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.1
    done
}

# wait_until_up SECONDS RECORD COMMAND…: the same, but also fails as soon as the recorded process has ended.
wait_until_up() {
    local deadline=$((SECONDS + $1)) record=$2
    shift 2
    until "$@"; do
        process_runs "$record" || return 1
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.1
    done
}

# Takes turns with other runs on the same directory: two that start the same servers at once would both fail.
only_one() {
    local lock=$1/lock
    mkdir -p "$1"
    command -v flock >/dev/null || return 0
    exec 9>"$lock"
    if ! flock -n 9; then
        say "another run is at work in $(short_path "$1"); waiting for it"
        flock 9
    fi
}
