// Package othergo is a driver without machines. It keeps a state in the machine's folder, and changes it at once.
package othergo

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"

	"goplugin/behaviour"
	"goplugin/drivers"
	"goplugin/mcnflag"
)

// stateFile can be edited by tests: {"State": 2} is a paused machine.
const stateFile = "state.json"

// Driver is a machine that consists of its state. Its options may name a real SSH server and engine.
type Driver struct {
	drivers.Base
	EnginePort int
	Labels     []string
	IsSlow     bool
	drivers.Kept

	sourceKey string
}

// New returns a driver that answers under a name of the test's choice.
func New(name string, chosen *behaviour.Behaviour) *Driver {
	driver := &Driver{}
	driver.Init(name, chosen)
	return driver
}

// GetCreateFlags returns options of all kinds, which begin with the driver's name.
func (driver *Driver) GetCreateFlags() []mcnflag.Flag {
	name := driver.DriverName()
	return []mcnflag.Flag{
		&mcnflag.StringFlag{Name: name + "-ip-address", Usage: "Address of the machine", Value: "127.0.0.1",
			EnvVar: "OTHERGO_IP_ADDRESS"},
		&mcnflag.IntFlag{Name: name + "-ssh-port", Usage: "Port of an SSH server", EnvVar: "OTHERGO_SSH_PORT", Value: 22},
		&mcnflag.StringFlag{Name: name + "-ssh-user", Usage: "User of the SSH server", Value: "docker"},
		&mcnflag.StringFlag{Name: name + "-ssh-key", Usage: "Private key to copy into the machine's folder"},
		&mcnflag.IntFlag{Name: name + "-engine-port", Usage: "Port of the engine", Value: 2376},
		&mcnflag.StringSliceFlag{Name: name + "-label", Usage: "Label of the instance; can be repeated",
			Value: []string{"made=by-othergo", "for=tests"}},
		&mcnflag.BoolFlag{Name: name + "-slow", Usage: "Only kept in the configuration", EnvVar: "OTHERGO_SLOW"},
	}
}

// SetConfigFromFlags takes the options of `create`.
func (driver *Driver) SetConfigFromFlags(options drivers.Options) error {
	name := driver.DriverName()
	driver.SetSwarm(options)
	driver.IPAddress = options.String(name + "-ip-address")
	driver.SSHPort = options.Int(name + "-ssh-port")
	driver.SSHUser = options.String(name + "-ssh-user")
	driver.sourceKey = options.String(name + "-ssh-key")
	driver.EnginePort = options.Int(name + "-engine-port")
	driver.Labels = options.StringSlice(name + "-label")
	driver.IsSlow = options.Bool(name + "-slow")
	if net.ParseIP(driver.IPAddress) == nil {
		return fmt.Errorf("--%s-ip-address: %q is not an address", name, driver.IPAddress)
	}
	return nil
}

// SetConfigRaw takes a configuration.
func (driver *Driver) SetConfigRaw(data []byte) error {
	return driver.Unmarshal(data, driver, &driver.Kept)
}

// GetConfigRaw returns the configuration.
func (driver *Driver) GetConfigRaw() ([]byte, error) { return driver.Marshal(driver) }

// PreCreateCheck checks that the key exists.
func (driver *Driver) PreCreateCheck() error {
	if driver.sourceKey == "" {
		return nil
	}
	_, err := os.Stat(driver.sourceKey)
	return err
}

// Create makes the state, and copies the key.
func (driver *Driver) Create() error {
	drivers.Info("Creating an instance without a machine...")
	drivers.Debug("store path: %s", driver.StorePath)
	if err := driver.NewInstance(&driver.Kept); err != nil {
		return err
	}
	if err := driver.Midway("Create"); err != nil {
		return err
	}
	if err := os.MkdirAll(driver.Folder(), 0o700); err != nil {
		return err
	}
	if driver.sourceKey != "" {
		key, err := os.ReadFile(driver.sourceKey)
		if err != nil {
			return err
		}
		if err := os.WriteFile(driver.GetSSHKeyPath(), key, 0o600); err != nil {
			return err
		}
	}
	return driver.write(drivers.Running)
}

func (driver *Driver) write(state drivers.State) error {
	data, err := json.Marshal(map[string]drivers.State{"State": state})
	if err != nil {
		return err
	}
	return os.WriteFile(driver.File(stateFile), data, 0o600)
}

// GetState returns the state in the machine's folder.
func (driver *Driver) GetState() (drivers.State, error) {
	data, err := os.ReadFile(driver.File(stateFile))
	if errors.Is(err, os.ErrNotExist) {
		return drivers.Error, drivers.ErrNoMachine
	}
	if err != nil {
		return drivers.Error, err
	}
	found := map[string]drivers.State{}
	if err := json.Unmarshal(data, &found); err != nil {
		return drivers.Error, fmt.Errorf("%s is damaged: %w", driver.File(stateFile), err)
	}
	return found["State"], nil
}

// GetIP returns the address of a running machine.
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

// GetSSHHostname returns the address of a running machine.
func (driver *Driver) GetSSHHostname() (string, error) { return driver.GetIP() }

// GetURL returns the engine's URL in a running machine.
func (driver *Driver) GetURL() (string, error) {
	address, err := driver.GetIP()
	if err != nil {
		return "", err
	}
	return "tcp://" + net.JoinHostPort(address, strconv.Itoa(driver.EnginePort)), nil
}

func (driver *Driver) change(state drivers.State) error {
	if _, err := driver.GetState(); err != nil {
		return err
	}
	return driver.write(state)
}

// Start makes the machine a running one.
func (driver *Driver) Start() error { return driver.change(drivers.Running) }

// Stop makes the machine a stopped one.
func (driver *Driver) Stop() error { return driver.change(drivers.Stopped) }

// Kill makes the machine a stopped one.
func (driver *Driver) Kill() error { return driver.change(drivers.Stopped) }

// Restart makes the machine a running one.
func (driver *Driver) Restart() error { return driver.change(drivers.Running) }

// Remove deletes the state.
func (driver *Driver) Remove() error {
	driver.LogRemoved(&driver.Kept)
	err := os.Remove(driver.File(stateFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
