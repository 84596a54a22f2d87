package main

import (
	"encoding/json"
	"math"
	"reflect"
	"sort"
)

// description is a type in JSON.
type description struct {
	Kind    string
	Name    string        // of kind "named"
	Length  int           // of kind "array"
	Key     *description  // of kind "map"
	Element *description  // of kinds "slice", "array" and "map"
	Fields  []fieldOfType // of kind "struct"
}

type fieldOfType struct {
	Name string
	Type description
}

var basic = map[string]reflect.Type{
	"bool":      reflect.TypeOf(false),
	"int":       reflect.TypeOf(int64(0)),
	"uint":      reflect.TypeOf(uint64(0)),
	"float":     reflect.TypeOf(float64(0)),
	"bytes":     reflect.TypeOf([]byte{}),
	"string":    reflect.TypeOf(""),
	"interface": reflect.TypeOf((*interface{})(nil)).Elem(),
}

func (one description) goType() reflect.Type {
	switch one.Kind {
	case "named":
		return known(one.Name)
	case "slice":
		return reflect.SliceOf(one.Element.goType())
	case "array":
		return reflect.ArrayOf(one.Length, one.Element.goType())
	case "map":
		return reflect.MapOf(one.Key.goType(), one.Element.goType())
	case "struct":
		fields := []reflect.StructField{}
		for _, field := range one.Fields {
			fields = append(fields, reflect.StructField{Name: field.Name, Type: field.Type.goType()})
		}
		return reflect.StructOf(fields)
	}
	return basic[one.Kind]
}

func known(name string) reflect.Type {
	if named[name] == nil {
		panic("no type has the name " + name)
	}
	return named[name]
}

type inInterface struct {
	Name  string
	Value interface{}
}

// shown returns a value in the kinds of JSON, without loss: floats as their bits, texts as bytes, maps as sorted pairs.
func shown(value reflect.Value) interface{} {
	switch value.Kind() {
	case reflect.Bool:
		return value.Bool()
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return value.Int()
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return value.Uint()
	case reflect.Float32, reflect.Float64:
		return math.Float64bits(value.Float())
	case reflect.String:
		return []byte(value.String())
	case reflect.Pointer:
		if value.IsNil() {
			return nil
		}
		return shown(value.Elem())
	case reflect.Interface:
		if value.IsNil() {
			return nil
		}
		return inInterface{nameOf(value.Elem().Type()), shown(value.Elem())}
	case reflect.Struct:
		fields := map[string]interface{}{}
		for at := 0; at < value.NumField(); at++ {
			if value.Type().Field(at).IsExported() {
				fields[value.Type().Field(at).Name] = shown(value.Field(at))
			}
		}
		return fields
	case reflect.Map:
		pairs := [][2]interface{}{}
		for each := value.MapRange(); each.Next(); {
			pairs = append(pairs, [2]interface{}{shown(each.Key()), shown(each.Value())})
		}
		sort.Slice(pairs, func(one, other int) bool { return inJSON(pairs[one][0]) < inJSON(pairs[other][0]) })
		return pairs
	}
	if value.Type() == basic["bytes"] {
		return append([]byte{}, value.Bytes()...)
	}
	elements := []interface{}{}
	for at := 0; at < value.Len(); at++ {
		elements = append(elements, shown(value.Index(at)))
	}
	return elements
}

func inJSON(value interface{}) string {
	text, err := json.Marshal(value)
	check(err)
	return string(text)
}

func nameOf(kind reflect.Type) string {
	for name, one := range named {
		if one == kind {
			return name
		}
	}
	panic("no name for " + kind.String())
}

// fill sets a value from what `shown` returns for it.
func fill(value reflect.Value, text json.RawMessage) {
	switch value.Kind() {
	case reflect.Float32, reflect.Float64:
		var bits uint64
		check(json.Unmarshal(text, &bits))
		value.SetFloat(math.Float64frombits(bits))
	case reflect.String:
		var data []byte
		check(json.Unmarshal(text, &data))
		value.SetString(string(data))
	case reflect.Pointer:
		if string(text) != "null" {
			value.Set(reflect.New(value.Type().Elem()))
			fill(value.Elem(), text)
		}
	case reflect.Interface:
		fillInterface(value, text)
	case reflect.Struct:
		var fields map[string]json.RawMessage
		check(json.Unmarshal(text, &fields))
		for name, field := range fields {
			fill(value.FieldByName(name), field)
		}
	case reflect.Map:
		var pairs [][2]json.RawMessage
		check(json.Unmarshal(text, &pairs))
		value.Set(reflect.MakeMap(value.Type()))
		for _, pair := range pairs {
			key, element := reflect.New(value.Type().Key()).Elem(), reflect.New(value.Type().Elem()).Elem()
			fill(key, pair[0])
			fill(element, pair[1])
			value.SetMapIndex(key, element)
		}
	case reflect.Slice, reflect.Array:
		fillElements(value, text)
	default:
		check(json.Unmarshal(text, value.Addr().Interface()))
	}
}

func fillInterface(value reflect.Value, text json.RawMessage) {
	if string(text) == "null" {
		return
	}
	var content struct {
		Name  string
		Value json.RawMessage
	}
	check(json.Unmarshal(text, &content))
	concrete := reflect.New(known(content.Name)).Elem()
	fill(concrete, content.Value)
	value.Set(concrete)
}

func fillElements(value reflect.Value, text json.RawMessage) {
	if value.Type() == basic["bytes"] {
		check(json.Unmarshal(text, value.Addr().Interface()))
		return
	}
	var elements []json.RawMessage
	check(json.Unmarshal(text, &elements))
	if value.Kind() == reflect.Slice {
		value.Set(reflect.MakeSlice(value.Type(), len(elements), len(elements)))
	}
	for at, element := range elements {
		fill(value.Index(at), element)
	}
}
