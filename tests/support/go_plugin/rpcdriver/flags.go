// Package rpcdriver serves a driver through net/rpc. Its name is part of gob's name of RPCFlags.
package rpcdriver

import (
	"encoding/gob"

	"goplugin/drivers"
	"goplugin/mcnflag"
)

// RPCFlags are the values of `create`'s flags, as the client sends them.
type RPCFlags struct {
	Values map[string]interface{}
}

// RegisterTypes makes gob know the types that interfaces hold, with the name of RPCFlags that fits the service's name.
func RegisterTypes(service string) {
	gob.Register(new(mcnflag.StringFlag))
	gob.Register(new(mcnflag.StringSliceFlag))
	gob.Register(new(mcnflag.IntFlag))
	gob.Register(new(mcnflag.BoolFlag))
	if service == OldService {
		gob.RegisterName("*rpcdriver.RpcFlags", new(RPCFlags))
	} else {
		gob.Register(new(RPCFlags))
	}
}

func (flags RPCFlags) value(key string) interface{} {
	value, isSent := flags.Values[key]
	if !isSent {
		drivers.Info("WARNING: the client has sent no value of the option %s", key)
	}
	return value
}

func mismatch(key string, value interface{}, wanted string) {
	if value != nil {
		drivers.Info("WARNING: the client has sent a %T as value of the option %s, which is a %s", value, key, wanted)
	}
}

// String returns a text, or "" after a warning.
func (flags RPCFlags) String(key string) string {
	value, fits := flags.value(key).(string)
	if !fits {
		mismatch(key, flags.Values[key], "string")
	}
	return value
}

// StringSlice returns a list of texts, or nil after a warning.
func (flags RPCFlags) StringSlice(key string) []string {
	value, fits := flags.value(key).([]string)
	if !fits {
		mismatch(key, flags.Values[key], "[]string")
	}
	return value
}

// Int returns a number, or 0 after a warning.
func (flags RPCFlags) Int(key string) int {
	value, fits := flags.value(key).(int)
	if !fits {
		mismatch(key, flags.Values[key], "int")
	}
	return value
}

// Bool returns a truth value, or false after a warning.
func (flags RPCFlags) Bool(key string) bool {
	value, fits := flags.value(key).(bool)
	if !fits {
		mismatch(key, flags.Values[key], "bool")
	}
	return value
}
