# shellcheck shell=bash
# Installs what is missing, and says so. On Debian and its relatives only; elsewhere it says what to install.

# Registered needs that are not met, as Debian packages and in words for other systems.
MISSING_PACKAGES=()
MISSING_THINGS=()

# need CHECK WORDS PACKAGE…: CHECK is a command that succeeds when the thing is there.
need() {
    local check=$1 words=$2
    shift 2
    if ! $check >/dev/null 2>&1; then
        MISSING_THINGS+=("$words")
        MISSING_PACKAGES+=("$@")
    fi
}

has_command() { command -v "$1" >/dev/null 2>&1; }

can_install() { has_command apt-get && { [ "$(id -u)" = 0 ] || has_command sudo; }; }

# Installs what `need` found missing.
install_missing() {
    [ ${#MISSING_PACKAGES[@]} -gt 0 ] || return 0
    if ! can_install; then
        die "these are missing, and this script can install them only on Debian or Ubuntu, as root or with sudo:" \
            "${MISSING_THINGS[@]/#/- }" \
            "On Debian or Ubuntu: apt-get install ${MISSING_PACKAGES[*]}"
    fi
    say "installing ${MISSING_PACKAGES[*]}"
    if [ "$(id -u)" != 0 ] && ! sudo -n true 2>/dev/null; then
        say "sudo asks for your password"
        sudo -v || die "without root's rights this cannot be installed" "apt-get install ${MISSING_PACKAGES[*]}"
    fi
    mkdir -p "$LOCAL/log"
    install_packages "${MISSING_PACKAGES[@]}"
    MISSING_PACKAGES=()
    MISSING_THINGS=()
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# The packages bring services of their own (a `main` Postgres cluster, a RabbitMQ on the default port). None of them is
# wanted: scripts/lib/apt-quietly installs without starting them.
install_packages() {
    local log=$LOCAL/log/apt.log pid
    as_root "$LIB/apt-quietly" "$@" </dev/null >"$log" 2>&1 &
    pid=$!
    if ! watch "$pid" "$log" apt_progress; then
        die_with_log "$log" "apt-get could not install: $*"
    fi
    good "installed"
}

# The last thing that apt and dpkg said they are doing.
apt_progress() { grep -E '^(Get:|Unpacking|Setting up|Processing)' "$1" | tail -n 1 | cut -c 1-70; }

# watch PID LOG FUNCTION: until the process ends, shows what FUNCTION makes of the log: rewriting one line on a
# terminal, else a line every ten seconds. Returns the exit code of the process.
watch() {
    local pid=$1 log=$2 progress=$3 started=$SECONDS shown=$SECONDS line
    while kill -0 "$pid" 2>/dev/null; do
        line=$($progress "$log" || true)
        if [ -t 2 ]; then
            printf '\r\e[K  %s%ss %s%s' "$DIM" "$((SECONDS - started))" "$line" "$PLAIN" >&2
        elif [ $((SECONDS - shown)) -ge 10 ]; then
            shown=$SECONDS
            say "$((SECONDS - started))s $line"
        fi
        sleep 0.3
    done
    [ ! -t 2 ] || printf '\r\e[K' >&2
    wait "$pid"
}
