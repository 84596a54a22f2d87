// Package behaviour lets tests choose faults of the program, and records what its clients do.
//
// GO_PLUGIN_LOG names a file. The program appends a line for each event; all fields but the last are single words:
//
//	start PID DRIVER                 a program has started, with a valid token and a known driver
//	call PID METHOD                  a client has called a method
//	created PID MACHINE INSTANCE     an instance exists from here on, and would cost money in a cloud
//	create-ended PID MACHINE         Create returns without an error
//	removed PID MACHINE INSTANCE     Remove was called; INSTANCE is "-" if the configuration names none
//	end PID REASON                   the program ends: "close", "heartbeat" or "die"
//
// GO_PLUGIN_BEHAVIOUR is a list of words, separated by commas. A METHOD may be followed by "@MACHINE", which limits the
// fault to one machine, and "*" is every method. In Create, "die", "error" and "slow" act once the instance exists.
//
//	address=never         print no address and end after five minutes
//	address=late:SECONDS  print the address after that time
//	address=rubbish       print a line that is not an address
//	address=gone          print an address at which nothing listens
//	connect=hang          accept connections, but answer nothing
//	service=NAME          serve only under NAME. Without this, the program serves under RPCServerDriver and
//	                      RpcServerDriver, as docker-machine's later programs do. With RpcServerDriver it also expects
//	                      flags as *rpcdriver.RpcFlags, as programs before docker-machine 0.5.1 do.
//	version=NUMBER        answer GetVersion with that number
//	hang=METHOD           never answer
//	slow=METHOD:SECONDS   answer after that time
//	error=METHOD          answer with an error of two lines
//	die=METHOD            print lines on stderr and exit with code 3
//	noise                 print many lines, very long ones and invalid UTF-8, after the address and in Create
package behaviour

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	wordsVariable = "GO_PLUGIN_BEHAVIOUR"
	logVariable   = "GO_PLUGIN_LOG"
	exitCode      = 3
	silence       = 5 * time.Minute
)

// withValue has the words that need a value.
var withValue = map[string]bool{
	"address": true, "connect": true, "service": true, "version": true,
	"hang": true, "slow": true, "error": true, "die": true,
}

// Behaviour is the list of faults that a test has chosen.
type Behaviour struct{ words [][2]string }

// FromEnvironment reads the list of faults. Errors name the word that is unknown.
func FromEnvironment() (*Behaviour, error) {
	chosen := &Behaviour{}
	for _, word := range strings.Split(os.Getenv(wordsVariable), ",") {
		if word == "" {
			continue
		}
		name, value, _ := strings.Cut(word, "=")
		if name != "noise" && !(withValue[name] && value != "") {
			return nil, fmt.Errorf("%s has the unknown word %q; the package behaviour lists them", wordsVariable, word)
		}
		chosen.words = append(chosen.words, [2]string{name, value})
	}
	return chosen, nil
}

// Value returns the value of a word, or "".
func (chosen *Behaviour) Value(name string) string {
	for _, word := range chosen.words {
		if word[0] == name {
			return word[1]
		}
	}
	return ""
}

// IsNoisy returns whether the program prints far more than a client expects.
func (chosen *Behaviour) IsNoisy() bool {
	for _, word := range chosen.words {
		if word[0] == "noise" {
			return true
		}
	}
	return false
}

// Address returns the line to print, how long to wait first, and whether to print it.
func (chosen *Behaviour) Address(real string) (line string, delay time.Duration, isPrinted bool) {
	kind, value, _ := strings.Cut(chosen.Value("address"), ":")
	switch kind {
	case "never":
		return "", silence, false
	case "late":
		return real, seconds(value), true
	case "rubbish":
		return "Usage: \xff\x1b[31m this is not an address", 0, true
	case "gone":
		// The kernel never gives port 1 to a listener that asks for any port.
		return "127.0.0.1:1", 0, true
	}
	return real, 0, true
}

// Hang blocks for ever if the method shall not answer.
func (chosen *Behaviour) Hang(method, machine string) {
	if _, found := chosen.fault("hang", method, machine); found {
		select {}
	}
}

// Act waits, ends the program or returns an error if the method shall do that.
func (chosen *Behaviour) Act(method, machine string) error {
	if value, found := chosen.fault("slow", method, machine); found {
		time.Sleep(seconds(value))
	}
	if _, found := chosen.fault("die", method, machine); found {
		fmt.Fprintf(os.Stderr, "%s fails in an unexpected way:\n", method)
		fmt.Fprintln(os.Stderr, "this program ends, as a panic would end it")
		Log("end", "die")
		os.Exit(exitCode)
	}
	if _, found := chosen.fault("error", method, machine); found {
		return fmt.Errorf("%s was refused by the test\n%s requests this error", method, wordsVariable)
	}
	return nil
}

func (chosen *Behaviour) fault(name, method, machine string) (value string, found bool) {
	for _, word := range chosen.words {
		if word[0] != name {
			continue
		}
		target, value, _ := strings.Cut(word[1], ":")
		wanted, only, isLimited := strings.Cut(target, "@")
		if (wanted == method || wanted == "*") && (!isLimited || only == machine) {
			return value, true
		}
	}
	return "", false
}

// Log appends an event to the test's file, if there is one.
func Log(event string, fields ...string) {
	path := os.Getenv(logVariable)
	if path == "" {
		return
	}
	line := strings.Join(append([]string{event, strconv.Itoa(os.Getpid())}, fields...), " ") + "\n"
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err == nil {
		// One write, so that the lines of several programs do not mix.
		_, err = file.WriteString(line)
	}
	if err == nil {
		err = file.Close()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "cannot write to %s of %s: %v\n", path, logVariable, err)
		os.Exit(exitCode)
	}
}

// MakeNoise prints many lines, very long ones and invalid UTF-8 on both streams.
func MakeNoise() {
	for _, stream := range []*os.File{os.Stdout, os.Stderr} {
		for number := 0; number < 2000; number++ {
			fmt.Fprintf(stream, "line %d of noise \x1b[1mbold\x1b[0m \xff\xfe\n", number)
		}
		fmt.Fprintln(stream, strings.Repeat("long ", 60_000))
	}
}

func seconds(text string) time.Duration {
	number, err := strconv.ParseFloat(text, 64)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s has %q in place of a number of seconds\n", wordsVariable, text)
		os.Exit(exitCode)
	}
	return time.Duration(number * float64(time.Second))
}
