// Renders templates with Go's text/template, for the tests of pymachine.gotemplate.
//
// Reads lines of JSON, each with a template and the name of its data, and writes a line for each: the text and the error.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"text/template"
	"time"

	"gotemplate/commands"
	"gotemplate/engine"
	"gotemplate/state"
	"gotemplate/swarm"
)

type question struct{ Template, Data string }

type answer struct{ Text, Error string }

func data() map[string]interface{} {
	var record interface{}
	text := `{"Name":"intro","Driver":{"CPU":2,"Half":0.5,"Bare":null,"On":true,"Text":"a<b>&\"c'"},"Labels":["a=b","c=d"],"Nothing":{},"Empty":[]}`
	if err := json.Unmarshal([]byte(text), &record); err != nil {
		panic(err)
	}
	return map[string]interface{}{
		"row": commands.HostListItem{
			Name: "intro", Active: "*", ActiveHost: true, DriverName: "qemu", State: state.State(1),
			URL: "tcp://127.0.0.1:2376", Swarm: "", Error: "", DockerVersion: "v26.1.5",
			SwarmOptions: &swarm.Options{Host: "tcp://0.0.0.0:3376", Image: "swarm:latest", Strategy: "spread",
				Overcommit: 0.05, ArbitraryFlags: []string{}, ArbitraryJoinFlags: []string{"x"}},
			EngineOptions: &engine.Options{ArbitraryFlags: []string{}, InsecureRegistry: []string{},
				Labels: []string{"a=b", "c=d"}, TLSVerify: true, Env: []string{}, RegistryMirror: []string{},
				InstallURL: "https://get.docker.com"},
			ResponseTime: 1250 * time.Millisecond,
		},
		"broken":  commands.HostListItem{Name: "bad", DriverName: "not found", State: state.State(7), Error: "no"},
		"headers": map[string]string{"Name": "NAME", "State": "STATE", "ResponseTime": "RESPONSE"},
		"record":  record,
	}
}

func main() {
	functions := template.FuncMap{
		"json":  func(v interface{}) string { text, _ := json.Marshal(v); return string(text) },
		"lower": strings.ToLower,
		"upper": strings.ToUpper,
		"split": strings.Split,
		"join":  strings.Join,
	}
	known := data()
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var asked question
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			panic(err)
		}
		var text strings.Builder
		parsed, err := template.New("").Funcs(functions).Parse(asked.Template)
		if err == nil {
			err = parsed.Execute(&text, known[asked.Data])
		}
		said := answer{Text: text.String()}
		if err != nil {
			said.Error = err.Error()
		}
		line, _ := json.Marshal(said)
		fmt.Println(string(line))
	}
}
