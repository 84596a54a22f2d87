// A plug-in program of docker-machine, for the tests: a real client of its protocol finds a real server here.
//
// Under the name `docker-machine-driver-NAME` it serves the driver NAME, and under `docker-machine` or `rancher-machine`
// the one of its built-in drivers that MACHINE_PLUGIN_DRIVER_NAME names. Every NAME but "ourgo" is a driver without
// machines. The package behaviour has the faults that a test can choose.
package main

import (
	"fmt"
	"net"
	"net/http"
	"net/rpc"
	"os"
	"path/filepath"
	"strings"
	"time"

	"goplugin/behaviour"
	"goplugin/drivers"
	"goplugin/othergo"
	"goplugin/ourgo"
	"goplugin/rpcdriver"
)

const (
	token            = "42"
	programPrefix    = "docker-machine-driver-"
	heartbeatTimeout = 10 * time.Second
)

var (
	builtIn      = []string{"ourgo", "othergo"}
	withBuiltIns = map[string]bool{"docker-machine": true, "rancher-machine": true}
)

func main() {
	if os.Getenv("MACHINE_PLUGIN_TOKEN") != token {
		fail("This program is a plug-in of docker-machine, which starts it. It has no command line of its own.")
	}
	name, err := driverName(filepath.Base(os.Args[0]), os.Getenv("MACHINE_PLUGIN_DRIVER_NAME"))
	if err != nil {
		fail(err.Error())
	}
	chosen, err := behaviour.FromEnvironment()
	if err != nil {
		fail(err.Error())
	}
	behaviour.Log("start", name)
	serve(newDriver(name, chosen), chosen)
}

func fail(message string) {
	fmt.Fprintln(os.Stderr, message)
	os.Exit(1)
}

func driverName(program, wanted string) (string, error) {
	if name := strings.TrimPrefix(program, programPrefix); name != program && name != "" {
		return name, nil
	}
	if !withBuiltIns[program] {
		return "", fmt.Errorf("the program is named %q; rename it to %sNAME or docker-machine", program, programPrefix)
	}
	for _, name := range builtIn {
		if name == wanted {
			return name, nil
		}
	}
	return "", fmt.Errorf("Unsupported driver: %s", wanted)
}

func newDriver(name string, chosen *behaviour.Behaviour) drivers.Driver {
	if name == "ourgo" {
		return ourgo.New(name, chosen)
	}
	return othergo.New(name, chosen)
}

func serve(driver drivers.Driver, chosen *behaviour.Behaviour) {
	server := rpcdriver.NewServer(driver, chosen)
	register(server, chosen.Value("service"))
	rpc.HandleHTTP()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fail(fmt.Sprintf("cannot listen on the loopback: %v", err))
	}
	defer listener.Close()
	if chosen.Value("connect") != "hang" { // else the kernel accepts connections, and nothing answers
		go func() { fail(fmt.Sprintf("cannot serve: %v", http.Serve(listener, nil))) }()
	}
	announce(listener.Addr().String(), chosen)
	waitForEnd(server)
}

func register(server *rpcdriver.RPCServerDriver, only string) {
	names := []string{only}
	if only == "" {
		names = []string{rpcdriver.Service, rpcdriver.OldService}
	}
	rpcdriver.RegisterTypes(only)
	for _, name := range names {
		if err := rpc.RegisterName(name, server); err != nil {
			fail(fmt.Sprintf("cannot register the service %s: %v", name, err))
		}
	}
}

// announce prints the address, after which the program waits for heartbeats.
func announce(address string, chosen *behaviour.Behaviour) {
	line, delay, isPrinted := chosen.Address(address)
	time.Sleep(delay)
	if !isPrinted {
		fail("this program has printed no address, and no client has killed it")
	}
	fmt.Println(line)
	if chosen.IsNoisy() {
		go behaviour.MakeNoise() // which blocks if the client does not read
	}
}

func waitForEnd(server *rpcdriver.RPCServerDriver) {
	for {
		select {
		case <-server.Closed:
			behaviour.Log("end", "close")
			os.Exit(0)
		case <-server.Beat:
		case <-time.After(heartbeatTimeout):
			behaviour.Log("end", "heartbeat")
			fmt.Fprintln(os.Stderr, "no heartbeat: this program ends")
			os.Exit(1)
		}
	}
}
