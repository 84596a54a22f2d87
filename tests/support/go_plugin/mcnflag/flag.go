// Package mcnflag has the flags that a driver program describes to its client.
//
// gob registers these types under the package's name, as `*mcnflag.StringFlag`. Package, types and fields therefore have
// docker-machine's names.
package mcnflag

import "fmt"

// Flag is an option of `create`.
type Flag interface {
	fmt.Stringer
	// Default returns the value if the user gives none; nil for a BoolFlag.
	Default() interface{}
}

// StringFlag is an option with a text.
type StringFlag struct {
	Name, Usage, EnvVar string
	Value               string
}

// StringSliceFlag is an option that can be repeated.
type StringSliceFlag struct {
	Name, Usage, EnvVar string
	Value               []string
}

// IntFlag is an option with a whole number.
type IntFlag struct {
	Name, Usage, EnvVar string
	Value               int
}

// BoolFlag is a switch that is off by default.
type BoolFlag struct {
	Name, Usage, EnvVar string
}

func (flag StringFlag) String() string      { return flag.Name }
func (flag StringSliceFlag) String() string { return flag.Name }
func (flag IntFlag) String() string         { return flag.Name }
func (flag BoolFlag) String() string        { return flag.Name }

// Default returns the text.
func (flag StringFlag) Default() interface{} { return flag.Value }

// Default returns the list of texts.
func (flag StringSliceFlag) Default() interface{} { return flag.Value }

// Default returns the number.
func (flag IntFlag) Default() interface{} { return flag.Value }

// Default returns nil, as docker-machine's type does.
func (flag BoolFlag) Default() interface{} { return nil }
