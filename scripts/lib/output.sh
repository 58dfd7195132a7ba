# shellcheck shell=bash
# What a person reads. Everything but a script's own result goes to standard error, so that results can be captured.

# shellcheck disable=SC2034 # used all over the library
if [ -t 2 ] && [ -z "${NO_COLOR:-}" ] && [ "${TERM:-dumb}" != dumb ]; then
    BOLD=$'\e[1m' DIM=$'\e[2m' RED=$'\e[31m' GREEN=$'\e[32m' YELLOW=$'\e[33m' CYAN=$'\e[36m' PLAIN=$'\e[0m'
else
    BOLD='' DIM='' RED='' GREEN='' YELLOW='' CYAN='' PLAIN=''
fi

heading() { printf '\n%s%s%s\n' "$BOLD" "$*" "$PLAIN" >&2; }
say() { printf '  %s\n' "$*" >&2; }
good() { printf '  %s✓%s %s\n' "$GREEN" "$PLAIN" "$*" >&2; }
warn() { printf '  %s!%s %s\n' "$YELLOW" "$PLAIN" "$*" >&2; }

# Says what failed. The rest of the arguments are further lines: the cause, or what to do.
complain() {
    printf '\n%serror:%s %s\n' "$RED$BOLD" "$PLAIN" "$1" >&2
    shift
    if [ $# -gt 0 ]; then
        printf '  %s\n' "$@" >&2
    fi
}

die() {
    complain "$@"
    exit 1
}

# Shows the last lines of a log, and where the rest is.
show_log() {
    local log=$1 lines=${2:-20}
    [ -s "$log" ] || return 0
    printf '\n  %slast lines of %s%s\n' "$DIM" "$(short_path "$log")" "$PLAIN" >&2
    tail -n "$lines" "$log" | sed 's/^/  | /' >&2
    printf '  %smore: less %s%s\n' "$DIM" "$(short_path "$log")" "$PLAIN" >&2
}

die_with_log() {
    local log=$1
    shift
    complain "$@"
    show_log "$log"
    exit 1
}

# A path as the reader would type it from the checkout.
short_path() { printf '%s' "${1#"$ROOT"/}"; }

# Writes standard input to a file that only its owner can read, all of it or nothing.
write_private() {
    local file=$1
    (umask 077 && cat >"$file.new")
    mv -f "$file.new" "$file"
}

# Random bytes as hexadecimal digits: safe in URLs, configuration files and shell words.
random_hex() { od -An -N "$1" -tx1 /dev/urandom | tr -d ' \n'; }

# Prints a secret kept in a file; makes it once, by the command given.
secret() {
    local file=$1
    shift
    if [ ! -s "$file" ]; then
        mkdir -p "$(dirname "$file")"
        "$@" | write_private "$file"
    fi
    cat "$file"
}
