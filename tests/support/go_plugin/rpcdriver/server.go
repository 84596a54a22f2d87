package rpcdriver

import (
	"fmt"
	"strconv"

	"goplugin/behaviour"
	"goplugin/drivers"
	"goplugin/mcnflag"
)

const (
	// Service is the name that clients since docker-machine 0.5.1 use.
	Service = "RPCServerDriver"
	// OldService is the name in programs before that.
	OldService = "RpcServerDriver"
	version    = 1
)

// RPCServerDriver has a method for each call of a client.
type RPCServerDriver struct {
	driver    drivers.Driver
	behaviour *behaviour.Behaviour
	// Closed receives a value when the client has called Close, and Beat for each heartbeat.
	Closed, Beat chan bool
}

// NewServer returns a server of a driver.
func NewServer(driver drivers.Driver, chosen *behaviour.Behaviour) *RPCServerDriver {
	return &RPCServerDriver{driver, chosen, make(chan bool), make(chan bool)}
}

// begin logs a call. It blocks or returns an error if the test requests that.
func (server *RPCServerDriver) begin(method string) error {
	behaviour.Log("call", method)
	machine := server.driver.GetMachineName()
	server.behaviour.Hang(method, machine)
	if method == "Create" {
		return nil // the driver acts on the other faults once the instance exists
	}
	return server.behaviour.Act(method, machine)
}

func (server *RPCServerDriver) do(method string, work func() error) error {
	if err := server.begin(method); err != nil {
		return err
	}
	drivers.Debug("%s of machine %q", method, server.driver.GetMachineName())
	return work()
}

func (server *RPCServerDriver) answer(method string, reply *string, work func() (string, error)) error {
	if err := server.begin(method); err != nil {
		return err
	}
	text, err := work()
	*reply = text
	return err
}

func (server *RPCServerDriver) describe(method string, reply *string, work func() string) error {
	return server.answer(method, reply, func() (string, error) { return work(), nil })
}

// GetVersion answers with the protocol's version.
func (server *RPCServerDriver) GetVersion(_ *struct{}, reply *int) error {
	if err := server.begin("GetVersion"); err != nil {
		return err
	}
	*reply = version
	if text := server.behaviour.Value("version"); text != "" {
		number, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("the test wants the version %q, which is not a number", text)
		}
		*reply = number
	}
	return nil
}

// Heartbeat keeps the program running for another ten seconds.
func (server *RPCServerDriver) Heartbeat(_, _ *struct{}) error {
	if err := server.begin("Heartbeat"); err != nil {
		return err
	}
	server.Beat <- true
	return nil
}

// Close ends the program, possibly before the client has the answer.
func (server *RPCServerDriver) Close(_, _ *struct{}) error {
	if err := server.begin("Close"); err != nil {
		return err
	}
	server.Closed <- true
	return nil
}

// GetCreateFlags answers with the options that `create` has with this driver.
func (server *RPCServerDriver) GetCreateFlags(_ *struct{}, reply *[]mcnflag.Flag) error {
	if err := server.begin("GetCreateFlags"); err != nil {
		return err
	}
	*reply = server.driver.GetCreateFlags()
	return nil
}

// SetConfigFromFlags takes the options of `create`.
func (server *RPCServerDriver) SetConfigFromFlags(flags *drivers.Options, _ *struct{}) error {
	return server.do("SetConfigFromFlags", func() error { return server.driver.SetConfigFromFlags(*flags) })
}

// SetConfigRaw takes the configuration, the record's `Driver`.
func (server *RPCServerDriver) SetConfigRaw(data []byte, _ *struct{}) error {
	if err := server.begin("SetConfigRaw"); err != nil {
		return err
	}
	return server.driver.SetConfigRaw(data)
}

// GetConfigRaw answers with the configuration, the record's `Driver`.
func (server *RPCServerDriver) GetConfigRaw(_ *struct{}, reply *[]byte) error {
	if err := server.begin("GetConfigRaw"); err != nil {
		return err
	}
	data, err := server.driver.GetConfigRaw()
	*reply = data
	return err
}

// DriverName answers with the driver's name.
func (server *RPCServerDriver) DriverName(_ *struct{}, reply *string) error {
	return server.describe("DriverName", reply, server.driver.DriverName)
}

// GetMachineName answers with the machine's name.
func (server *RPCServerDriver) GetMachineName(_ *struct{}, reply *string) error {
	return server.describe("GetMachineName", reply, server.driver.GetMachineName)
}

// GetSSHKeyPath answers with the path of the private key.
func (server *RPCServerDriver) GetSSHKeyPath(_ *struct{}, reply *string) error {
	return server.describe("GetSSHKeyPath", reply, server.driver.GetSSHKeyPath)
}

// GetSSHUsername answers with the user to log in as.
func (server *RPCServerDriver) GetSSHUsername(_ *struct{}, reply *string) error {
	return server.describe("GetSSHUsername", reply, server.driver.GetSSHUsername)
}

// GetIP answers with the machine's address.
func (server *RPCServerDriver) GetIP(_ *struct{}, reply *string) error {
	return server.answer("GetIP", reply, server.driver.GetIP)
}

// GetSSHHostname answers with the address of the SSH server.
func (server *RPCServerDriver) GetSSHHostname(_ *struct{}, reply *string) error {
	return server.answer("GetSSHHostname", reply, server.driver.GetSSHHostname)
}

// GetURL answers with the engine's URL.
func (server *RPCServerDriver) GetURL(_ *struct{}, reply *string) error {
	return server.answer("GetURL", reply, server.driver.GetURL)
}

// GetSSHPort answers with the port of the SSH server.
func (server *RPCServerDriver) GetSSHPort(_ *struct{}, reply *int) error {
	if err := server.begin("GetSSHPort"); err != nil {
		return err
	}
	port, err := server.driver.GetSSHPort()
	*reply = port
	return err
}

// GetState answers with the machine's state.
func (server *RPCServerDriver) GetState(_ *struct{}, reply *drivers.State) error {
	if err := server.begin("GetState"); err != nil {
		return err
	}
	state, err := server.driver.GetState()
	*reply = state
	return err
}

// PreCreateCheck reports what would prevent a Create.
func (server *RPCServerDriver) PreCreateCheck(_, _ *struct{}) error {
	return server.do("PreCreateCheck", server.driver.PreCreateCheck)
}

// Create makes the machine and starts it.
func (server *RPCServerDriver) Create(_, _ *struct{}) error {
	return server.do("Create", func() error {
		err := server.driver.Create()
		if err == nil {
			behaviour.Log("create-ended", server.driver.GetMachineName())
		}
		return err
	})
}

// Start starts the machine.
func (server *RPCServerDriver) Start(_, _ *struct{}) error {
	return server.do("Start", server.driver.Start)
}

// Stop shuts the machine down.
func (server *RPCServerDriver) Stop(_, _ *struct{}) error {
	return server.do("Stop", server.driver.Stop)
}

// Restart stops the machine and starts it.
func (server *RPCServerDriver) Restart(_, _ *struct{}) error {
	return server.do("Restart", server.driver.Restart)
}

// Kill stops the machine at once.
func (server *RPCServerDriver) Kill(_, _ *struct{}) error {
	return server.do("Kill", server.driver.Kill)
}

// Remove deletes the machine, except for its folder in the store.
func (server *RPCServerDriver) Remove(_, _ *struct{}) error {
	return server.do("Remove", server.driver.Remove)
}
