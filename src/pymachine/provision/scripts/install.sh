# shellcheck shell=sh
# Installs the engine. The package manager writes to a file and runs in a session of its own, so that it completes
# even if the connection breaks. Its progress is shown from that file.

follow() { # follow COMMAND: run it in the background, show its last line each second, and return its exit code
    log=$STATE/install.log
    : > "$log"
    if has setsid; then
        setsid sh -c "$1" > "$log" 2>&1 < /dev/null &
    else
        nohup sh -c "$1" > "$log" 2>&1 < /dev/null &
    fi
    job=$!
    while kill -0 "$job" 2> /dev/null; do
        tail -n 1 "$log"
        sleep 1
    done
    code=0
    wait "$job" || code=$?
    if [ "$code" -ne 0 ]; then
        tail -n 40 "$log" >&2
    fi
    return "$code"
}
