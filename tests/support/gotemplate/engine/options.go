// Package engine has the fields of docker-machine's type of that name.
package engine

type Options struct {
	ArbitraryFlags   []string
	DNS              []string
	GraphDir         string
	Env              []string
	Ipv6             bool
	InsecureRegistry []string
	Labels           []string
	LogLevel         string
	StorageDriver    string
	SelinuxEnabled   bool
	TLSVerify        bool
	RegistryMirror   []string
	InstallURL       string
}
