"""What is in an image, as data: sources, packages, what is left out, and which kernel modules are kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pymachine import __version__
from pymachine.image.errors import RecipeError

# Raised when the same recipe comes out as other bytes, so that images that are there are not taken for it.
WRITER = 3
KEYS = Path(__file__).parent / "keys"
ROOTFS = Path(__file__).parent / "rootfs"
RELEASE = "trixie"
# To be raised when the same recipe makes another image, since the code that lays it out has changed.
FORMAT = 2
ARCHITECTURES = ("amd64", "arm64")
# The archive key signs trixie and trixie-updates (a point release also with the stable key), the other one security.
ARCHIVE_KEYS = (KEYS / "debian-archive-trixie-automatic.asc", KEYS / "debian-archive-trixie-stable.asc")
SECURITY_KEYS = (KEYS / "debian-archive-trixie-security-automatic.asc",)


@dataclass(frozen=True, kw_only=True)
class Source:
    """One apt repository. `url` may be ``main`` or ``security``: the chosen Debian mirror's."""

    name: str
    url: str
    suite: str
    components: tuple[str, ...] = ("main",)
    keyring: tuple[Path, ...]
    """OpenPGP keys, binary or ASCII-armoured, one of which must have signed."""


DEBIAN = (
    Source(name="debian", url="main", suite=RELEASE, keyring=ARCHIVE_KEYS),
    Source(name="debian-updates", url="main", suite=f"{RELEASE}-updates", keyring=ARCHIVE_KEYS),
    Source(name="debian-security", url="security", suite=f"{RELEASE}-security", keyring=SECURITY_KEYS),
)

PACKAGES = (
    "base-files",
    "bash",
    "busybox-static",
    "ca-certificates",
    "containerd",
    "curl",
    "docker-cli",
    "docker.io",
    "e2fsprogs",
    "fdisk",
    "git",
    "iproute2",
    "iptables",
    "jq",
    "kmod",
    "openssh-client",
    "openssh-server",
    "openssh-sftp-server",
    "openssl",
    "parted",
    "procps",
    "rsync",
    "runc",
    "stunnel4",
    "sudo",
)
KERNEL = {"amd64": "linux-image-amd64", "arm64": "linux-image-arm64"}
# What starts the ISO by itself; see pymachine.image.boot.
LOADERS = {
    "amd64": ("grub-efi-amd64-signed", "isolinux", "shim-signed", "syslinux-common"),
    "arm64": ("grub-efi-arm64-signed", "shim-signed"),
}

# Wanted only by maintainer scripts, of which none runs, or replaced by busybox and the overlay.
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
    "git-man",
    "grub-common",  # this and the like: for installing the boot loaders on disks
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

LEFT_OUT = (
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
    "usr/bin/containerd-shim/",  # of older interfaces, as is runc-v1: the engine uses runc-v2
    "usr/bin/containerd-shim-runc-v1/",
    "usr/bin/containerd-stress/",
    "usr/bin/ctr/",
    "usr/games/",
    "usr/include/",
    "usr/lib/debug/",
    "usr/bin/git-shell/",  # servers of git, and what few clients use: a third of its package
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

# Patterns of fnmatch over a module's path below /usr/lib/modules/VERSION/kernel, without its suffix.
MODULES = (
    # disks and file systems
    "block/*",
    "drivers/block/{loop,nbd,virtio_blk,zram/*}",
    "drivers/ata/{ahci,ahci_platform,libahci,libata,ata_piix,ata_generic,pata_*amd*}",
    "drivers/cdrom/cdrom",
    "drivers/md/{dm-mod,dm-crypt,dm-snapshot,dm-thin-pool,dm-bufio}",
    "drivers/nvme/host/{nvme,nvme-core}",
    "drivers/scsi/{scsi_mod,sd_mod,sr_mod,sg,virtio_scsi,vmw_pvscsi,hv_storvsc,mptspi}",
    "drivers/message/fusion/{mptbase,mptscsih,mptspi}",
    "drivers/usb/storage/{usb-storage,uas}",
    "drivers/usb/host/{xhci-hcd,xhci-pci,ehci-hcd,ehci-pci,ohci-hcd,ohci-pci,uhci-hcd}",
    "fs/{9p/*,btrfs/*,ext4/*,jbd2/*,fat/*,exfat/*,fuse/*,isofs/*,mbcache,overlayfs/*,squashfs/*,udf/*,xfs/*}",
    "fs/{nfs/*,nfs_common/*,lockd/*,netfs/*,smb/client/*,autofs/*,configfs/*,binfmt_misc}",
    "fs/nls/{nls_ascii,nls_cp437,nls_iso8859-1,nls_utf8,nls_ucs2_utils}",
    "net/{9p/9pnet,9p/9pnet_fd,9p/9pnet_virtio,sunrpc/sunrpc,sunrpc/auth_gss/*,dns_resolver/*}",
    # networks
    "drivers/net/{bonding/*,dummy,ifb,macvlan,macvtap,ipvlan/*,tap,tun,veth,virtio_net,vxlan/*,geneve,net_failover}",
    "drivers/net/{wireguard/*,vmxnet3/*,hyperv/*,vrf,nlmon,mdio/*}",
    "drivers/net/ethernet/{amd/pcnet32,intel/e1000/*,intel/e1000e/*,realtek/8139cp,realtek/8139too}",
    "net/{bridge/*,8021q/*,802/*,llc/*,ipv4/*,ipv6/*,netfilter/*,netlink/*,packet/*,sched/*,tls/*,unix/*,xfrm/*,key/*}",
    "net/{vmw_vsock/*,core/*}",
    # guests of each hypervisor
    "drivers/virtio/*",
    "drivers/char/{virtio_console,hw_random/virtio-rng,hw_random/rng-core}",
    "drivers/crypto/virtio/*",
    "drivers/firmware/qemu_fw_cfg",
    "drivers/hv/{hv_vmbus,hv_utils,hv_balloon}",
    "drivers/hid/{hid,hid-generic,hid-hyperv,usbhid/usbhid}",
    "drivers/misc/vmw_balloon",
    "drivers/misc/vmw_vmci/*",
    "drivers/virt/{vmgenid,vboxguest/*}",
    "drivers/virt/coco/*",
    "fs/vboxsf/*",
    # the rest of a small machine
    "arch/*/crypto/*",
    "crypto/*",
    "lib/{crc*,crypto/*,libcrc32c,lru_cache,lz4/*,raid6/*,reed_solomon/*,ts_*,xxhash,zlib_*,zstd/*,objagg,parman}",
    "drivers/acpi/{button,ac,battery,evged}",
    "drivers/input/{evdev,mousedev,keyboard/atkbd,serio/*}",
    "drivers/ptp/*",
    "drivers/rtc/*",
    "drivers/tty/serial/8250/*",
    "drivers/watchdog/{softdog,i6300esb}",
    "drivers/gpio/{gpio-pl061,gpio_keys}",
    "drivers/input/keyboard/gpio_keys",
)
# To find and mount the ISO: on QEMU and libvirt (always), and where the disk is another one.
INITRD_MODULES = ("virtio_pci", "virtio_blk", "isofs", "overlay")
INITRD_MORE_MODULES = (
    "virtio_mmio",
    "virtio_scsi",
    "ahci",
    "ata_piix",
    "sd_mod",
    "sr_mod",
    "vmw_pvscsi",
    "hv_storvsc",
    "nvme",
    "loop",
    "xhci_pci",
    "ehci_pci",
    "usb_storage",
    "uas",
)
# The kernel's parameters that the image needs wherever it runs. A kernel that panics starts again after two seconds,
# with the machine's identity and data. It does once in a hundred boots on QEMU 7.2: while it starts it rewrites code of
# its own, and an emulator with several processors may run on one of them what another has just replaced, an `int3`
# that is nobody's. (A start with `maxcpus=1` prevents it, but to bring in the others takes each boot three seconds.)
COMMAND_LINE = "panic=2"
# The kernel's parameters where the ISO starts by itself, beside its consoles. Without audit, and without tests of each
# cipher by itself, it is up a minute sooner where a hypervisor is emulated.
BOOT_COMMAND_LINE = f"quiet loglevel=3 audit=0 cryptomgr.notests=1 {COMMAND_LINE}"

LINKS = {
    "bin": "usr/bin",
    "sbin": "usr/sbin",
    "lib": "usr/lib",
    # update-alternatives' part. Legacy: dockerd has its chains up a second sooner than with nft, in emulation.
    "usr/sbin/iptables": "iptables-legacy",
    "usr/sbin/iptables-restore": "iptables-legacy-restore",
    "usr/sbin/iptables-save": "iptables-legacy-save",
    "usr/sbin/ip6tables": "ip6tables-legacy",
    "usr/sbin/ip6tables-restore": "ip6tables-legacy-restore",
    "usr/sbin/ip6tables-save": "ip6tables-legacy-save",
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that an image's bytes depend on, besides the packages themselves and the files of ``rootfs/``."""

    architecture: str
    sources: tuple[Source, ...] = DEBIAN
    packages: tuple[str, ...] = PACKAGES
    excluded: tuple[str, ...] = EXCLUDED
    left_out: tuple[str, ...] = LEFT_OUT
    modules: tuple[str, ...] = MODULES
    initrd_modules: tuple[str, ...] = INITRD_MODULES
    initrd_more_modules: tuple[str, ...] = INITRD_MORE_MODULES
    loaders: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: dict(LOADERS))
    command_line: str = COMMAND_LINE
    boot_command_line: str = BOOT_COMMAND_LINE
    format: int = FORMAT
    links: Mapping[str, str] = field(default_factory=lambda: dict(LINKS))

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise RecipeError(
                f"no image can be built for the architecture {self.architecture}",
                hint=f"Choose one of: {', '.join(ARCHITECTURES)}",
            )

    @property
    def roots(self) -> tuple[str, ...]:
        """The packages that are asked for by name, the kernel's and the boot loaders' among them."""
        return (*self.packages, KERNEL[self.architecture], *self.loaders[self.architecture])

    def keeps(self, path: str) -> bool:
        """Whether a package's file at `path` goes into the image."""
        return not (path + "/").startswith(self.left_out)

    def digest(self) -> str:
        """SHA-256 over the recipe's data, to tell whether an image is of this recipe."""
        text = json.dumps(asdict(self), sort_keys=True, default=lambda path: path.name)
        return hashlib.sha256(text.encode()).hexdigest()

    def whole_digest(self) -> str:
        """SHA-256 over the recipe and the files of ``rootfs/``: what an image is made of besides its packages."""
        digest = hashlib.sha256(f"{__version__}\n{WRITER}\n{self.digest()}\n".encode())
        for path in sorted(path for path in ROOTFS.rglob("*") if path.is_file()):
            name = path.relative_to(ROOTFS).as_posix()
            executable = path.stat().st_mode & 0o100
            digest.update(f"{name}\0{executable}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
        return digest.hexdigest()
