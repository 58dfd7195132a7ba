# shellcheck shell=bash
# The two servers in containers, for systems where this library cannot install packages but a Docker engine answers.
# Ports, passwords and URLs are kept in the same files as without containers.

docker_usable() { has_command docker && docker info >/dev/null 2>&1; }

# The containers and their volumes are named after the directory they belong to.
docker_name() { printf 'postrider-%s' "$(printf '%s' "$1" | cksum | cut -d ' ' -f 1)"; }

# Whether the servers of this directory are containers.
docker_used() { [ -e "$1/run/docker" ]; }

docker_start() {
    local dir=$1 name port
    name=$(docker_name "$dir")
    mkdir -p "$dir/run" "$dir/postgres" "$dir/rabbitmq"
    : >"$dir/run/docker"
    if ! docker_runs "$name-postgres"; then
        port=$(port_choose "$dir/ports/postgres" "$POSTGRES_PORT")
        # By file, not by option: everybody on the machine can read a command line.
        printf 'POSTGRES_PASSWORD=%s\n' "$(secret "$dir/postgres/password" random_hex 16)" |
            write_private "$dir/postgres/container.env"
        docker_run "$name-postgres" --env-file "$dir/postgres/container.env" --publish "127.0.0.1:$port:5432" \
            --volume "$name-postgres:/var/lib/postgresql/data" postgres:15
    fi
    if ! docker_runs "$name-rabbitmq"; then
        port=$(port_choose "$dir/ports/amqp" "$AMQP_PORT")
        printf 'RABBITMQ_DEFAULT_USER=postrider\nRABBITMQ_DEFAULT_PASS=%s\n' \
            "$(secret "$dir/rabbitmq/password" random_hex 16)" | write_private "$dir/rabbitmq/container.env"
        # RabbitMQ finds its data by the name of its host.
        docker_run "$name-rabbitmq" --env-file "$dir/rabbitmq/container.env" --publish "127.0.0.1:$port:5672" \
            --volume "$name-rabbitmq:/var/lib/rabbitmq" --hostname postrider rabbitmq:3
    fi
    # A published port accepts connections before the server behind it does: ask the servers themselves.
    wait_for 120 docker_postgres_ready "$dir" || die "the container $name-postgres is not ready" "docker logs $name-postgres"
    wait_for 120 docker exec "$name-rabbitmq" rabbitmq-diagnostics --quiet check_port_connectivity >/dev/null 2>&1 ||
        die "the container $name-rabbitmq is not ready" "docker logs $name-rabbitmq"
    postgres_prepare "$dir"
    rabbitmq_definitions "$(cat "$dir/rabbitmq/password")" |
        docker exec --interactive "$name-rabbitmq" rabbitmqctl --quiet import_definitions
}

docker_runs() { [ "$(docker inspect --format '{{.State.Running}}' "$1" 2>/dev/null)" = true ]; }

# While its data is being made, the image runs a first Postgres that only answers on its socket: ask by TCP.
docker_postgres_ready() {
    docker exec "$(docker_name "$1")-postgres" pg_isready --quiet --host=127.0.0.1 --username=postgres 2>/dev/null
}

docker_run() {
    local name=$1
    shift
    docker rm --force "$name" >/dev/null 2>&1 || true
    docker run --detach --name "$name" "$@" >/dev/null || die "docker run failed for $name"
}

docker_stop() {
    local name
    name=$(docker_name "$1")
    docker stop --time 30 "$name-postgres" "$name-rabbitmq" >/dev/null 2>&1 || true
}

docker_wipe() {
    local dir=$1 name
    name=$(docker_name "$dir")
    docker rm --force --volumes "$name-postgres" "$name-rabbitmq" >/dev/null 2>&1 || true
    docker volume rm "$name-postgres" "$name-rabbitmq" >/dev/null 2>&1 || true
    rm -rf -- "$dir/postgres" "$dir/rabbitmq" "$dir/ports/postgres" "$dir/ports/amqp" "$dir/run/docker"
}
