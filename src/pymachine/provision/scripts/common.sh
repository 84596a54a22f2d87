# shellcheck shell=sh
# In front of every script that is sent to a host. What follows is in a function that is called on the last line, so
# that half a script, from a connection that broke, does nothing at all.
set -eu
PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL
umask 077
# A login shell's start-up files may have printed something before.
echo pymachine-begin

has() { command -v "$1" > /dev/null 2>&1; }

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

# What the user is to know, though the step goes on: pymachine shows it.
warn() { printf '%s\n' "$*" | sed 's/^/pymachine-warning /'; }

# One pymachine at a time; a package manager that a broken connection left behind holds this too, until it has ended.
lock() {
    mkdir -p "$STATE"
    has flock || return 0
    exec 9> "$STATE/lock"
    flock -w 900 9 || fail "another pymachine has been at work on this host for 15 minutes"
}

# note NAME COMMAND: keep what COMMAND prints in the state folder, once.
note() {
    if [ ! -e "$STATE/$1" ]; then
        sh -c "$2" | sort > "$STATE/$1.new"
        mv "$STATE/$1.new" "$STATE/$1"
    fi
}
