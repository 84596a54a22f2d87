// Package rpcdriver has the argument of SetConfigFromFlags as docker-machine names and sends it.
package rpcdriver

// RPCFlags are the values of a driver's flags.
type RPCFlags struct{ Values map[string]interface{} }
