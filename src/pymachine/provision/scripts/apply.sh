# shellcheck shell=sh
# Installs files, all or none, and makes the engine read them. The originals are kept as backups.

BACKUP_SUFFIX=.before-pymachine
staged=
withdrawn=
keeping=
kept=

stage() { # stage PATH MODE < CONTENT: write PATH.pymachine-new, with the owner and mode of an existing PATH
    parent=${1%/*}
    [ -d "$parent" ] || (umask 022 && mkdir -p "$parent")
    staged="$staged $1"
    if [ -e "$1" ]; then
        cp -p "$1" "$1.pymachine-new"
        cat > "$1.pymachine-new"
    else
        cat > "$1.pymachine-new"
        chmod "$2" "$1.pymachine-new"
    fi
}

withdraw() { # withdraw PATH: mark it for removal
    withdrawn="$withdrawn $1"
}

keep() { # keep PATH: back up the original, once
    if [ -e "$1" ] && [ ! -e "$1$BACKUP_SUFFIX" ]; then
        kept="$kept $1"
        cp -p "$1" "$1$BACKUP_SUFFIX"
    fi
}

clean() {
    for each in $staged $withdrawn; do
        rm -f "$each.pymachine-new" "$each.pymachine-old"
    done
    rm -f "$STATE/live.json" "$STATE/before.json"
}

back_up() {
    for each in $staged $withdrawn; do
        if [ -e "$each" ]; then cp -p "$each" "$each.pymachine-old"; fi
    done
}

commit_state() { # runs first, since `restore` must know every file that was changed
    mv -f "$STATE/state.json.pymachine-new" "$STATE/state.json"
}

commit() {
    for each in $staged; do
        if [ -e "$each.pymachine-new" ]; then mv -f "$each.pymachine-new" "$each"; fi
    done
    for each in $withdrawn; do rm -f "$each"; done
}

undo() {
    for each in $staged $withdrawn; do
        if [ -e "$each.pymachine-old" ]; then mv -f "$each.pymachine-old" "$each"; else rm -f "$each"; fi
    done
    for each in $kept; do rm -f "$each$BACKUP_SUFFIX"; done
}

validate() { # validate PATH: let dockerd check that daemon.json; versions before 23 cannot
    if [ ! -e "$1" ] || ! dockerd --help 2>&1 | grep -q -e '--validate'; then return 0; fi
    dockerd --validate --config-file "$1" > /dev/null || {
        undo
        rm -f "$STATE/pending"
        fail "The engine rejects the new $1; the old one was restored"
    }
}

keep_containers() { # keep_containers PATH < CONTENT: reload daemon.json with live-restore on, without a restart
    cat > "$STATE/live.json"
    keeping=$1
    live_restore on "$1" || {
        undo
        service reload
        rm -f "$STATE/pending"
        fail "The engine does not enable live-restore, and without it the running containers would stop"
    }
}

activate() { # activate restart|reload
    if service "$1"; then
        rm -f "$STATE/pending"
        return
    fi
    {
        echo "The engine does not start with the new configuration, so the old one was restored. Its log:"
        case $SERVICE in
            systemd) journalctl -q --no-pager -o cat -n 30 -u docker.service || true ;;
            openrc) tail -n 30 /var/log/docker.log || true ;;
            *) tail -n 30 /var/lib/boot2docker/log/docker.log || true ;;
        esac
    } >&2
    undo
    if [ "$WAS_ACTIVE" = no ] || start_as_before; then rm -f "$STATE/pending"; fi
    exit 1
}

start_as_before() {
    if [ -z "$keeping" ]; then
        service restart
        return
    fi
    cp -p "$keeping" "$STATE/before.json"
    put "$STATE/live.json" "$keeping"
    service restart || return 1
    live_restore off "$keeping"
    put "$STATE/before.json" "$keeping"
}
