# shellcheck shell=sh
# The engine as a service, whatever starts it. What is started must not hold the lock (descriptor 9) for its life.

service() { # service start|stop|restart|reload
    case $SERVICE in
        systemd)
            systemctl daemon-reload
            # A unit that failed five times in ten seconds is not tried again before that is forgotten.
            systemctl reset-failed docker.service 2> /dev/null || true
            systemctl "$1" docker.service 9>&-
            ;;
        openrc)
            if [ "$1" = reload ]; then
                kill -HUP "$(cat /run/docker.pid)"
            else
                rc-service docker "$1" 9>&- || return 1
                [ "$1" = stop ] || await_socket
            fi
            ;;
        boot2docker) /etc/init.d/docker "$1" 9>&- ;;
    esac
}

await_socket() {
    tries=0
    while [ ! -S /var/run/docker.sock ]; do
        tries=$((tries + 1))
        [ "$tries" -le 60 ] || return 1
        sleep 1
    done
}

at_boot() { # at_boot yes|no: whether the engine starts with the host; if that fails, the rest is done all the same
    case $SERVICE-$1 in
        systemd-yes) set -- systemctl enable docker.service ;;
        systemd-no) set -- systemctl disable docker.service ;;
        openrc-yes) set -- rc-update add docker default ;;
        openrc-no) set -- rc-update del docker default ;;
        *) return 0 ;;
    esac
    said=$("$@" 2>&1) || warn "\`$*\` failed: $said"
}

put() { # put SOURCE PATH: the content of SOURCE at PATH in one step, with the owner and mode of what is there
    if [ -e "$2" ]; then cp -p "$2" "$2.pymachine-put"; fi
    cat "$1" > "$2.pymachine-put"
    mv -f "$2.pymachine-put" "$2"
}

# live_restore on|off PATH: let the engine take over $STATE/live.json at PATH, with live-restore switched so. While it
# is on, containers go on when the engine restarts.
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
        sleep 5 # without a client there is nobody to ask
    fi
}
