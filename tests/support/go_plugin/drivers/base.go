// Package drivers has the parts that both drivers share: the interface, states, and docker-machine's base fields.
package drivers

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"sync"

	"goplugin/behaviour"
	"goplugin/mcnflag"
)

// State has docker-machine's numbers for a machine's state.
type State int

// The states that these drivers report.
const (
	None     State = 0
	Running  State = 1
	Paused   State = 2
	Saved    State = 3
	Stopped  State = 4
	Stopping State = 5
	Starting State = 6
	Error    State = 7
)

var (
	// ErrHostIsNotRunning has docker-machine's text.
	ErrHostIsNotRunning = errors.New("Host is not running")
	// ErrNoMachine is the error for a machine that was never created, or was removed.
	ErrNoMachine = errors.New("Machine does not exist")
)

// Options are the values of `create`'s flags.
type Options interface {
	String(key string) string
	StringSlice(key string) []string
	Int(key string) int
	Bool(key string) bool
}

// Driver is docker-machine's interface, with the configuration's JSON as two methods.
type Driver interface {
	DriverName() string
	GetCreateFlags() []mcnflag.Flag
	SetConfigFromFlags(Options) error
	SetConfigRaw([]byte) error
	GetConfigRaw() ([]byte, error)
	GetMachineName() string
	GetIP() (string, error)
	GetSSHHostname() (string, error)
	GetSSHKeyPath() string
	GetSSHPort() (int, error)
	GetSSHUsername() string
	GetURL() (string, error)
	GetState() (State, error)
	PreCreateCheck() error
	Create() error
	Start() error
	Stop() error
	Restart() error
	Kill() error
	Remove() error
}

// Base has the fields that begin each driver's configuration, in docker-machine's order.
type Base struct {
	IPAddress      string
	MachineName    string
	SSHUser        string
	SSHPort        int
	SSHKeyPath     string
	StorePath      string
	SwarmMaster    bool
	SwarmHost      string
	SwarmDiscovery string

	name      string
	behaviour *behaviour.Behaviour
	// A client may request the configuration while Create changes it.
	mutex sync.Mutex
}

// Init sets what is not part of the configuration.
func (base *Base) Init(name string, chosen *behaviour.Behaviour) {
	base.name, base.behaviour = name, chosen
}

// DriverName returns the name under which the program was started.
func (base *Base) DriverName() string { return base.name }

// GetMachineName returns the machine's name.
func (base *Base) GetMachineName() string { return base.MachineName }

// GetSSHUsername returns the user, "docker" unless the configuration has another.
func (base *Base) GetSSHUsername() string {
	if base.SSHUser == "" {
		return "docker"
	}
	return base.SSHUser
}

// GetSSHPort returns the port, 22 until the machine has another.
func (base *Base) GetSSHPort() (int, error) {
	if base.SSHPort == 0 {
		return 22, nil
	}
	return base.SSHPort, nil
}

// GetSSHKeyPath returns the path of the private key in the machine's folder.
func (base *Base) GetSSHKeyPath() string {
	if base.SSHKeyPath == "" {
		return base.File("id_rsa")
	}
	return base.SSHKeyPath
}

// Folder returns the machine's folder in the store.
func (base *Base) Folder() string { return filepath.Join(base.StorePath, "machines", base.MachineName) }

// File returns the path of a file in the machine's folder.
func (base *Base) File(name string) string { return filepath.Join(base.Folder(), name) }

// SetSwarm takes the three options that docker-machine adds to each driver's.
func (base *Base) SetSwarm(options Options) {
	base.SwarmMaster = options.Bool("swarm-master")
	base.SwarmHost = options.String("swarm-host")
	base.SwarmDiscovery = options.String("swarm-discovery")
}

// Update changes fields while no configuration is being written.
func (base *Base) Update(change func()) {
	base.mutex.Lock()
	defer base.mutex.Unlock()
	change()
}

// Midway acts on the faults of a method in the middle of its work.
func (base *Base) Midway(method string) error {
	if method == "Create" && base.behaviour.IsNoisy() {
		behaviour.MakeNoise()
	}
	return base.behaviour.Act(method, base.MachineName)
}

// Marshal returns the configuration of the driver that has this base.
func (base *Base) Marshal(driver interface{}) ([]byte, error) {
	base.mutex.Lock()
	defer base.mutex.Unlock()
	return json.Marshal(driver)
}

// Unmarshal takes a configuration. If it is that of a machine, it must be as the driver wrote it, except for spaces.
//
// Clients have to keep fields that they do not know, large numbers, the order of the keys and the way texts are escaped.
func (base *Base) Unmarshal(data []byte, driver interface{}, kept *Kept) error {
	base.mutex.Lock()
	defer base.mutex.Unlock()
	if err := json.Unmarshal(data, driver); err != nil {
		return err
	}
	if kept.InstanceID == "" {
		return nil
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, data); err != nil {
		return err
	}
	written, err := json.Marshal(driver)
	if err != nil {
		return err
	}
	got := compact.Bytes()
	for at := range written {
		if at >= len(got) || got[at] != written[at] {
			return fmt.Errorf("the configuration is not as %s wrote it, from byte %d on: %q in place of %q",
				base.name, at, excerpt(got, at), excerpt(written, at))
		}
	}
	if len(got) > len(written) {
		return fmt.Errorf("the configuration has %q after its end", excerpt(got, len(written)))
	}
	if first := keptOf(kept.InstanceID); !reflect.DeepEqual(*kept, first) {
		return fmt.Errorf("the configuration has other values than at first: %+v in place of %+v", *kept, first)
	}
	return nil
}

func excerpt(text []byte, at int) []byte {
	from, to := at, at+40
	if from > len(text) {
		from = len(text)
	}
	if to > len(text) {
		to = len(text)
	}
	return text[from:to]
}

// Kept are fields that only a client which keeps the configuration's bytes returns unchanged.
type Kept struct {
	InstanceID string
	Serial     int64
	Ratio      float64
	Note       string
	Nothing    *string
	Nested     Nested
}

// Nested is an object within the configuration.
type Nested struct {
	Zone  string
	Sizes []int64
	Tags  map[string]string
}

// keptOf returns the values of an instance: numbers that a float cannot hold, and texts that can be escaped in many ways.
func keptOf(id string) Kept {
	return Kept{
		InstanceID: id,
		Serial:     1<<53 + 1,
		Ratio:      1.5e-7,
		Note:       "a <b> & \"c\" \u2028 für ☃ \U0001F40B \\ /",
		Nested:     Nested{Zone: "north", Sizes: []int64{1 << 60, -1, 0}, Tags: map[string]string{"z": "<&>", "a": ""}},
	}
}

// NewInstance fills the fields and logs that the instance exists from here on.
func (base *Base) NewInstance(kept *Kept) error {
	random := make([]byte, 8)
	if _, err := rand.Read(random); err != nil {
		return err
	}
	id := "i-" + hex.EncodeToString(random)
	base.Update(func() { *kept = keptOf(id) })
	behaviour.Log("created", base.MachineName, id)
	return nil
}

// LogRemoved logs that Remove was called.
func (base *Base) LogRemoved(kept *Kept) {
	id := kept.InstanceID
	if id == "" {
		id = "-"
	}
	behaviour.Log("removed", base.MachineName, id)
}

// Info prints an information line, on stdout as docker-machine's log does.
func Info(format string, values ...interface{}) { fmt.Fprintf(os.Stdout, format+"\n", values...) }

// Debug prints a debug line, on stderr as docker-machine's log does.
func Debug(format string, values ...interface{}) { fmt.Fprintf(os.Stderr, format+"\n", values...) }
