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

remove_packages() { # remove_packages LISTING COMMAND NAMES: remove the packages that were installed with the engine
    sh -c "$1" | sort > "$STATE/packages.now"
    if [ ! -e "$STATE/packages.after" ]; then
        # The installation did not complete: only the packages that it requested are certainly ours.
        printf '%s\n' "$3" | tr ' ' '\n' | sort > "$STATE/packages.after"
    fi
    came=$(comm -13 "$STATE/packages.before" "$STATE/packages.after" | comm -12 - "$STATE/packages.now" | tr '\n' ' ')
    [ -n "$came" ] || return 0
    DEBIAN_FRONTEND=noninteractive sh -c "$2 $came" > "$STATE/remove.log" 2>&1 < /dev/null || {
        tail -n 40 "$STATE/remove.log" >&2
        fail "The engine's packages cannot all be removed"
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
