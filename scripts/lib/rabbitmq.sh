# shellcheck shell=bash
# A private RabbitMQ: its own data, ports, cookie and users, on loopback only.
#
# DIR/rabbitmq/        HOME of the server, with its Erlang cookie
#   definitions.json   the users: `postrider`, who may do everything, and `gateway` and `dispatcher` with the rights of
#                      their services. All have one password. There is no user `guest`
#   rabbitmq.conf
#   mnesia/            the data
#   server.pid         written by the server; ours are in DIR/run/
#   node               its name within a cluster, if it is in one (see rabbitmq_cluster.sh)
#   first-node         DIR of the cluster's first node, whose epmd this one uses; not there in the first node
# DIR/ports/{amqp,dist,epmd}, DIR/run/{rabbitmq,epmd}, DIR/log/{rabbitmq,epmd}.log
#
# epmd is Erlang's directory of node names on a machine, a daemon that outlives its nodes. With one of our own, on a
# port of its own, no other RabbitMQ of the machine sees ours, and ours ends completely.

AMQP_PORT=27672
EPMD_PORT=27369
DIST_PORT=27673

# The script of the server itself. The one in /usr/sbin on Debian is a wrapper that changes to another user.
rabbitmq_program() {
    if [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ]; then
        printf '/usr/lib/rabbitmq/bin/rabbitmq-server'
    else
        command -v rabbitmq-server
    fi
}

rabbitmq_installed() { rabbitmq_program >/dev/null && rabbitmq_epmd >/dev/null; }

rabbitmq_epmd() {
    command -v epmd || compgen -G '/usr/lib/erlang/erts-*/bin/epmd' | head -n 1 | grep .
}

rabbitmq_write_config() {
    local home=$1/rabbitmq password
    mkdir -p "$home/mnesia" "$home/conf.d"
    chmod 700 "$home"
    password=$(secret "$home/password" random_hex 16)
    # Left to itself Erlang makes one that can be guessed, and whoever knows it may run code in the server.
    secret "$home/.erlang.cookie" random_hex 20 >/dev/null
    rabbitmq_definitions "$password" | write_private "$home/definitions.json"
    write_private "$home/rabbitmq.conf" <<CONFIG
listeners.tcp.local = 127.0.0.1:$(port_recorded "$1/ports/amqp")
load_definitions = $home/definitions.json
log.console.level = info
# The log of the quorum queues is rolled at 64 MiB instead of 512: less memory and disk, every write as durable.
raft.wal_max_size_bytes = 67108864
CONFIG
    # Explicitly nothing, lest the files in /etc/rabbitmq count.
    printf '[].\n' >"$home/enabled_plugins"
    printf '[].\n' >"$home/advanced.config"
    : >"$home/rabbitmq-env.conf"
}

# The users and what they may do, for every prefix of names. A gateway publishes; a dispatcher also makes exchanges and
# queues, and consumes. See deploy/README.md.
rabbitmq_definitions() {
    local hash own='^[^.]+\\.(events|ingest|dispatch)(\\.ordered)?$|^[^.]+\\.(dead|domain)$'
    hash=$(rabbitmq_password_hash "$1")
    cat <<DEFINITIONS
{
  "vhosts": [{"name": "/"}],
  "users": [
    {"name": "postrider", "password_hash": "$hash", "tags": ["administrator"]},
    {"name": "gateway", "password_hash": "$hash", "tags": []},
    {"name": "dispatcher", "password_hash": "$hash", "tags": []}
  ],
  "permissions": [
    {"user": "postrider", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"},
    {"user": "gateway", "vhost": "/", "configure": "^$", "write": "^[^.]+\\.ingest(\\.ordered)?$", "read": "^$"},
    {"user": "dispatcher", "vhost": "/", "configure": "$own", "write": "$own", "read": "$own"}
  ]
}
DEFINITIONS
}

# As RabbitMQ keeps it: a salt of four bytes, and the SHA-256 of salt and password.
rabbitmq_password_hash() {
    local salt hash
    salt=$(random_hex 4)
    hash=$({ bytes_of "$salt" && printf '%s' "$1"; } | sha256sum | cut -d ' ' -f 1)
    bytes_of "$salt$hash" | base64 | tr -d '\n'
}

# shellcheck disable=SC2059 # the bytes are the format
bytes_of() { printf "$(sed 's/../\\x&/g' <<<"$1")"; }

# Prints the environment of the server, one NAME=VALUE a line. It replaces the caller's, whose RABBITMQ_… and ERL_…
# variables are for other servers.
rabbitmq_environment() {
    local dir=$1 home=$1/rabbitmq
    cat <<ENVIRONMENT
PATH=$PATH
LANG=C.UTF-8
HOME=$home
ERL_EPMD_ADDRESS=127.0.0.1
ERL_EPMD_PORT=$(port_recorded "$dir/ports/epmd")
ERL_CRASH_DUMP=$home/erl_crash.dump
RABBITMQ_NODENAME=$(rabbitmq_node "$dir")
RABBITMQ_DIST_PORT=$(port_recorded "$dir/ports/dist")
RABBITMQ_CONF_ENV_FILE=$home/rabbitmq-env.conf
RABBITMQ_CONFIG_FILE=$home/rabbitmq.conf
RABBITMQ_CONFIG_FILES=$home/conf.d
RABBITMQ_ADVANCED_CONFIG_FILE=$home/advanced.config
RABBITMQ_ENABLED_PLUGINS_FILE=$home/enabled_plugins
RABBITMQ_MNESIA_BASE=$home/mnesia
RABBITMQ_LOG_BASE=$home
RABBITMQ_LOGS=-
RABBITMQ_PID_FILE=$home/server.pid
RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none
ENVIRONMENT
}

rabbitmq_start() {
    local dir=$1 try
    process_runs "$dir/run/rabbitmq" && return 0
    rabbitmq_installed || die "no RabbitMQ is installed"
    mkdir -p "$dir/log"
    # Between choosing the ports and listening on them somebody else may take one: choose again then.
    for try in 1 2 3; do
        process_stop "$dir/run/epmd" TERM 5
        rabbitmq_launch "$dir"
        wait_until_up 120 "$dir/run/rabbitmq" rabbitmq_answers "$dir" && return 0
        tail -n 60 "$dir/log/rabbitmq.log" | grep -qE 'eaddrinuse|port .* in use' || break
        warn "RabbitMQ: port taken at the last moment, trying others ($try)"
    done
    rabbitmq_stop "$dir"
    die_with_log "$dir/log/rabbitmq.log" "RabbitMQ did not start"
}

rabbitmq_launch() {
    local dir=$1 environment
    port_choose "$dir/ports/amqp" "$AMQP_PORT" >/dev/null
    port_choose "$dir/ports/dist" "$DIST_PORT" >/dev/null
    rabbitmq_start_epmd "$dir"
    rabbitmq_write_config "$dir"
    mapfile -t environment < <(rabbitmq_environment "$dir")
    rm -f "$dir/rabbitmq/server.pid"
    if [ -e "$dir/log/rabbitmq.log" ]; then mv -f "$dir/log/rabbitmq.log" "$dir/log/rabbitmq.log.1"; fi
    process_start "$dir/run/rabbitmq" "$dir/log/rabbitmq.log" env -i "${environment[@]}" "$(rabbitmq_program)"
}

rabbitmq_node() { printf '%s@localhost' "$(cat "$1/rabbitmq/node" 2>/dev/null || printf postrider)"; }

rabbitmq_start_epmd() {
    local dir=$1 port
    [ ! -e "$dir/rabbitmq/first-node" ] || return 0
    for _ in 1 2 3; do
        port=$(port_choose "$dir/ports/epmd" "$EPMD_PORT")
        process_start "$dir/run/epmd" "$dir/log/epmd.log" env -i "$(rabbitmq_epmd)" -address 127.0.0.1 -port "$port"
        # What answered may be another epmd that took the port first; ours then ends at once.
        if wait_until_up 10 "$dir/run/epmd" port_answers "$port" && sleep 0.2 && process_runs "$dir/run/epmd"; then
            return 0
        fi
    done
    die_with_log "$dir/log/epmd.log" "epmd did not start"
}

# The log is of this start alone. That something answers on the port would not do: it may be somebody else's RabbitMQ,
# on a port that both chose at the same moment.
rabbitmq_answers() {
    grep -q 'Server startup complete' "$1/log/rabbitmq.log" && port_answers "$(port_recorded "$1/ports/amqp")"
}

# rabbitmq_ctl DIR ARGUMENT…: rabbitmqctl for this server.
rabbitmq_ctl() {
    local dir=$1 environment
    shift
    mapfile -t environment < <(rabbitmq_environment "$dir")
    env -i "${environment[@]}" "$(dirname "$(rabbitmq_program)")/rabbitmqctl" --quiet "$@"
}

# As a machine that loses its power. The recorded process, the shell script around the server, ends with it.
rabbitmq_kill() {
    local pid
    if pid=$(rabbitmq_server_id "$1"); then kill -KILL "$pid" 2>/dev/null || true; fi
    process_stop "$1/run/rabbitmq" KILL 10
}

# rabbitmq_url DIR [USER]
rabbitmq_url() {
    printf 'amqp://%s:%s@127.0.0.1:%s/%%2f' "${2:-postrider}" "$(cat "$1/rabbitmq/password")" "$(port_recorded "$1/ports/amqp")"
}

# The id of the server itself. The recorded process is the shell script around it, which passes SIGTERM on and waits.
rabbitmq_server_id() { process_runs "$1/run/rabbitmq" && cat "$1/rabbitmq/server.pid"; }

rabbitmq_stop() {
    process_stop "$1/run/rabbitmq" TERM 60
    process_stop "$1/run/epmd" TERM 5
}

rabbitmq_wipe() {
    rabbitmq_stop "$1"
    rm -rf -- "$1/rabbitmq" "$1/ports/amqp" "$1/ports/dist" "$1/ports/epmd" "$1"/log/rabbitmq.log* "$1/log/epmd.log"
}
