// Package mcnflag has the flags of a driver as docker-machine names and sends them.
package mcnflag

// Flag is any of the flags below.
type Flag interface{ String() string }

// StringFlag is a flag with a text.
type StringFlag struct{ Name, Usage, EnvVar, Value string }

// StringSliceFlag is a flag that may be repeated.
type StringSliceFlag struct {
	Name, Usage, EnvVar string
	Value               []string
}

// IntFlag is a flag with a number.
type IntFlag struct {
	Name, Usage, EnvVar string
	Value               int
}

// BoolFlag is a flag without a value.
type BoolFlag struct{ Name, Usage, EnvVar string }

func (flag StringFlag) String() string      { return flag.Name }
func (flag StringSliceFlag) String() string { return flag.Name }
func (flag IntFlag) String() string         { return flag.Name }
func (flag BoolFlag) String() string        { return flag.Name }
