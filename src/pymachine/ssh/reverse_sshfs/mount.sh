# shellcheck shell=sh
# Mounts a folder of the user's computer at MOUNT_POINT, as root. A session sends it over SSH to a shell, whose standard
# input and output become the SFTP connection. What it prints to standard error before `pymachine-begin` is the reason
# of a failure. The rest is in a function that the last line calls, so that an incomplete script does nothing.
set -eu
PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL
# Others must be able to enter the folders above a mount.
umask 022

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

uppermost_mount() { # uppermost_mount PATH: print the minor device number and the source of what is mounted at PATH
    where=$(printf '%s' "$1" | sed 's/\\/\\134/g; s/ /\\040/g')
    found=
    while read -r _ _ device _ at rest; do
        if [ "$at" = "$where" ]; then
            source=${rest##* - }
            source=${source#* }
            found="${device#*:} ${source%% *}"
        fi
    done < /proc/self/mountinfo
    printf '%s' "$found"
}

clear_point() { # clear_point PATH: unmount what an earlier connection left at PATH
    while found=$(uppermost_mount "$1") && [ -n "$found" ]; do
        if [ "${found#* }" = "$MOUNT_SOURCE" ]; then
            # The computer may have vanished without ending the connection: let the old sshfs wait no longer.
            control=/sys/fs/fuse/connections/${found%% *}/abort
            if [ -w "$control" ]; then { echo 1 > "$control"; } 2> /dev/null || true; fi
        else
            case $(ls -d "$1/." 2>&1) in
                *'not connected'*) ;; # the sshfs of another connection has ended
                *) fail "$1 is a mount point already (of ${found#* })" ;;
            esac
        fi
        # The sshfs may just be ending, and unmount it first.
        output=$(umount -l "$1" 2>&1) || [ "$(uppermost_mount "$1")" != "$found" ] || fail "$output"
    done
}

check_login() { # check_login PATH: refuse to hide the keys with which the next connection logs in
    home=$(getent passwd "$LOGIN" 2> /dev/null || grep "^$LOGIN:" /etc/passwd || true)
    home=$(printf '%s' "$home" | cut -d : -f 6)
    case $home/.ssh/ in
        "$1"/*) fail "$1 has the SSH keys of $LOGIN: choose another GUEST_PATH" ;;
    esac
}

await_mount() { # await_mount PATH PROCESS: print a line as soon as PATH is mounted, unless PROCESS ends before
    until [ -n "$(uppermost_mount "$1")" ]; do
        kill -0 "$2" 2> /dev/null || return 0
        sleep 0.1 2> /dev/null || sleep 1
    done
    # Only this mount of the file system is read-only, so that share-events can set the owners of files on its own one.
    # If this fails, the computer refuses changes with another error.
    if [ "$READ_ONLY" ]; then mount -i -o remount,bind,ro,nosuid,nodev "$1" > /dev/null || true; fi
    echo pymachine-mounted >&2
}

mount_share() {
    if ! command -v sshfs > /dev/null; then
        [ ! -d /usr/lib/pymachine ] || fail 'its image has no sshfs: pymachine upgrade gives it a newer one'
        fail 'sshfs is not installed'
    fi
    if [ ! -c /dev/fuse ]; then modprobe -q fuse 2> /dev/null || true; fi
    [ -c /dev/fuse ] || fail 'its kernel has no FUSE: there is no /dev/fuse'
    clear_point "$MOUNT_POINT"
    mkdir -p "$MOUNT_POINT"
    point=$(cd "$MOUNT_POINT" && pwd -P)
    check_login "$point"
    clear_point "$point"
    help=$(sshfs --help 2>&1 || true)
    options=$MOUNT_OPTIONS
    case $help in
        *passive*) options=passive,$options ;;
        *) options=slave,$options ;; # its name before sshfs 3.7
    esac
    # Debian's sshfs hides links that are absolute or contain "..".
    case $help in *no_contain_symlinks*) options=$options,no_contain_symlinks ;; esac
    # In the background twice, so that it is no child of sshfs, which never waits for one.
    (await_mount "$point" $$ < /dev/null > /dev/null &)
    echo pymachine-begin
    exec sshfs -f -o "$options" :/ "$point"
}

mount_share
