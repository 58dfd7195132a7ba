# shellcheck shell=bash
# Postgres and RabbitMQ together. The private ones of a directory, or those that the caller's environment names.

# services_need NAME…: registers what the named private servers need; to be followed by `install_missing`.
services_need() {
    local name
    if ! can_install && ! services_installed "$@" && docker_usable; then
        return 0 # services_start will take containers
    fi
    for name in "$@"; do
        case $name in
            postgres) need postgres_installed "PostgreSQL 15 or later (the server)" postgresql ;;
            rabbitmq) need rabbitmq_installed "RabbitMQ 3.10 or later" rabbitmq-server ;;
        esac
    done
}

services_installed() {
    local name
    for name in "$@"; do "${name}_installed" >/dev/null || return 1; done
}

# services_start DIR [--fast] NAME…: idempotent. Containers only where there are no packages; both servers then, which
# is simpler than one of each kind.
services_start() {
    local dir=$1 fast='' name
    shift
    if [ "${1:-}" = --fast ]; then
        fast=fast
        shift
    fi
    if docker_used "$dir" || ! services_installed "$@"; then
        say "starting Postgres and RabbitMQ in containers"
        docker_start "$dir"
        return 0
    fi
    for name in "$@"; do
        process_runs "$dir/run/$name" || say "starting $name"
        "${name}_start" "$dir" "$fast"
    done
}

services_run() {
    local dir=$1
    if docker_used "$dir"; then
        docker_runs "$(docker_name "$dir")-postgres" && docker_runs "$(docker_name "$dir")-rabbitmq"
    else
        process_runs "$dir/run/postgres" && process_runs "$dir/run/rabbitmq"
    fi
}

services_stop() {
    local dir=$1
    if docker_used "$dir"; then docker_stop "$dir"; fi
    rabbitmq_stop "$dir"
    postgres_stop "$dir"
}

services_wipe() {
    local dir=$1
    if docker_used "$dir"; then docker_wipe "$dir"; fi
    rabbitmq_wipe "$dir"
    postgres_wipe "$dir"
}

# The URLs of the private servers, as lines that a POSIX shell can evaluate.
services_exports() {
    local dir=$1
    print_export POSTRIDER_DATABASE_URL "$(postgres_url "$dir" postrider postrider)"
    print_export POSTRIDER_AMQP_URL "$(rabbitmq_url "$dir")"
    print_export POSTRIDER_TEST_DATABASE_URL "$(postgres_url "$dir" postgres postgres)"
    print_export POSTRIDER_TEST_AMQP_URL "$(rabbitmq_url "$dir")"
    print_export POSTRIDER_GATEWAY_DATABASE_URL "$(postgres_url "$dir" gateway postrider)"
    print_export POSTRIDER_DISPATCHER_DATABASE_URL "$(postgres_url "$dir" dispatcher postrider)"
    print_export POSTRIDER_GATEWAY_AMQP_URL "$(rabbitmq_url "$dir" gateway)"
    print_export POSTRIDER_DISPATCHER_AMQP_URL "$(rabbitmq_url "$dir" dispatcher)"
    print_export POSTRIDER_TEST_GATEWAY_AMQP_URL "$(rabbitmq_url "$dir" gateway)"
    print_export POSTRIDER_TEST_DISPATCHER_AMQP_URL "$(rabbitmq_url "$dir" dispatcher)"
    docker_used "$dir" && return 0
    print_export POSTRIDER_POSTGRES_PID "$(process_id "$dir/run/postgres")"
    print_export POSTRIDER_RABBITMQ_PID "$(rabbitmq_server_id "$dir")"
}

# Single quotes, and nothing inside them needs care but a single quote.
print_export() { printf "export %s='%s'\n" "$1" "${2//\'/\'\\\'\'}"; }

# existing_server VARIABLE: prints the URL when the caller means a server of his own by it.
# A shell that sourced .local/env carries URLs of private servers; these are listed in POSTRIDER_LOCAL_URLS and do not
# count, or the next run would take servers for existing ones that it should start.
existing_server() {
    local url=${!1:-}
    [ -n "$url" ] || return 1
    case " ${POSTRIDER_LOCAL_URLS:-} " in
        *" $url "*) return 1 ;;
    esac
    printf '%s' "$url"
}
