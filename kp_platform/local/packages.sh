#!/bin/sh
# packages.sh [test]: installs the Debian packages that are missing, and nothing when none is.
# `test` adds the browser of the browser tests, PostgreSQL, the tunnel of a secure stack, and what the
# example in Go is built with. Runs before there is a virtual environment.
set -eu

python=${PYTHON:-python3}
kafka_for_go=/usr/share/gocode/src/github.com/confluentinc/confluent-kafka-go
missing=

need() { missing="$missing $1"; }

library() { PATH="$PATH:/sbin:/usr/sbin" ldconfig -p | grep -q "$1"; }

java() {
    [ -n "${KP_ELASTICSEARCH_JAVA_HOME:-}" ] && return 0
    for release in /usr/lib/jvm/*/release; do
        grep -qs 'jdk\.jdi' "$release" &&
            grep -Eq '^JAVA_VERSION="(1[7-9]|[2-9][0-9])' "$release" && return 0
    done
    return 1
}

browser() { command -v chromium || command -v google-chrome || command -v chromium-browser; }

# The first of the names that this system's package lists know, else the last, as on a machine
# without lists.
first_known() {
    for name; do
        if [ -n "$(apt-cache --quiet=0 policy "$name" 2>/dev/null | grep 'Candidate: [0-9]')" ]; then
            echo "$name"
            return
        fi
    done
    echo "$name"
}

look() {
    missing=
    "$python" -c 'import ensurepip, venv' 2>/dev/null || need python3-venv
    java || need "$(first_known openjdk-17-jre-headless default-jre-headless)"
    PATH="$PATH:/usr/sbin" command -v redis-server >/dev/null || need redis-server
    library 'libaio\.so\.1' || need "$(first_known libaio1t64 libaio1)"
    library 'libnuma\.so\.1' || need libnuma1
    [ "${1:-}" != test ] || look_for_tests
}

look_for_tests() {
    browser >/dev/null || need "$(first_known chromium chromium-browser)"
    PATH="$PATH:/usr/sbin" command -v stunnel >/dev/null || need stunnel4
    command -v go >/dev/null || need golang-go
    command -v gcc >/dev/null || need gcc
    [ -e /usr/include/stdio.h ] || need libc6-dev
    ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || need postgresql
    [ -d "$kafka_for_go" ] || need golang-github-confluentinc-confluent-kafka-go-dev
}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "kp_platform needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3 ..." >&2
    exit 1
}
look "${1:-}"
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "missing system packages (Debian's names):$missing; install them and try again" >&2
    exit 1
fi
as_root=
if [ "$(id -u)" != 0 ]; then
    can_ask=-n # without a terminal sudo cannot ask for a password
    [ ! -t 0 ] || can_ask=
    if ! command -v sudo >/dev/null || ! sudo $can_ask true; then
        command="apt-get update && apt-get install -y$missing"
        echo "not root and no sudo: let an administrator run: $command" >&2
        exit 1
    fi
    as_root=sudo
fi

log=$(mktemp)
policy=/usr/sbin/policy-rc.d
no_start=
trap 'rm -f "$log"; [ -z "$no_start" ] || $as_root rm -f "$policy"' EXIT
trap 'exit 130' INT TERM HUP

# A fresh machine may be busy with its first upgrade: wait up to 5 minutes for apt's locks.
apt_get() {
    $as_root env LC_ALL=C DEBIAN_FRONTEND=noninteractive \
        apt-get -qq -o DPkg::Lock::Timeout=300 "$@" >"$log" 2>&1
}

update() {
    tries=60 # the timeout above does not count for the lock of the lists
    while ! apt_get update && [ $tries -gt 0 ] && grep -q 'Could not get lock' "$log"; do
        tries=$((tries - 1))
        sleep 5
    done
    cat "$log" >&2 # a source that does not answer must not stop packages that others have
}

update
look "${1:-}" # names that were unknown before the update
echo "installing system packages:$missing"
# No package may start a server: the stack runs its own, on its own ports.
if [ ! -e "$policy" ]; then
    no_start=yes
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod 755 "$policy"
fi
# shellcheck disable=SC2086  # a list of names
if ! apt_get install -y --no-install-recommends $missing; then
    tail -n 20 "$log" >&2
    echo "cannot install$missing" >&2
    exit 1
fi
look "${1:-}"
if [ -n "$missing" ]; then
    echo "still missing after the installation:$missing (for $(command -v "$python"))" >&2
    exit 1
fi
