# shellcheck shell=bash
# Postrider itself: build, migrate, gateway and dispatchers in the background, and .local/env.
#
# LOCAL/secrets/   made once: tenant, JWT secret, encryption key, signing secret of the demonstration
# The gateway and the dispatchers of a private server run as users with the rights of their service; the command line has
# those of the owner.
#
# LOCAL/bin/       the command line, as a link; .local/env puts it on PATH
# LOCAL/env        what other shells source

GATEWAY_PORT=8080
DISPATCHER_PORT=8091

# Everything but `admin`: what a tenant's own developer would have.
TENANT_SCOPES='webhooks:read webhooks:write events:publish keys:manage audit:read'

# --- build ---------------------------------------------------------------------------------------------------------

need_rust() {
    if ! has_command cargo && [ -x "$HOME/.cargo/bin/cargo" ]; then
        PATH=$HOME/.cargo/bin:$PATH
    fi
    has_command cargo || die "the Rust toolchain is missing" "install it from https://rustup.rs, then run this again"
}

# What building needs besides Rust: a linker, and a compiler for the few C and assembly files of ring.
build_need() { need "has_command cc" "a C compiler" gcc libc6-dev; }

# build dev|release|dist [ARGUMENT…]: sets BINARIES, the directory of the programs. Builds those that are shipped, unless
# further arguments for cargo say otherwise.
build() {
    local profile=$1 target
    local arguments=(build --profile "$profile" --bins "${@:2}")
    cd "$ROOT" || return
    if [ -t 2 ]; then
        cargo "${arguments[@]}" || die "cargo build failed; its messages are above"
    else
        build_watched "${arguments[@]}"
    fi
    # Not always ROOT/target: cargo's configuration may place it elsewhere.
    target=$(cargo metadata --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
    BINARIES=$target/${profile/dev/debug}
}

build_watched() {
    local log=$LOCAL/log/build.log pid
    mkdir -p "$LOCAL/log"
    CARGO_TERM_COLOR=never cargo "$@" >"$log" 2>&1 9>&- &
    pid=$!
    watch "$pid" "$log" build_progress || die_with_log "$log" "cargo build failed"
}

build_progress() {
    printf '%s crates compiled, now %s' "$(grep -c '^ *Compiling' "$1")" "$(tail -n 1 "$1" | cut -c 1-60)"
}

# --- settings ------------------------------------------------------------------------------------------------------

# Secrets in the form that Standard Webhooks libraries read.
new_signing_secret() { printf 'whsec_%s' "$(head -c 32 /dev/urandom | base64 | tr -d '\n')"; }

# As `postrider keys generate` makes one, but needed before that is built.
new_encryption_key() { printf 'local:%s' "$(head -c 32 /dev/urandom | base64 | tr -d '\n')"; }

new_uuid() {
    local hex
    hex=$(random_hex 16)
    printf '%s-%s-4%s-a%s-%s' "${hex:0:8}" "${hex:8:4}" "${hex:13:3}" "${hex:17:3}" "${hex:20:12}"
}

# Exports what the programs read. The caller's own POSTRIDER_… settings hold, but for the servers, the secrets and what
# makes this run a local one.
settings_export() {
    local dir=$LOCAL
    DATABASE_URL_IS_OURS=yes AMQP_URL_IS_OURS=yes
    if existing_server POSTRIDER_DATABASE_URL >/dev/null; then DATABASE_URL_IS_OURS=''; fi
    if existing_server POSTRIDER_AMQP_URL >/dev/null; then AMQP_URL_IS_OURS=''; fi
    POSTRIDER_TENANT=$(secret "$dir/secrets/tenant" new_uuid)
    export POSTRIDER_JWT_SECRET POSTRIDER_JWT_ISSUER=postrider-local POSTRIDER_JWT_AUDIENCE=postrider-api
    POSTRIDER_JWT_SECRET=$(secret "$dir/secrets/jwt" random_hex 32)
    export POSTRIDER_ENCRYPTION_KEYS
    POSTRIDER_ENCRYPTION_KEYS=$(secret "$dir/secrets/encryption" new_encryption_key)
    export POSTRIDER_LOG_FORMAT=${POSTRIDER_LOG_FORMAT:-text}
    # Receivers on this machine, over plain http: for the local run alone.
    export POSTRIDER_RECEIVER_ALLOW_HTTP=true POSTRIDER_RECEIVER_ALLOWED_NETWORKS=127.0.0.0/8,::1/128
    # What a shell got from .local/env, but is no setting of a server.
    export -n POSTRIDER_TENANT
    unset POSTRIDER_URL POSTRIDER_WEBHOOK_SECRET POSTRIDER_TOKEN POSTRIDER_ADMIN_TOKEN POSTRIDER_GATEWAY_PID POSTRIDER_DISPATCHER_PIDS
}

# The private servers that this run needs: those that the caller's environment does not name.
private_servers() {
    local names=()
    [ -z "$DATABASE_URL_IS_OURS" ] || names+=(postgres)
    [ -z "$AMQP_URL_IS_OURS" ] || names+=(rabbitmq)
    printf '%s ' ${names[@]+"${names[@]}"}
}

# After the private servers have started: only then their ports are known.
settings_export_urls() {
    local dir=$LOCAL
    LOCAL_URLS=''
    if [ -n "$DATABASE_URL_IS_OURS" ]; then
        POSTRIDER_DATABASE_URL=$(postgres_url "$dir" postrider postrider)
        LOCAL_URLS=$POSTRIDER_DATABASE_URL
    fi
    if [ -n "$AMQP_URL_IS_OURS" ]; then
        POSTRIDER_AMQP_URL=$(rabbitmq_url "$dir")
        LOCAL_URLS="$LOCAL_URLS $POSTRIDER_AMQP_URL"
    fi
    export POSTRIDER_DATABASE_URL POSTRIDER_AMQP_URL
    export -n POSTRIDER_LOCAL_URLS 2>/dev/null || true
}

# --- gateway and dispatchers ---------------------------------------------------------------------------------------

health_is() { [ "$(curl --silent --max-time 5 --output /dev/null --write-out '%{http_code}' "$1")" = 200 ]; }

# What a running process was made of: its program and its settings. When that changes, it is started anew.
program_version() {
    local program=$1
    { cksum <"$program" && env | grep '^POSTRIDER_' | grep -vE '^POSTRIDER_(LOCAL_DIR|PORT_OFFSET)=' | sort; } | cksum
}

# program_start NAME PROGRAM PORT VARIABLE: starts it unless it runs already, and waits until it is ready. VARIABLE is
# the setting for its HTTP address. Runs in a subshell, so that this setting reaches no other program.
program_start() (
    name=$1 program=$2 preferred=$3 variable=$4
    record=$LOCAL/run/$name log=$LOCAL/log/$name.log version=$(program_version "$program")
    if process_runs "$record" && [ "$(cat "$record.version" 2>/dev/null)" = "$version" ]; then
        started='runs already'
    else
        started='started'
        process_stop "$record" TERM 40
        export "$variable=127.0.0.1:$(port_choose "$LOCAL/ports/$name" "$preferred")"
        if [ -e "$log" ]; then mv -f "$log" "$log.1"; fi
        process_start "$record" "$log" "$program"
        printf '%s\n' "$version" >"$record.version"
    fi
    if ! wait_until_up 60 "$record" health_is "$(program_url "$name")/health/ready"; then
        process_runs "$record" && cause='does not become ready' || cause='ended at once'
        process_stop "$record" TERM 40
        die_with_log "$log" "$name $cause"
    fi
    good "$name $started: $(program_url "$name"), process $(process_id "$record")"
)

program_url() { printf 'http://127.0.0.1:%s' "$(port_recorded "$LOCAL/ports/$1")"; }

# run_as SERVICE: from here on, in a subshell, the servers are reached as the user of a service, where they are ours.
run_as() {
    if [ -n "$DATABASE_URL_IS_OURS" ]; then POSTRIDER_DATABASE_URL=$(postgres_url "$LOCAL" "$1" postrider); fi
    if [ -n "$AMQP_URL_IS_OURS" ]; then POSTRIDER_AMQP_URL=$(rabbitmq_url "$LOCAL" "$1"); fi
}

# In a subshell, so that its users and the address of its metrics reach no other program. The log says which port it found.
gateway_start() (
    run_as gateway
    export POSTRIDER_HEALTH_ADDRESS=127.0.0.1:0
    program_start gateway "$BINARIES/api-gateway" "$GATEWAY_PORT" POSTRIDER_HTTP_ADDRESS
)

# dispatchers_start N: starts what is missing, and stops what is too many.
dispatchers_start() {
    local wanted=$1 number
    for ((number = 1; number <= wanted; number++)); do
        (
            run_as dispatcher
            program_start "dispatcher-$number" "$BINARIES/dispatcher" "$DISPATCHER_PORT" POSTRIDER_HEALTH_ADDRESS
        )
    done
    for number in $(dispatcher_numbers); do
        [ "$number" -le "$wanted" ] || programs_stop "dispatcher-$number"
    done
}

# The numbers of all dispatchers that were started, in order.
dispatcher_numbers() {
    local record
    for record in "$LOCAL"/run/dispatcher-*; do
        [[ $record =~ /dispatcher-([0-9]+)$ ]] && printf '%s\n' "${BASH_REMATCH[1]}"
    done | sort -n
}

dispatcher_ids() {
    local number ids=()
    for number in $(dispatcher_numbers); do
        ids+=("$(process_id "$LOCAL/run/dispatcher-$number" || true)")
    done
    printf '%s' "${ids[*]}"
}

# programs_stop NAME…: all are asked first and waited for afterwards, since each may take its time to drain.
programs_stop() {
    local name pid asked=()
    for name in "$@"; do
        if pid=$(process_id "$LOCAL/run/$name"); then
            kill -TERM "$pid" 2>/dev/null || true
            asked+=("$name")
        fi
    done
    for name in ${asked[@]+"${asked[@]}"}; do
        wait_for 40 process_gone "$LOCAL/run/$name" || warn "$name does not stop; killing it"
        process_stop "$LOCAL/run/$name" KILL 5
        good "$name stopped"
    done
    for name in "$@"; do
        rm -f "$LOCAL/run/$name" "$LOCAL/run/$name.version"
    done
}

# --- .local/env ----------------------------------------------------------------------------------------------------

mint_token() { "$BINARIES/postrider" token --tenant "$POSTRIDER_TENANT" --scope "$1" --ttl 30d; }

link_command() {
    mkdir -p "$LOCAL/bin"
    ln -sfn "$BINARIES/postrider" "$LOCAL/bin/postrider"
}

write_env() {
    {
        echo "# Made by ./scripts/up. In a shell: . $(short_path "$LOCAL/env")"
        print_export POSTRIDER_URL "$(program_url gateway)"
        print_export POSTRIDER_TENANT "$POSTRIDER_TENANT"
        print_export POSTRIDER_TOKEN "$(mint_token "$TENANT_SCOPES")"
        print_export POSTRIDER_ADMIN_TOKEN "$(mint_token "$TENANT_SCOPES admin")"
        # For a receiver of one's own: `postrider listen --secret "$POSTRIDER_WEBHOOK_SECRET"`.
        print_export POSTRIDER_WEBHOOK_SECRET "$(secret "$LOCAL/secrets/webhook" new_signing_secret)"
        print_export POSTRIDER_JWT_SECRET "$POSTRIDER_JWT_SECRET"
        print_export POSTRIDER_JWT_ISSUER "$POSTRIDER_JWT_ISSUER"
        print_export POSTRIDER_JWT_AUDIENCE "$POSTRIDER_JWT_AUDIENCE"
        print_export POSTRIDER_ENCRYPTION_KEYS "$POSTRIDER_ENCRYPTION_KEYS"
        print_export POSTRIDER_DATABASE_URL "$POSTRIDER_DATABASE_URL"
        print_export POSTRIDER_AMQP_URL "$POSTRIDER_AMQP_URL"
        print_export POSTRIDER_GATEWAY_PID "$(process_id "$LOCAL/run/gateway")"
        print_export POSTRIDER_DISPATCHER_PIDS "$(dispatcher_ids)"
        echo "# Private servers, not existing ones that ./scripts/up should use instead of its own."
        print_export POSTRIDER_LOCAL_URLS "$LOCAL_URLS"
        echo "# The command \`postrider\`."
        print_path "$LOCAL/bin"
    } | write_private "$LOCAL/env"
}

# Once is enough, however often the file is sourced.
print_path() {
    local quoted
    quoted=$(print_export X "$1")
    quoted=${quoted#export X=}
    # shellcheck disable=SC2016 # the shell that sources the file evaluates it
    printf 'case ":$PATH:" in *:%s:*) ;; *) export PATH=%s:"$PATH" ;; esac\n' "$quoted" "$quoted"
}
