# shellcheck shell=sh
# The start of every script that is sent to a host. The rest is in a function that the last line calls, so that an
# incomplete script, from a broken connection, does nothing.
set -eu
PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL
umask 077
# A login shell's start-up files may have printed something before this.
echo pymachine-begin

has() { command -v "$1" > /dev/null 2>&1; }

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

# Prints a warning that pymachine shows to the user. The step continues.
warn() { printf '%s\n' "$*" | sed 's/^/pymachine-warning /'; }

# One pymachine at a time. A package manager left running by a broken connection holds the lock until it ends.
lock() {
    mkdir -p "$STATE"
    has flock || return 0
    exec 9> "$STATE/lock"
    flock -w 900 9 || fail "another pymachine has been working on this host for 15 minutes"
}

# note NAME COMMAND: save the output of COMMAND in the state folder, once.
note() {
    if [ ! -e "$STATE/$1" ]; then
        sh -c "$2" | sort > "$STATE/$1.new"
        mv "$STATE/$1.new" "$STATE/$1"
    fi
}
