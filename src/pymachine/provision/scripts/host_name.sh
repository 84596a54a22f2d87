# shellcheck shell=sh
# The host's name, for hosts that were made for a machine. docker-machine sets it in the same files.

name_host() { # name_host NAME: give the host this name for good; a failure is only a warning
    [ "$(cat /proc/sys/kernel/hostname)" != "$1" ] || return 0
    output=$(change_host_name "$1" 2>&1) || warn "the host cannot be named $1: $output"
}

change_host_name() {
    if has sethostname; then # boot2docker
        sethostname "$1" && mkdir -p /var/lib/boot2docker/etc && echo "$1" > /var/lib/boot2docker/etc/hostname
        return
    fi
    # sudo looks up the host's own name, so the new one must be known before.
    grep -q "[[:space:]]$1\([[:space:]]\|\$\)" /etc/hosts 2> /dev/null || echo "127.0.1.1 $1" >> /etc/hosts || return
    (umask 022 && echo "$1" > /etc/hostname) && hostname "$1"
}
