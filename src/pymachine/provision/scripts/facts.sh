# shellcheck shell=sh
# Prints facts about a host, one word and value per line, and changes nothing. WATCHED and SECRET are lists of files.

lines() { sed 's/^/|/' "$1" && echo; }

first_found() {
    for each in "$@"; do
        if has "$each"; then
            command -v "$each"
            return
        fi
    done
}

init_system() {
    if [ -d /run/systemd/system ]; then
        echo systemd
    elif has rc-service; then
        echo openrc
    elif [ -x /etc/init.d/docker ]; then
        echo sysv
    fi
}

containers() { # the number of running ones; does not call an inactive engine, which would start it
    if [ "$1" = systemd ] && has docker && systemctl -q is-active docker.service; then
        docker ps -q | wc -l
    else
        cat /proc/[0-9]*/comm 2> /dev/null | grep -c '^containerd-shim' || true
    fi
}

engine_state() {
    case $1 in
        systemd)
            echo "active $(systemctl is-active docker.service 2> /dev/null || true)"
            echo "enabled $(systemctl is-enabled docker.service 2> /dev/null || true)"
            # The unit as it is after a daemon-reload, drop-ins included.
            echo unit
            systemctl cat docker.service 2> /dev/null > "$scratch" || true
            lines "$scratch"
            ;;
        openrc)
            if rc-service docker status > /dev/null 2>&1; then echo "active active"; fi
            if [ -e /etc/runlevels/default/docker ]; then echo "enabled enabled"; fi
            ;;
        *)
            if [ -S /var/run/docker.sock ]; then echo "active active"; fi
            ;;
    esac
}

has_fuse() {
    if [ -c /dev/fuse ] || { has modprobe && modprobe -n -q fuse; }; then echo yes; else echo no; fi
}

# A package manager left running by a broken connection may still change the host. Wait until it has ended.
wait_for_others() {
    for each in $STATES; do
        if [ -e "$each/lock" ] && has flock; then
            flock -w 900 "$each/lock" true || fail "another pymachine has been working on this host for 15 minutes"
        fi
    done
}

facts() {
    wait_for_others
    scratch=$(mktemp /tmp/pymachine.XXXXXX)
    trap 'rm -f "$scratch"' EXIT
    release=/etc/os-release
    [ -e "$release" ] || release=/usr/lib/os-release
    echo os-release
    lines "$release"
    init=$(init_system)
    echo "init $init"
    echo "dockerd $(first_found dockerd docker.dockerd)"
    engine_state "$init"
    echo "sshfs $(first_found sshfs)"
    echo "fuse $(has_fuse)"
    echo "containers $(containers "$init")"
    for each in /var/lib/docker/swarm/docker-state.json $PRESENT; do
        if [ -e "$each" ]; then echo "present $each"; fi
    done
    for each in $WATCHED; do
        if [ -f "$each" ]; then
            echo "file $each"
            lines "$each"
        fi
    done
    for each in $SECRET; do
        if [ -f "$each" ]; then echo "sha256 $(sha256sum < "$each" | cut -d ' ' -f 1) $each"; fi
    done
    echo end
}
