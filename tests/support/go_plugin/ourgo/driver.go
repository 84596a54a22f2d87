// Package ourgo is a driver whose machines are guests in QEMU that boot pymachine's image, or another boot2docker.
package ourgo

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"

	"goplugin/behaviour"
	"goplugin/drivers"
	"goplugin/mcnflag"
)

const (
	isoFile     = "boot2docker.iso"
	loopback    = "127.0.0.1"
	defaultUser = "docker"
)

// Driver is a guest in QEMU. Its ports on the loopback lead to the guest's SSH server and engine.
type Driver struct {
	drivers.Base
	Boot2DockerURL string
	Memory         int
	Tags           []string
	NoKVM          bool
	Accelerator    string
	DockerPort     int
	drivers.Kept

	// Not in the configuration: a client that calls SetConfigFromFlags and Create in two processes loses it.
	secretToken string
	// A client that was interrupted may call Remove while Create is at work, which must start no QEMU after that.
	launching sync.Mutex
	isRemoved bool
}

// New returns a driver that answers under a name of the test's choice.
func New(name string, chosen *behaviour.Behaviour) *Driver {
	driver := &Driver{}
	driver.Init(name, chosen)
	return driver
}

// GetCreateFlags returns options of all kinds.
func (driver *Driver) GetCreateFlags() []mcnflag.Flag {
	return []mcnflag.Flag{
		&mcnflag.StringFlag{Name: "ourgo-boot2docker-url", EnvVar: "OURGO_BOOT2DOCKER_URL",
			Usage: "URL of the ISO to boot; by default the one in the store's cache"},
		&mcnflag.IntFlag{Name: "ourgo-memory", Usage: "Memory of the machine in MB", EnvVar: "OURGO_MEMORY", Value: 1024},
		&mcnflag.StringSliceFlag{Name: "ourgo-tag", Usage: "Tag of the machine; needs --ourgo-secret-token"},
		&mcnflag.BoolFlag{Name: "ourgo-no-kvm", Usage: "Use software emulation", EnvVar: "OURGO_NO_KVM"},
		&mcnflag.StringFlag{Name: "ourgo-secret-token", Usage: "Password for tags", EnvVar: "OURGO_SECRET_TOKEN"},
	}
}

// SetConfigFromFlags takes the options of `create`.
func (driver *Driver) SetConfigFromFlags(options drivers.Options) error {
	driver.SetSwarm(options)
	driver.SSHUser = defaultUser
	driver.Boot2DockerURL = options.String("ourgo-boot2docker-url")
	driver.Memory = options.Int("ourgo-memory")
	driver.Tags = options.StringSlice("ourgo-tag")
	driver.NoKVM = options.Bool("ourgo-no-kvm")
	driver.secretToken = options.String("ourgo-secret-token")
	if driver.Memory < 256 {
		return fmt.Errorf("--ourgo-memory: %d MB are too few; the least is 256", driver.Memory)
	}
	return nil
}

// SetConfigRaw takes a configuration.
func (driver *Driver) SetConfigRaw(data []byte) error {
	return driver.Unmarshal(data, driver, &driver.Kept)
}

// GetConfigRaw returns the configuration.
func (driver *Driver) GetConfigRaw() ([]byte, error) { return driver.Marshal(driver) }

// PreCreateCheck checks that QEMU is installed and the ISO exists.
func (driver *Driver) PreCreateCheck() error {
	if _, err := exec.LookPath(emulator); err != nil {
		return fmt.Errorf("%s is not installed: %w", emulator, err)
	}
	source, err := driver.sourceISO()
	if err != nil {
		return err
	}
	_, err = os.Stat(source)
	return err
}

func (driver *Driver) sourceISO() (string, error) {
	if driver.Boot2DockerURL == "" {
		return filepath.Join(driver.StorePath, "cache", isoFile), nil
	}
	parsed, err := url.Parse(driver.Boot2DockerURL)
	if err != nil {
		return "", fmt.Errorf("--ourgo-boot2docker-url: %w", err)
	}
	if parsed.Scheme != "file" {
		return "", fmt.Errorf("--ourgo-boot2docker-url: %q is not a file:// URL", driver.Boot2DockerURL)
	}
	return parsed.Path, nil
}

// Create makes keys, copies the ISO, makes the disk, and starts the guest.
func (driver *Driver) Create() error {
	if len(driver.Tags) > 0 && driver.secretToken == "" {
		return errors.New("tags need --ourgo-secret-token, which SetConfigFromFlags did not set in this process")
	}
	if err := os.MkdirAll(driver.Folder(), 0o700); err != nil {
		return err
	}
	if err := driver.NewInstance(&driver.Kept); err != nil {
		return err
	}
	if err := driver.Midway("Create"); err != nil {
		return err
	}
	source, err := driver.sourceISO()
	if err != nil {
		return err
	}
	drivers.Info("Copying %s to %s...", source, driver.File(isoFile))
	if err := copyFile(source, driver.File(isoFile)); err != nil {
		return err
	}
	drivers.Info("Creating SSH key...")
	public, err := ensureKey(driver.GetSSHKeyPath())
	if err != nil {
		return err
	}
	if err := driver.choosePorts(); err != nil {
		return err
	}
	return driver.firstBoot(public)
}

func copyFile(source, target string) error {
	from, err := os.Open(source)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.Create(target)
	if err != nil {
		return err
	}
	if _, err := io.Copy(to, from); err != nil {
		to.Close()
		return err
	}
	return to.Close()
}

func (driver *Driver) choosePorts() error {
	ports := make([]int, 2)
	for number := range ports {
		listener, err := net.Listen("tcp", loopback+":0")
		if err != nil {
			return err
		}
		// Both listeners stay open until both ports are known, since a closed one's port can be given again.
		defer listener.Close()
		ports[number] = listener.Addr().(*net.TCPAddr).Port
	}
	driver.Update(func() { driver.IPAddress, driver.SSHPort, driver.DockerPort = loopback, ports[0], ports[1] })
	drivers.Debug("ports: SSH %d, engine %d", driver.SSHPort, driver.DockerPort)
	return nil
}

// GetIP returns the loopback address if the machine is running.
func (driver *Driver) GetIP() (string, error) {
	state, err := driver.GetState()
	if err != nil {
		return "", err
	}
	if state != drivers.Running {
		return "", drivers.ErrHostIsNotRunning
	}
	return driver.IPAddress, nil
}

// GetSSHHostname returns the loopback address if the machine is running.
func (driver *Driver) GetSSHHostname() (string, error) { return driver.GetIP() }

// GetURL returns the engine's URL if the machine is running.
func (driver *Driver) GetURL() (string, error) {
	address, err := driver.GetIP()
	if err != nil {
		return "", err
	}
	return "tcp://" + net.JoinHostPort(address, strconv.Itoa(driver.DockerPort)), nil
}

// Start boots a stopped machine, or continues a paused one.
func (driver *Driver) Start() error {
	state, err := driver.GetState()
	if err != nil {
		return err
	}
	switch state {
	case drivers.Running:
		return nil
	case drivers.Paused:
		return driver.execute("cont")
	}
	return driver.boot(driver.Accelerator, bootTime)
}

// Restart shuts the guest down and boots it.
func (driver *Driver) Restart() error {
	if err := driver.Stop(); err != nil {
		return err
	}
	return driver.Start()
}

// Remove ends the guest. The client removes the machine's folder.
func (driver *Driver) Remove() error {
	driver.LogRemoved(&driver.Kept)
	driver.launching.Lock()
	defer driver.launching.Unlock()
	driver.isRemoved = true
	return driver.Kill()
}
