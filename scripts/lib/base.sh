# shellcheck shell=bash
# What every script starts with: strict mode, the two directories, and the other files of this library.
#
# A script sources this file and nothing else:
#   . "$(dirname "$(readlink -f "$0")")/lib/base.sh"
#
# scripts/lib/
#   output.sh    headings, warnings, errors, the end of a log
#   process.sh   start a process in the background, find it again, stop it
#   ports.sh     choose a free port once and remember it
#   packages.sh  install what is missing
#   postgres.sh  a private Postgres        rabbitmq.sh  a private RabbitMQ
#   rabbitmq_cluster.sh  three RabbitMQ nodes in a cluster
#   docker.sh    the same two in containers, where packages cannot be installed
#   services.sh  both together, or the servers that the caller names instead
#   postrider.sh build, migrate, gateway and dispatchers, .local/env
#   demo.sh      the demonstration at the end of ./scripts/up

set -euo pipefail

if ((BASH_VERSINFO[0] < 5)); then
    echo "these scripts need bash 5; this is $BASH_VERSION" >&2
    exit 1
fi

# ROOT is the checkout, LOCAL the directory for everything that a run leaves behind.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
LOCAL=${POSTRIDER_LOCAL_DIR:-$ROOT/.local}
case $LOCAL in
    /*) ;;
    *) LOCAL=$PWD/$LOCAL ;;
esac
LIB=$ROOT/scripts/lib

# Directories must stay passable for the user that Postgres runs as when we are root. Files with secrets are made
# private one by one, see `write_private`.
umask 022

for part in output process ports packages postgres rabbitmq rabbitmq_cluster docker services postrider demo; do
    # shellcheck source=/dev/null
    . "$LIB/$part.sh"
done
unset part
