"""The kernel modules in the image and in its RAM disk."""

from __future__ import annotations

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
    # for guests of each hypervisor
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
    # other modules for small machines
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
# For the RAM disk, which finds and mounts the ISO: on QEMU and libvirt (always loaded), and on other disks.
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
