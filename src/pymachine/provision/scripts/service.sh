# shellcheck shell=sh
# The engine as a service of any service manager. A started process must not inherit the lock (descriptor 9).

service() { # service start|stop|restart|reload
    case $SERVICE in
        systemd)
            systemctl daemon-reload
            # systemd refuses a unit that failed five times in ten seconds until its failures are reset.
            systemctl reset-failed docker.service 2> /dev/null || true
            systemctl "$1" docker.service 9>&-
            ;;
        openrc)
            if [ "$1" = reload ]; then
                kill -HUP "$(cat /run/docker.pid)"
            else
                rc-service docker "$1" 9>&- || return 1
                [ "$1" = stop ] || wait_for_socket
            fi
            ;;
        boot2docker) /etc/init.d/docker "$1" 9>&- ;;
    esac
}

wait_for_socket() {
    tries=0
    while [ ! -S /var/run/docker.sock ]; do
        tries=$((tries + 1))
        [ "$tries" -le 60 ] || return 1
        sleep 1
    done
}

at_boot() { # at_boot yes|no: whether the engine starts with the host; a failure is only a warning
    case $SERVICE-$1 in
        systemd-yes) set -- systemctl enable docker.service ;;
        systemd-no) set -- systemctl disable docker.service ;;
        openrc-yes) set -- rc-update add docker default ;;
        openrc-no) set -- rc-update del docker default ;;
        *) return 0 ;;
    esac
    output=$("$@" 2>&1) || warn "\`$*\` failed: $output"
}

put() { # put SOURCE PATH: replace PATH by SOURCE's content in one step, keeping PATH's owner and mode
    if [ -e "$2" ]; then cp -p "$2" "$2.pymachine-put"; fi
    cat "$1" > "$2.pymachine-put"
    mv -f "$2.pymachine-put" "$2"
}

# live_restore on|off PATH: make the engine read $STATE/live.json at PATH, with live-restore switched on or off. While
# it is on, containers keep running when the engine restarts.
live_restore() {
    case $1 in on) value=true ;; *) value=false ;; esac
    sed "s/\"live-restore\": true/\"live-restore\": $value/" "$STATE/live.json" > "$STATE/switched.json"
    put "$STATE/switched.json" "$2"
    rm -f "$STATE/switched.json"
    service reload
    tries=0
    until live_restore_is "$value"; do
        tries=$((tries + 1))
        [ "$tries" -le 30 ] || return 1
        sleep 1
    done
}

live_restore_is() {
    if has docker; then
        docker info --format '{{.LiveRestoreEnabled}}' 2> /dev/null | grep -q "$1"
    else
        sleep 5 # there is no client to query the engine
    fi
}
