# shellcheck shell=bash
# A private Postgres: its own data, port and password, on loopback only, with no Unix socket (whose path is limited to
# 107 bytes, less than many a checkout's).
#
# DIR/postgres/    may be a link, see `postgres_place`
#   data/          the cluster
#   password       of the users `postgres` (superuser), `postrider` (owner of the database `postrider`), `gateway`,
#                  `dispatcher` and `reader` (each with the rights of its service)
# DIR/ports/postgres, DIR/run/postgres, DIR/log/postgres.log

POSTGRES_PORT=27432

# Where DIR/postgres really is. Its user may be unable to follow the link, so programs get this path.
postgres_home() { readlink -f "$1/postgres"; }

# The directory of the programs: the version that made the data, else the newest there is.
postgres_programs() {
    local dir=$1 version
    version=$(cat "$dir/postgres/data/PG_VERSION" 2>/dev/null) || version=''
    if [ -n "$version" ] && [ -x "/usr/lib/postgresql/$version/bin/postgres" ]; then
        printf '/usr/lib/postgresql/%s/bin' "$version"
    elif compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null; then
        dirname "$(printf '%s\n' /usr/lib/postgresql/*/bin/postgres | sort -V | tail -n 1)"
    elif command -v postgres >/dev/null && command -v initdb >/dev/null; then
        dirname "$(command -v postgres)"
    else
        return 1
    fi
}

postgres_installed() { postgres_programs /nonexistent; }

# Postgres refuses to run as root: root runs it as the user that the Debian package made.
# With a clean environment, since PGDATA, PGPORT and their like belong to the caller's own servers.
postgres_user_is_other() { [ "$(id -u)" = 0 ]; }

postgres_as_user() {
    local clean=(env -i PATH="$PATH" HOME=/ LANG=C.UTF-8)
    if postgres_user_is_other; then
        setpriv --reuid=postgres --regid=postgres --init-groups "${clean[@]}" "$@"
    else
        "${clean[@]}" "$@"
    fi
}

# Makes DIR/postgres. When its user cannot get there (a checkout below /root, say), the directory is made in /var/tmp
# and DIR/postgres links to it. Its name comes from DIR, so that another checkout's data is never taken for ours.
postgres_place() {
    local dir=$1 place=$1/postgres fallback
    if [ -L "$place" ] && [ ! -d "$place" ]; then
        rm -f "$place"
    fi
    [ ! -d "$place" ] || return 0
    mkdir -p "$dir"
    if ! postgres_user_is_other; then
        mkdir -m 700 "$place"
        return 0
    fi
    mkdir -m 700 "$place"
    chown postgres:postgres "$place"
    (cd / && postgres_as_user test -w "$place") && return 0
    rmdir "$place"
    fallback=$(postgres_fallback "$dir")
    # Anyone may make names in /var/tmp. Only a directory of the right owner, closed to others, is trusted.
    mkdir -m 700 "$fallback" 2>/dev/null && chown postgres:postgres "$fallback"
    if [ -L "$fallback" ] || [ "$(stat -c '%U %a' "$fallback")" != 'postgres 700' ]; then
        die "$fallback is in the way: it is not a private directory of the user postgres"
    fi
    ln -s "$fallback" "$place"
    say "the user postgres cannot enter $dir; its data is in $fallback"
}

postgres_fallback() { printf '/var/tmp/postrider-%s' "$(printf '%s' "$1" | cksum | cut -d ' ' -f 1)"; }

postgres_make_data() {
    local dir=$1 programs=$2 place
    place=$(postgres_home "$dir")
    [ ! -d "$place/data" ] || return 0
    say "making a Postgres cluster"
    (cd / && postgres_initdb "$place" "$programs") >>"$dir/log/postgres.log" 2>&1 9>&- ||
        die_with_log "$dir/log/postgres.log" "initdb failed"
}

# Under another name first: an interrupted initdb must not be taken for a cluster.
# shellcheck disable=SC2016 # the variables are of the inner shell
postgres_initdb() {
    local place=$1 programs=$2
    # Written by the user that initdb runs as, so that it can read it and no other can.
    random_hex 16 | postgres_as_user sh -c 'umask 077; cat >"$1/password"; rm -rf "$1/data.new"' sh "$place" &&
        postgres_as_user "$programs/initdb" --pgdata="$place/data.new" --username=postgres \
            --pwfile="$place/password" --auth=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8 &&
        postgres_as_user mv "$place/data.new" "$place/data"
}

# postgres_start DIR [fast]: idempotent. `fast` gives up durability: for tests, whose data nobody needs after a crash.
postgres_start() {
    local dir=$1 fast=${2:-} programs try
    process_runs "$dir/run/postgres" && return 0
    programs=$(postgres_programs "$dir") || die "no Postgres is installed"
    mkdir -p "$dir/log"
    postgres_place "$dir"
    postgres_make_data "$dir" "$programs"
    # Between choosing a port and listening on it somebody else may take it: choose again then.
    for try in 1 2 3; do
        postgres_forget_dead "$dir"
        postgres_launch "$dir" "$programs" "$fast"
        if wait_until_up 60 "$dir/run/postgres" postgres_answers "$dir"; then
            postgres_prepare "$dir" || die_with_log "$dir/log/postgres.log" "cannot make the database"
            return 0
        fi
        # The other thing that passes: sessions of a killed Postgres that have not noticed yet.
        tail -n 20 "$dir/log/postgres.log" | grep -qE 'could not bind|shared memory block .* still in use' || break
        warn "Postgres did not start, trying again ($try)"
        sleep 1
    done
    postgres_stop "$dir"
    die_with_log "$dir/log/postgres.log" "Postgres did not start"
}

# After a crash the file postmaster.pid names a process that has ended. Postgres sees that, except when the number has
# gone to another process since, or the dead one still waits for its parent's notice (in a container, often for long).
# Whether a process is a Postgres on this data shows in its working directory. The rest of the file stays: by it
# Postgres finds sessions that survived.
postgres_forget_dead() {
    local data pid cwd
    data=$(postgres_home "$1")/data
    pid=$(head -n 1 "$data/postmaster.pid" 2>/dev/null) || return 0
    [ -d "/proc/$pid" ] || return 0
    cwd=$(readlink "/proc/$pid/cwd") || cwd=''
    [ "$cwd" != "$data" ] || return 0
    # A number that no process has.
    sed -i '1s/.*/999999999/' "$data/postmaster.pid"
}

postgres_launch() {
    local dir=$1 programs=$2 fast=$3 port options
    port=$(port_choose "$dir/ports/postgres" "$POSTGRES_PORT")
    options=(-D "$(postgres_home "$dir")/data" -c "port=$port" -c listen_addresses=127.0.0.1 -c unix_socket_directories=
        -c max_connections=300 -c timezone=UTC -c log_timezone=UTC -c "log_line_prefix=%m [%p] %d ")
    if [ "$fast" = fast ]; then
        options+=(-c fsync=off -c synchronous_commit=off -c full_page_writes=off)
    fi
    postgres_background "$dir" "$programs/postgres" "${options[@]}"
}

# `postgres_as_user`, but as words for process_start, which can run programs only.
postgres_background() {
    local dir=$1 user=()
    shift
    ! postgres_user_is_other || user=(setpriv --reuid=postgres --regid=postgres --init-groups)
    process_start "$dir/run/postgres" "$dir/log/postgres.log" \
        ${user[@]+"${user[@]}"} env -i PATH="$PATH" HOME=/ LANG=C.UTF-8 "$@"
}

postgres_password() { cat "$1/postgres/password"; }

# postgres_url DIR ROLE DATABASE
postgres_url() {
    printf 'postgres://%s:%s@127.0.0.1:%s/%s' "$2" "$(postgres_password "$1")" "$(port_recorded "$1/ports/postgres")" "$3"
}

# postgres_query DIR DATABASE SQL: as superuser. The SQL goes in by standard input: it may hold a password, and everybody
# on the machine can read a command line.
postgres_query() {
    local dir=$1 options=(--no-psqlrc --quiet --tuples-only --no-align --set=ON_ERROR_STOP=1
        --username=postgres --dbname="$2")
    if docker_used "$dir"; then
        docker exec --interactive "$(docker_name "$dir")-postgres" psql "${options[@]}" <<<"$3"
    else
        PGPASSWORD=$(postgres_password "$dir") PGCONNECT_TIMEOUT=5 "$(postgres_programs "$dir")/psql" "${options[@]}" \
            --host=127.0.0.1 --port="$(port_recorded "$dir/ports/postgres")" <<<"$3"
    fi
}

postgres_answers() { postgres_query "$1" postgres 'select 1' >/dev/null 2>&1; }

# An owner that is no superuser, and for each service a user with no more rights than it needs, as it should be anywhere.
postgres_prepare() {
    local dir=$1 password
    password=$(postgres_password "$dir")
    if [ -z "$(postgres_query "$dir" postgres "select 1 from pg_roles where rolname = 'postrider'")" ]; then
        postgres_query "$dir" postgres "create role postrider login password '$password'" || return 1
    fi
    if [ -z "$(postgres_query "$dir" postgres "select 1 from pg_database where datname = 'postrider'")" ]; then
        postgres_query "$dir" postgres "create database postrider owner postrider" || return 1
    fi
    postgres_query "$dir" postgres "$(postgres_users "$password")"
}

postgres_users() {
    local user
    for user in gateway dispatcher reader; do printf "\\set %s_password '%s'\n" "$user" "$1"; done
    cat "$ROOT/deploy/roles.sql"
}

# SIGINT is Postgres' "fast" shutdown: ends the sessions and closes the database properly.
postgres_stop() { process_stop "$1/run/postgres" INT 30; }

# As a machine that loses its power. Sessions are groups of their own; without theirs the server would end in order.
postgres_kill() {
    local pid child children=()
    pid=$(process_id "$1/run/postgres") || return 0
    mapfile -t children < <(ps -o pid= --ppid "$pid" | tr -d ' ')
    for child in "$pid" ${children[@]+"${children[@]}"}; do kill -KILL "$child" 2>/dev/null || true; done
    process_stop "$1/run/postgres" KILL 10
}

postgres_wipe() {
    local dir=$1
    postgres_stop "$dir"
    if [ -L "$dir/postgres" ]; then
        rm -rf -- "$(postgres_fallback "$dir")"
    fi
    rm -rf -- "$dir/postgres" "$dir/ports/postgres" "$dir/log/postgres.log"
}
