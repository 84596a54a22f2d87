"""File systems and archives of the image: ISO, FAT, init ramdisk."""
