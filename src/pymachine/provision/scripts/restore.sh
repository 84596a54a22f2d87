# shellcheck shell=sh
# Restores the host's former state.

BACKUP_SUFFIX=.before-pymachine

put_back() { # put_back PATH: restore the backup, or remove PATH if there was no original
    if [ -e "$1$BACKUP_SUFFIX" ]; then
        mv -f "$1$BACKUP_SUFFIX" "$1"
    else
        rm -f "$1"
    fi
}

stop_engine() { # before its packages are removed
    case $SERVICE in
        systemd)
            set -- systemctl stop docker.service
            if systemctl cat docker.socket > /dev/null 2>&1; then set -- "$@" docker.socket; fi
            ;;
        *) set -- service stop ;;
    esac
    output=$("$@" 2>&1) || warn "the engine could not be stopped: $output"
    at_boot no
    if has ip; then ip link delete docker0 > /dev/null 2>&1 || true; fi
}

# remove_packages WHAT LISTING COMMAND NAMES: remove the packages that came between the lists WHAT.before and WHAT.after
remove_packages() {
    sh -c "$2" | sort > "$STATE/$1.now"
    if [ ! -e "$STATE/$1.after" ]; then
        # The installation did not complete: only the packages that it requested are certainly ours.
        printf '%s\n' "$4" | tr ' ' '\n' | sort > "$STATE/$1.after"
    fi
    came=$(comm -13 "$STATE/$1.before" "$STATE/$1.after" | comm -12 - "$STATE/$1.now" | tr '\n' ' ')
    [ -n "$came" ] || return 0
    DEBIAN_FRONTEND=noninteractive sh -c "$3 $came" > "$STATE/remove.log" 2>&1 < /dev/null || {
        tail -n 40 "$STATE/remove.log" >&2
        fail "The packages that pymachine installed cannot all be removed: $came"
    }
}

remove_leftovers() { # remove_leftovers FOLDER...: remove folders that did not exist before
    for each in "$@"; do
        grep -qxF "$each" "$STATE/found" || rm -rf "$each"
    done
}

remove_group() { # distributions do not remove it with the package
    if grep -q '^docker:' /etc/group && ! grep -qxF docker: "$STATE/found"; then
        groupdel docker 2> /dev/null || delgroup docker
    fi
}

remove_empty() {
    for each in "$@"; do
        if [ -d "$each" ] && ! grep -qxF "$each" "$STATE/found"; then rmdir "$each" 2> /dev/null || true; fi
    done
}
