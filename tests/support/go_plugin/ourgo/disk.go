package ourgo

import (
	"archive/tar"
	"os"
)

const (
	diskFile  = "disk.raw"
	diskBytes = 8 << 30
	// A guest of boot2docker's kind formats a disk that begins with a tar whose first entry has this name.
	formatMarker = "boot2docker, please format-me"
)

// makeDisk makes a sparse disk that begins with boot2docker's user data: the public key of the user docker.
func makeDisk(path string, public []byte) error {
	disk, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := writeUserData(disk, public); err != nil {
		disk.Close()
		return err
	}
	if err := disk.Truncate(diskBytes); err != nil {
		disk.Close()
		return err
	}
	return disk.Close()
}

func writeUserData(disk *os.File, public []byte) error {
	files := []struct {
		header  tar.Header
		content []byte
	}{
		{tar.Header{Name: formatMarker}, []byte(formatMarker)},
		{tar.Header{Name: ".ssh", Typeflag: tar.TypeDir, Mode: 0o700}, nil},
		{tar.Header{Name: ".ssh/authorized_keys", Mode: 0o644}, public},
		{tar.Header{Name: ".ssh/authorized_keys2", Mode: 0o644}, public},
	}
	archive := tar.NewWriter(disk)
	for _, file := range files {
		file.header.Size = int64(len(file.content))
		if err := archive.WriteHeader(&file.header); err != nil {
			return err
		}
		if _, err := archive.Write(file.content); err != nil {
			return err
		}
	}
	return archive.Close()
}
