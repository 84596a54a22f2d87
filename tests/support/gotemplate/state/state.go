// Package state has docker-machine's type for a machine's state, under its name.
package state

type State int

var words = []string{"", "Running", "Paused", "Saved", "Stopped", "Stopping", "Starting", "Error", "Timeout"}

func (s State) String() string {
	if s >= 0 && int(s) < len(words) {
		return words[s]
	}
	return ""
}
