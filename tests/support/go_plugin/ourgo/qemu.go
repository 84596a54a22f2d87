package ourgo

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"goplugin/drivers"
)

const (
	emulator    = "qemu-system-x86_64"
	qmpFile     = "qmp.sock"
	pidFile     = "qemu.pid"
	logFile     = "qemu.log"
	consoleFile = "console.log"

	hardware  = "kvm"
	emulation = "tcg"
	// /dev/kvm may exist and not work: a guest that starts with it answers within this time, or never.
	hardwareTrial = 60 * time.Second
	bootTime      = 10 * time.Minute
	shutdownTime  = 3 * time.Minute
	quitTime      = 30 * time.Second
	pressInterval = 20 * time.Second
	pollInterval  = 100 * time.Millisecond
)

// firstBoot makes the disk and boots from it, with hardware virtualisation if that works, else with emulation.
func (driver *Driver) firstBoot(public []byte) error {
	if !driver.NoKVM && kvmOpens() {
		err := driver.bootFresh(public, hardware, hardwareTrial)
		if err == nil {
			return nil
		}
		drivers.Info("No hardware virtualisation (%v): using software emulation.", err)
		if err := driver.Kill(); err != nil {
			return err
		}
	}
	return driver.bootFresh(public, emulation, bootTime)
}

func kvmOpens() bool {
	device, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	device.Close()
	return true
}

func (driver *Driver) bootFresh(public []byte, accelerator string, limit time.Duration) error {
	driver.Update(func() { driver.Accelerator = accelerator })
	if err := makeDisk(driver.File(diskFile), public); err != nil {
		return err
	}
	return driver.boot(accelerator, limit)
}

// boot starts QEMU and waits until SSH answers.
func (driver *Driver) boot(accelerator string, limit time.Duration) error {
	drivers.Info("Starting the machine...")
	if err := driver.launch(accelerator); err != nil {
		return err
	}
	drivers.Info("Waiting for SSH...")
	return driver.waitForSSH(limit)
}

// launch starts QEMU as a daemon: it returns once the QMP socket exists, and keeps none of this program's streams.
func (driver *Driver) launch(accelerator string) error {
	driver.launching.Lock()
	defer driver.launching.Unlock()
	if driver.isRemoved {
		return errors.New("the machine was removed")
	}
	err := os.Remove(driver.File(qmpFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	output, err := os.Create(driver.File(logFile))
	if err != nil {
		return err
	}
	defer output.Close()
	command := exec.Command(emulator, driver.arguments(accelerator)...)
	// The paths of sockets are limited to 107 bytes, so this one is relative to the folder.
	command.Dir = driver.Folder()
	command.Stdout, command.Stderr = output, output
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	drivers.Debug("executing: %s", command)
	if err := command.Run(); err != nil {
		text, readError := os.ReadFile(driver.File(logFile))
		if readError != nil {
			return readError
		}
		return fmt.Errorf("%s did not start: %w: %s", emulator, err, bytes.TrimSpace(text))
	}
	return nil
}

func (driver *Driver) arguments(accelerator string) []string {
	accel := accelerator
	if accelerator == emulation {
		accel += ",thread=multi,tb-size=256"
	}
	// docker-machine lets the engine listen on the port of the machine's URL, so the guest's port is the same.
	forwards := fmt.Sprintf("hostfwd=tcp:%s:%d-:22,hostfwd=tcp:%s:%d-:%d",
		loopback, driver.SSHPort, loopback, driver.DockerPort, driver.DockerPort)
	return []string{
		"-daemonize", "-pidfile", driver.File(pidFile), "-nodefaults", "-display", "none",
		"-machine", "pc", "-accel", accel, "-cpu", "max,la57=off", "-smp", "1", "-m", strconv.Itoa(driver.Memory),
		"-drive", "if=none,id=iso,format=raw,readonly=on,file=" + escape(driver.File(isoFile)),
		"-device", "ide-cd,drive=iso,bootindex=0",
		"-drive", "if=virtio,format=raw,file=" + escape(driver.File(diskFile)),
		"-netdev", "user,id=net," + forwards, "-device", "virtio-net-pci,netdev=net,romfile=",
		"-qmp", "unix:" + qmpFile + ",server=on,wait=off",
		"-serial", "file:" + consoleFile,
	}
}

// escape doubles commas, which end a value in QEMU's options.
func escape(path string) string { return strings.ReplaceAll(path, ",", ",,") }

func (driver *Driver) waitForSSH(limit time.Duration) error {
	var last error
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(pollInterval) {
		if driver.hasEnded() {
			return fmt.Errorf("the machine ended while it booted; see %s", driver.File(consoleFile))
		}
		if last = driver.readBanner(); last == nil {
			return nil
		}
	}
	return fmt.Errorf("SSH does not answer within %v: %w", limit, last)
}

func (driver *Driver) readBanner() error {
	address := net.JoinHostPort(loopback, strconv.Itoa(driver.SSHPort))
	connection, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return err
	}
	defer connection.Close()
	if err := connection.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	begin := make([]byte, 4)
	// QEMU accepts connections at once, and ends them while no server in the guest listens.
	if _, err := connection.Read(begin); err != nil {
		return err
	}
	if string(begin) != "SSH-" {
		return fmt.Errorf("%s does not answer as an SSH server: %q", address, begin)
	}
	return nil
}

// GetState connects to QEMU.
func (driver *Driver) GetState() (drivers.State, error) {
	_, err := os.Stat(driver.File(diskFile))
	if errors.Is(err, os.ErrNotExist) {
		return drivers.Error, drivers.ErrNoMachine
	}
	if err != nil {
		return drivers.Error, err
	}
	if driver.hasEnded() {
		return drivers.Stopped, nil
	}
	status, err := driver.status()
	if err != nil && driver.hasEnded() {
		return drivers.Stopped, nil
	}
	if err != nil {
		return drivers.Error, err
	}
	switch status {
	case "running":
		return drivers.Running, nil
	case "paused":
		return drivers.Paused, nil
	case "shutdown":
		return drivers.Stopping, nil
	}
	return drivers.Error, fmt.Errorf("QEMU reports the state %q", status)
}

// Stop presses the power button until the guest has ended.
func (driver *Driver) Stop() error {
	state, err := driver.GetState()
	if err != nil || state == drivers.Stopped {
		return err
	}
	process := driver.process()
	for deadline := time.Now().Add(shutdownTime); time.Now().Before(deadline); {
		// The guest does not react to the button while it boots.
		if err := driver.execute("system_powerdown"); err != nil && driver.isRunning(process) {
			return err
		}
		if driver.endsWithin(process, pressInterval) {
			return nil
		}
	}
	return fmt.Errorf("the machine still runs %v after its power button was pressed", shutdownTime)
}

// Kill ends QEMU.
func (driver *Driver) Kill() error {
	process := driver.process()
	if !driver.isRunning(process) {
		return nil
	}
	if err := driver.execute("quit"); err != nil && driver.isRunning(process) {
		return err
	}
	if !driver.endsWithin(process, quitTime) {
		return fmt.Errorf("QEMU still runs %v after the command to quit", quitTime)
	}
	return nil
}

func (driver *Driver) endsWithin(process string, limit time.Duration) bool {
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(pollInterval) {
		if !driver.isRunning(process) {
			return true
		}
	}
	return false
}

func (driver *Driver) hasEnded() bool { return !driver.isRunning(driver.process()) }

// process returns QEMU's process ID, or "" if no QEMU has left one. QEMU deletes its PID file just before it ends.
func (driver *Driver) process() string {
	text, err := os.ReadFile(driver.File(pidFile))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// isRunning returns whether the process is this machine's QEMU. Another program may have its number by now.
func (driver *Driver) isRunning(process string) bool {
	// A process that has ended and was not waited for has an empty command line.
	command, err := os.ReadFile(filepath.Join("/proc", process, "cmdline"))
	return process != "" && err == nil && bytes.Contains(command, []byte(escape(driver.File(diskFile))))
}
