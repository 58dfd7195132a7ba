# shellcheck shell=bash
# Three private RabbitMQ nodes that form one cluster, on loopback.
#
# DIR/node1 … DIR/node3 are directories like those of a single private RabbitMQ. They share password, cookie and the
# first one's epmd.

CLUSTER_NODES=3

rabbitmq_cluster_dirs() {
    local number
    for ((number = 1; number <= CLUSTER_NODES; number++)); do printf '%s/node%d\n' "$1" "$number"; done
}

# rabbitmq_cluster_start DIR: idempotent. A node that was killed comes back into the cluster by itself.
rabbitmq_cluster_start() {
    local dir=$1 first=$1/node1 number node
    for ((number = 1; number <= CLUSTER_NODES; number++)); do
        node=$dir/node$number
        ! process_runs "$node/run/rabbitmq" || continue
        if [ -e "$node/rabbitmq/joined" ]; then
            rabbitmq_start "$node"
        else
            rabbitmq_cluster_prepare "$node" "$first" "$number"
            say "starting RabbitMQ node $number"
            rabbitmq_start "$node"
            rabbitmq_cluster_join "$node" "$first"
        fi
    done
}

rabbitmq_cluster_prepare() {
    local node=$1 first=$2 number=$3 file
    mkdir -p "$node/rabbitmq" "$node/ports"
    printf 'postrider%d' "$number" >"$node/rabbitmq/node"
    [ "$node" != "$first" ] || return 0
    printf '%s' "$first" >"$node/rabbitmq/first-node"
    cp "$first/ports/epmd" "$node/ports/epmd"
    for file in password .erlang.cookie; do write_private "$node/rabbitmq/$file" <"$first/rabbitmq/$file"; done
}

rabbitmq_cluster_join() {
    local node=$1 first=$2
    if [ "$node" != "$first" ]; then
        {
            rabbitmq_ctl "$node" stop_app
            rabbitmq_ctl "$node" join_cluster "$(rabbitmq_node "$first")"
            rabbitmq_ctl "$node" start_app
        } >>"$node/log/join.log" 2>&1 || die_with_log "$node/log/join.log" "a RabbitMQ node could not join the cluster"
    fi
    : >"$node/rabbitmq/joined"
}

# rabbitmq_cluster_stop DIR: the first node last, since its epmd is everybody's.
rabbitmq_cluster_stop() {
    local node
    while read -r node; do
        if [ -d "$node" ]; then rabbitmq_stop "$node"; fi
    done < <(rabbitmq_cluster_dirs "$1" | tac)
}

rabbitmq_cluster_wipe() {
    rabbitmq_cluster_stop "$1"
    while read -r node; do rm -rf -- "$node"; done < <(rabbitmq_cluster_dirs "$1")
}

rabbitmq_cluster_exports() {
    local node urls=()
    while read -r node; do urls+=("$(rabbitmq_url "$node")"); done < <(rabbitmq_cluster_dirs "$1")
    print_export POSTRIDER_CLUSTER_AMQP_URLS "${urls[*]}"
}
