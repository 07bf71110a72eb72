#!/bin/sh
# packages.sh [test]: installs the Debian packages that are missing, and nothing when none is.
# `test` adds the browser of the browser tests. Runs before there is a virtual environment.
set -eu

python=${PYTHON:-python3}
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

# The first of the names that this system's package lists know.
first_known() {
    for name; do
        if [ -n "$(apt-cache --quiet=0 policy "$name" 2>/dev/null | grep 'Candidate: [0-9]')" ]; then
            echo "$name"
            return
        fi
    done
    echo "$1"
}

look() {
    missing=
    "$python" -c 'import ensurepip, venv' 2>/dev/null || need python3-venv
    java || need "$(first_known openjdk-17-jre-headless openjdk-21-jre-headless default-jre-headless)"
    PATH="$PATH:/usr/sbin" command -v redis-server >/dev/null || need redis-server
    library 'libaio\.so\.1' || need "$(first_known libaio1 libaio1t64)"
    library 'libnuma\.so\.1' || need libnuma1
    [ "${1:-}" != test ] || command -v chromium >/dev/null || need chromium
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
    # Without a terminal sudo cannot ask for a password.
    if ! command -v sudo >/dev/null || { [ ! -t 0 ] && ! sudo -n true 2>/dev/null; }; then
        echo "not root and no sudo: let an administrator run: apt-get install -y$missing" >&2
        exit 1
    fi
    as_root=sudo
fi

$as_root apt-get update -qq
look "${1:-}" # names that were unknown before the update
echo "installing system packages:$missing"
# No package may start a server: the stack runs its own, on its own ports.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap '$as_root rm -f "$policy"' EXIT
    trap 'exit 130' INT TERM HUP
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod 755 "$policy"
fi
# shellcheck disable=SC2086  # a list of names
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
