"""The Debian packages in the image, and their files that are left out."""

from __future__ import annotations

PACKAGES = (
    "base-files",
    "bash",
    "busybox-static",
    "ca-certificates",
    "containerd",
    "curl",
    "dnsmasq-base",
    "docker-cli",
    "docker.io",
    "e2fsprogs",
    "fdisk",
    "git",
    "inotify-tools",
    "iproute2",
    "iptables",
    "jq",
    "kmod",
    "netcat-openbsd",
    "openssh-client",
    "openssh-server",
    "openssh-sftp-server",
    "openssl",
    "parted",
    "procps",
    "rsync",
    "runc",
    "sshfs",
    "stunnel4",
    "sudo",
)
KERNEL = {"amd64": "linux-image-amd64", "arm64": "linux-image-arm64"}
# Packages that make the ISO bootable; see pymachine.image.boot.
LOADERS = {
    "amd64": ("grub-efi-amd64-signed", "isolinux", "shim-signed", "syslinux-common"),
    "arm64": ("grub-efi-arm64-signed", "shim-signed"),
}

# Dependencies that are not installed: busybox or the overlay replaces them, or only maintainer scripts need them, and
# none of those runs.
EXCLUDED = (
    "adduser",
    "awk",
    "base-passwd",
    "coreutils",
    "dash",
    "debconf",
    "debianutils",
    "dmidecode",
    "dmsetup",
    "dpkg",
    "fuse3",  # lets users other than root mount; sshfs runs as root
    "git-man",
    "grub-common",  # this and the next ones install boot loaders on disks
    "grub-efi-amd64-bin",
    "grub-efi-arm64-bin",
    "grub2-common",
    "init-system-helpers",
    "initramfs-tools",
    "libpam-runtime",
    "linux-base",
    "linux-initramfs-tool",
    "logsave",
    "liberror-perl",
    "lsb-base",
    "mawk",
    "media-types",
    "mokutil",
    "netbase",
    "passwd",
    "perl",
    "perl-base",
    "runit-helper",
    "shim-helpers-amd64-signed",
    "shim-helpers-arm64-signed",
    "shim-signed-common",
    "shim-unsigned",
    "sysvinit-utils",
    "systemd",
    "tar",
    "ucf",
    "util-linux",
)

# Of GLib, sshfs uses only libglib-2.0. The others are two thirds of the package.
_GLIB = tuple(
    f"usr/lib/{architecture}-linux-gnu/{name}"
    for architecture in ("x86_64", "aarch64")
    for name in ("gio/", "glib-2.0/", "libgio-2.0.", "libgmodule-2.0.", "libgobject-2.0.", "libgthread-2.0.")
)
# Files of the packages that are left out, by the start of their paths.
LEFT_OUT = (
    *_GLIB,
    "etc/apparmor.d/",
    "etc/cron.daily/",
    "etc/cron.d/",
    "etc/default/",
    "etc/init/",
    "etc/init.d/",
    "etc/kernel/",
    "etc/logrotate.d/",
    "etc/motd",
    "etc/update-motd.d/",
    "usr/bin/containerd-shim/",  # an older interface, as is runc-v1: the engine uses runc-v2
    "usr/bin/containerd-shim-runc-v1/",
    "usr/bin/containerd-stress/",
    "usr/bin/ctr/",
    "usr/games/",
    "usr/include/",
    "usr/lib/debug/",
    "usr/bin/git-shell/",  # Git's servers and rare clients: a third of its package
    "usr/bin/scalar/",
    "usr/lib/git-core/git-daemon/",
    "usr/lib/git-core/git-http-backend/",
    "usr/lib/git-core/git-http-push/",
    "usr/lib/git-core/git-imap-send/",
    "usr/lib/git-core/git-shell/",
    "usr/lib/git-core/scalar/",
    "usr/lib/pkgconfig/",
    "usr/lib/systemd/",
    "usr/lib/tmpfiles.d/",
    "usr/lib/sysusers.d/",
    "usr/lib/udev/",
    "usr/share/bash-completion/",
    "usr/share/bug/",
    "usr/share/common-licenses/",
    "usr/share/doc/",
    "usr/share/doc-base/",
    "usr/share/fish/",
    "usr/share/gitweb/",
    "usr/share/info/",
    "usr/share/initramfs-tools/",
    "usr/share/lintian/",
    "usr/share/locale/",
    "usr/share/man/",
    "usr/share/perl5/",
    "usr/share/polkit-1/",
    "usr/share/zsh/",
    "var/cache/",
    "var/lib/dpkg/",
)
