// Package commands has the fields of docker-machine's type for a row of `ls`.
package commands

import (
	"time"

	"gotemplate/engine"
	"gotemplate/state"
	"gotemplate/swarm"
)

type HostListItem struct {
	Name          string
	Active        string
	ActiveHost    bool
	ActiveSwarm   bool
	DriverName    string
	State         state.State
	URL           string
	SwarmOptions  *swarm.Options
	Swarm         string
	EngineOptions *engine.Options
	Error         string
	DockerVersion string
	ResponseTime  time.Duration
}
