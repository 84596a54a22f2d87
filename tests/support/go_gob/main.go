// Encodes and decodes gob with Go itself, for the tests of pymachine_driver_plugin.gob.
//
// Reads lines of JSON, each a request with types and either values or a stream of gob, and writes a line for each: the
// stream or the values. tests/support/gobs.py has the other side.
package main

import (
	"bufio"
	"bytes"
	"encoding/gob"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"time"

	"gogob/mcnflag"
	"gogob/rpcdriver"
)

type request struct {
	Types  []description
	Values []json.RawMessage // to encode
	Gob    []byte            // to decode, if there are no values
}

type answer struct {
	Gob    []byte
	Values []interface{}
	Error  string
}

// Box has interfaces at all places, so that boxes in boxes define types at any depth.
type Box struct {
	One   interface{}
	Many  []interface{}
	Table map[string]interface{}
	Pair  [2]interface{}
}

// Node refers to itself.
type Node struct {
	Number int
	Next   *Node
	More   []Node
}

// Pointers are sent as what they point to, and not at all if they are nil.
type Pointers struct {
	Bool   *bool
	Int    *int
	Text   **string
	Node   *Node
	Array  *[2]int
	Slice  *[]string
	Map    *map[string]int
	hidden int
	Last   uint
}

// Widths are the numbers of all sizes, and named types.
type Widths struct {
	A int8
	B int16
	C int32
	D int64
	E uint8
	F uint16
	G uint32
	H uint64
	I uintptr
	J float32
	K time.Duration
	L time.Month
}

// named has the types under the names that gob registers for them, and some that only requests name.
var named = map[string]reflect.Type{}

func register(value interface{}) {
	gob.Register(value)
	kind := reflect.TypeOf(value)
	name := kind.String()
	if kind.Name() != "" && kind.PkgPath() != "" {
		name = kind.PkgPath() + "." + kind.Name()
	}
	named[name] = kind
}

func init() {
	for _, value := range []interface{}{
		false, int(0), int64(0), uint(0), float64(0), "", []byte{}, []string{}, []int{}, []float64{},
		[]interface{}{}, map[string]interface{}{}, map[int][]string{}, [2]bool{}, struct{}{}, Box{}, &Node{},
		&mcnflag.StringFlag{}, &mcnflag.StringSliceFlag{}, &mcnflag.IntFlag{}, &mcnflag.BoolFlag{},
		&rpcdriver.RPCFlags{}, Pointers{}, Widths{},
	} {
		register(value)
	}
	named["[]mcnflag.Flag"] = reflect.TypeOf([]mcnflag.Flag{})
	named["time.Time"] = reflect.TypeOf(time.Time{})
	named["complex128"] = reflect.TypeOf(complex128(0))
}

// result encodes or decodes all values of a request in one stream.
func (asked request) result() (result answer) {
	defer func() {
		if problem := recover(); problem != nil {
			result = answer{Error: fmt.Sprint(problem)}
		}
	}()
	if asked.Values != nil {
		return asked.encode()
	}
	return asked.decode()
}

func (asked request) encode() answer {
	var stream bytes.Buffer
	encoder := gob.NewEncoder(&stream)
	for at, kind := range asked.Types {
		pointer := reflect.New(kind.goType())
		fill(pointer.Elem(), asked.Values[at])
		if err := encoder.EncodeValue(pointer); err != nil {
			return answer{Error: err.Error()}
		}
	}
	return answer{Gob: stream.Bytes()}
}

func (asked request) decode() answer {
	stream := bytes.NewReader(asked.Gob)
	decoder := gob.NewDecoder(stream)
	values := []interface{}{}
	for _, kind := range asked.Types {
		pointer := reflect.New(kind.goType())
		if err := decoder.DecodeValue(pointer); err != nil {
			return answer{Values: values, Error: err.Error()}
		}
		values = append(values, shown(pointer.Elem()))
	}
	if stream.Len() > 0 {
		return answer{Error: fmt.Sprintf("%d bytes are left", stream.Len())}
	}
	return answer{Values: values}
}

func main() {
	lines := bufio.NewReader(os.Stdin)
	output := json.NewEncoder(os.Stdout)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		var asked request
		check(json.Unmarshal(line, &asked))
		check(output.Encode(asked.result()))
	}
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
