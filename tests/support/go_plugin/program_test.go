package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"goplugin/drivers"
	"goplugin/mcnflag"
	"goplugin/rpcdriver"
)

// The client of these tests is Go's own, as docker-machine's is. GO_PLUGIN_PROGRAMS is the folder of the programs.

const limit = 20 * time.Second

func TestMain(m *testing.M) {
	rpcdriver.RegisterTypes(rpcdriver.Service)
	os.Exit(m.Run())
}

type client struct {
	*testing.T
	*rpc.Client
	process *exec.Cmd
	store   string
	service string
}

// start starts a program as a plug-in with a behaviour, and connects.
func start(t *testing.T, program, behaviour string) *client {
	t.Helper()
	process := exec.Command(filepath.Join(os.Getenv("GO_PLUGIN_PROGRAMS"), program))
	process.Env = append(os.Environ(), "MACHINE_PLUGIN_TOKEN=42", "GO_PLUGIN_BEHAVIOUR="+behaviour)
	output, err := process.StdoutPipe()
	check(t, err)
	check(t, process.Start())
	t.Cleanup(func() { process.Process.Kill() })
	lines := bufio.NewReader(output)
	address, err := lines.ReadString('\n')
	check(t, err)
	go io.Copy(io.Discard, lines)
	connection, err := rpc.DialHTTP("tcp", strings.TrimSpace(address))
	check(t, err)
	return &client{t, connection, process, t.TempDir(), rpcdriver.Service}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// call calls a method and waits for a limited time.
func (c *client) call(method string, argument, reply interface{}) error {
	c.Helper()
	call := c.Go(c.service+"."+method, argument, reply, nil)
	select {
	case <-call.Done:
		return call.Error
	case <-time.After(limit):
		c.Fatalf("%s does not answer", method)
		return nil
	}
}

func (c *client) do(method string) error { return c.call(method, struct{}{}, nil) }

func (c *client) must(methods ...string) {
	c.Helper()
	for _, method := range methods {
		if err := c.do(method); err != nil {
			c.Fatalf("%s: %v", method, err)
		}
	}
}

func (c *client) refuses(err error, text string) {
	c.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		c.Fatalf("the error is %v, not one with %q", err, text)
	}
}

func (c *client) state(wanted drivers.State) {
	c.Helper()
	var state drivers.State
	check(c.T, c.call("GetState", struct{}{}, &state))
	if state != wanted {
		c.Fatalf("the state is %d, not %d", state, wanted)
	}
}

func (c *client) config() []byte {
	c.Helper()
	var data []byte
	check(c.T, c.call("GetConfigRaw", struct{}{}, &data))
	return data
}

// prepare sends the first configuration and the defaults of all options, except for those of `changed`.
func (c *client) prepare(machine string, changed map[string]interface{}) {
	c.Helper()
	first := `{"MachineName":` + strconv.Quote(machine) + `,"StorePath":` + strconv.Quote(c.store) + `}`
	check(c.T, c.call("SetConfigRaw", []byte(first), nil))
	var flags []mcnflag.Flag
	check(c.T, c.call("GetCreateFlags", struct{}{}, &flags))
	values := map[string]interface{}{"swarm-master": false, "swarm-host": "tcp://0.0.0.0:3376", "swarm-discovery": ""}
	for _, flag := range flags {
		values[flag.String()] = flag.Default()
		if flag.Default() == nil {
			values[flag.String()] = false
		}
	}
	for name, value := range changed {
		values[name] = value
	}
	var options drivers.Options = &rpcdriver.RPCFlags{Values: values}
	check(c.T, c.call("SetConfigFromFlags", &options, nil))
}

func (c *client) exitCode() int {
	c.Helper()
	ended := make(chan error, 1)
	go func() { ended <- c.process.Wait() }()
	select {
	case <-ended:
		return c.process.ProcessState.ExitCode()
	case <-time.After(limit):
		c.Fatal("the program does not end")
		return -1
	}
}

func TestFlagsAreOfAllKinds(t *testing.T) {
	for _, name := range []string{"ourgo", "othergo"} {
		c := start(t, programPrefix+name, "")
		var flags []mcnflag.Flag
		check(t, c.call("GetCreateFlags", struct{}{}, &flags))
		kinds := map[string]bool{}
		for _, flag := range flags {
			kinds[reflect.TypeOf(flag).String()] = true
			if !strings.HasPrefix(flag.String(), name+"-") {
				t.Errorf("%s has the flag %s", name, flag)
			}
		}
		if len(kinds) != 4 {
			t.Errorf("%s has flags of the kinds %v", name, kinds)
		}
	}
}

func TestMachineWithoutGuestChangesItsState(t *testing.T) {
	c := start(t, programPrefix+"othergo", "")
	c.prepare("box", nil)
	c.refuses(c.do("Start"), drivers.ErrNoMachine.Error())
	c.must("PreCreateCheck", "Create", "Heartbeat")
	c.state(drivers.Running)
	c.must("Stop")
	c.state(drivers.Stopped)
	var text string
	c.refuses(c.call("GetURL", struct{}{}, &text), "Host is not running")
	c.must("Start")
	check(t, c.call("GetURL", struct{}{}, &text))
	if text != "tcp://127.0.0.1:2376" {
		t.Errorf("the URL is %s", text)
	}
	c.must("Kill", "Restart", "Remove")
	c.refuses(c.call("GetState", struct{}{}, new(drivers.State)), drivers.ErrNoMachine.Error())
}

func TestConfigurationHasToBeKept(t *testing.T) {
	c := start(t, programPrefix+"othergo", "")
	c.prepare("box", nil)
	c.must("Create")
	written := c.config()
	next := start(t, programPrefix+"othergo", "")
	check(t, next.call("SetConfigRaw", written, nil))
	if !bytes.Equal(next.config(), written) {
		t.Errorf("%s became %s", written, next.config())
	}
	next.state(drivers.Running)
	spaced := bytes.ReplaceAll(written, []byte(`,"`), []byte(",\n    \""))
	check(t, next.call("SetConfigRaw", spaced, nil))
	for _, change := range [][2]string{
		{"9007199254740993", "9007199254740992"}, {`\u003c`, "<"}, {`"Nothing":null,`, ""}, {"1.5e-7", "0.00000015"},
		{`,"Serial"`, `,"Unknown":1,"Serial"`},
	} {
		changed := bytes.ReplaceAll(written, []byte(change[0]), []byte(change[1]))
		if bytes.Equal(changed, written) {
			t.Errorf("%s does not contain %s", written, change[0])
		}
		next.refuses(next.call("SetConfigRaw", changed, nil), "the configuration")
	}
}

func TestTagsNeedTheProcessThatGotTheToken(t *testing.T) {
	options := map[string]interface{}{"ourgo-tag": []string{"a"}, "ourgo-secret-token": "secret"}
	c := start(t, programPrefix+"ourgo", "error=Create")
	c.prepare("box", options)
	c.refuses(c.do("Create"), "was refused by the test\n")
	next := start(t, programPrefix+"ourgo", "error=Create")
	check(t, next.call("SetConfigRaw", c.config(), nil))
	next.refuses(next.do("Create"), "--ourgo-secret-token")
}

func TestOldServiceName(t *testing.T) {
	c := start(t, programPrefix+"othergo", "service=RpcServerDriver")
	c.refuses(c.do("GetVersion"), "can't find service")
	c.service = rpcdriver.OldService
	c.must("Heartbeat")
}

func TestFaultsOfCalls(t *testing.T) {
	c := start(t, programPrefix+"othergo", "version=2,hang=GetState@bad,slow=GetIP:0.5,error=Stop,noise")
	var version int
	check(t, c.call("GetVersion", struct{}{}, &version))
	if version != 2 {
		t.Errorf("the version is %d", version)
	}
	c.prepare("good", nil)
	c.must("Create")
	c.state(drivers.Running)
	c.refuses(c.do("Stop"), "was refused by the test\n")
	begin := time.Now()
	check(t, c.call("GetIP", struct{}{}, new(string)))
	if passed := time.Since(begin); passed < 500*time.Millisecond {
		t.Errorf("GetIP took %v", passed)
	}
	c = start(t, programPrefix+"othergo", "hang=GetState@bad")
	c.prepare("bad", nil)
	call := c.Go(c.service+".GetState", struct{}{}, new(drivers.State), nil)
	c.must("Heartbeat")
	select {
	case <-call.Done:
		t.Error("GetState has answered")
	case <-time.After(500 * time.Millisecond):
	}
}

func TestDeathInCreate(t *testing.T) {
	c := start(t, programPrefix+"othergo", "die=Create")
	c.prepare("box", nil)
	if err := c.do("Create"); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the error is %v", err)
	}
	if code := c.exitCode(); code != 3 {
		t.Errorf("the exit code is %d", code)
	}
}

func TestCloseEndsTheProgram(t *testing.T) {
	c := start(t, programPrefix+"othergo", "")
	c.do("Close") // its answer may be lost
	if code := c.exitCode(); code != 0 {
		t.Errorf("the exit code is %d", code)
	}
}
