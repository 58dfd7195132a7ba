# shellcheck shell=bash
# Ports: the preferred one when it is free, else the next free one; remembered, so that URLs stay the same.

# Whether something listens on this port, on any address. Read from the kernel where possible: that sees every
# listener, and does not knock at the doors of strangers.
port_taken() {
    local port=$1 tables=()
    local table
    for table in /proc/net/tcp /proc/net/tcp6; do
        [ -r "$table" ] && tables+=("$table")
    done
    if [ ${#tables[@]} -gt 0 ]; then
        # Columns: number, local address:port, remote address:port, state (0A is "listening"); hexadecimal.
        grep -qiE "^ *[0-9]+: [0-9A-F]+:$(printf '%04X' "$port") [0-9A-F:]+ 0A " "${tables[@]}"
    else
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null
    fi
}

# port_choose FILE PREFERRED: prints a free port and remembers it in FILE. For a server that does not run now.
# A port that another file beside FILE names is not free either, though nobody may listen on it yet.
port_choose() {
    local file=$1 port
    port=$(port_recorded "$file") || port=$(($2 + ${POSTRIDER_PORT_OFFSET:-0}))
    rm -f "$file"
    while port_taken "$port" || grep -qsx "$port" "$(dirname "$file")"/*; do
        port=$((port + 1))
        [ "$port" -le 65535 ] || die "no free port from $2 upwards"
    done
    mkdir -p "$(dirname "$file")"
    printf '%s\n' "$port" >"$file"
    printf '%s' "$port"
}

port_recorded() { [ -s "$1" ] && cat "$1"; }

# Whether a TCP connection to loopback is accepted.
port_answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
