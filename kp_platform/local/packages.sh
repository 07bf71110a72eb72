#!/bin/sh
# packages.sh [test]: installs the missing Debian packages. `test` adds the browser of the browser
# tests, PostgreSQL, the tunnel of a secure stack, and the compilers of the Go example.
# Runs before there is a virtual environment.
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

# The first of the names in this system's package lists, else the last, e.g. on a machine without
# lists.
first_available() {
    for name; do
        if [ -n "$(apt-cache --quiet=0 policy "$name" 2>/dev/null | grep 'Candidate: [0-9]')" ]; then
            echo "$name"
            return
        fi
    done
    echo "$name"
}

find_missing() {
    missing=
    "$python" -c 'import ensurepip, venv' 2>/dev/null || need python3-venv
    java || need "$(first_available openjdk-17-jre-headless default-jre-headless)"
    PATH="$PATH:/usr/sbin" command -v redis-server >/dev/null || need redis-server
    library 'libaio\.so\.1' || need "$(first_available libaio1t64 libaio1)"
    library 'libnuma\.so\.1' || need libnuma1
    [ "${1:-}" != test ] || find_missing_for_tests
}

find_missing_for_tests() {
    browser >/dev/null || need "$(first_available chromium chromium-browser)"
    PATH="$PATH:/usr/sbin" command -v stunnel >/dev/null || need stunnel4
    command -v go >/dev/null || need golang-go
    command -v gcc >/dev/null || need gcc
    [ -e /usr/include/stdio.h ] || need libc6-dev
    ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || need postgresql
    [ -d "$kafka_for_go" ] || need golang-github-confluentinc-confluent-kafka-go-dev
}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "kp_platform needs Python 3.11 or newer: run make PYTHON=/path/to/python3 ..." >&2
    exit 1
}
find_missing "${1:-}"
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "missing system packages (Debian names):$missing; install them and run this again" >&2
    exit 1
fi
as_root=
if [ "$(id -u)" != 0 ]; then
    prompt=-n # without a terminal sudo cannot ask for a password
    [ ! -t 0 ] || prompt=
    if ! command -v sudo >/dev/null || ! sudo $prompt true; then
        command="apt-get update && apt-get install -y$missing"
        echo "not root and no sudo: ask an administrator to run: $command" >&2
        exit 1
    fi
    as_root=sudo
fi

log=$(mktemp)
policy=/usr/sbin/policy-rc.d
no_start=
trap 'rm -f "$log"; [ -z "$no_start" ] || $as_root rm -f "$policy"' EXIT
trap 'exit 130' INT TERM HUP

# A new machine may run its first upgrade: wait up to 5 minutes for apt's locks.
apt_get() {
    $as_root env LC_ALL=C DEBIAN_FRONTEND=noninteractive \
        apt-get -qq -o DPkg::Lock::Timeout=300 "$@" >"$log" 2>&1
}

update() {
    tries=60 # the timeout above does not apply to the lock of the lists
    while ! apt_get update && [ $tries -gt 0 ] && grep -q 'Could not get lock' "$log"; do
        tries=$((tries - 1))
        sleep 5
    done
    cat "$log" >&2 # a source that does not answer must not prevent packages of other sources
}

update
find_missing "${1:-}" # the update may have added names
echo "installing system packages:$missing"
# No package may start a server: the stack starts its own, on its own ports.
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
find_missing "${1:-}"
if [ -n "$missing" ]; then
    echo "still missing after the installation:$missing (for $(command -v "$python"))" >&2
    exit 1
fi
