package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"sluice.dev/pkg/fault"
)

// Marshal writes a message as the contract's JSON: snake_case names, every field present.
func Marshal(m proto.Message) ([]byte, error) {
	b, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("writing %s as JSON: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	return b, nil
}

// MarshalCompact leaves out what is empty.
func MarshalCompact(m proto.Message) ([]byte, error) {
	b, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("writing %s as JSON: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	return b, nil
}

// Unmarshal reads JSON strictly: an unknown field, at any depth, is a fault that names it, and all of them
// are reported together.
func Unmarshal(b []byte, m proto.Message) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var tree any
	if err := dec.Decode(&tree); err != nil {
		return fault.New(fault.Invalid, "the body is not JSON: %v", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fault.New(fault.Invalid, "the body is not one JSON value: something follows it")
	}
	obj, ok := tree.(map[string]any)
	if !ok {
		return fault.New(fault.Invalid, "the body must be a JSON object")
	}
	var faults fault.List
	unknown(&faults, "", obj, m.ProtoReflect().Descriptor())
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, m); err != nil {
		faults.Addf("%s", trimProto(err))
	}
	return faults.Err()
}

// unknown collects the fields of obj that the message does not have.
func unknown(faults *fault.List, path string, obj map[string]any, d protoreflect.MessageDescriptor) {
	names := make([]string, 0, len(obj))
	for name := range obj {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		f := d.Fields().ByTextName(name)
		if f == nil {
			f = d.Fields().ByJSONName(name)
		}
		switch {
		case f == nil:
			faults.Addf("unknown field %q", path+name)
		case f.IsMap():
			entries, _ := obj[name].(map[string]any)
			if v := f.MapValue(); v.Kind() == protoreflect.MessageKind {
				for k, e := range entries {
					descend(faults, path+name+"."+k+".", e, v.Message())
				}
			}
		case f.Kind() == protoreflect.MessageKind:
			if list, ok := obj[name].([]any); ok {
				for i, e := range list {
					descend(faults, fmt.Sprintf("%s%s[%d].", path, name, i), e, f.Message())
				}
			} else {
				descend(faults, path+name+".", obj[name], f.Message())
			}
		}
	}
}

func descend(faults *fault.List, path string, v any, d protoreflect.MessageDescriptor) {
	if obj, ok := v.(map[string]any); ok && d.FullName().Parent() != "google.protobuf" {
		unknown(faults, path, obj, d)
	}
}

// trimProto drops the "proto: (line 1:2): " that protojson puts, with a random kind of space, before its
// words, and writes field names as the contract does.
func trimProto(err error) string {
	s := err.Error()
	if i := strings.LastIndex(s, "): "); i >= 0 {
		s = s[i+3:]
	}
	return camel.ReplaceAllStringFunc(s, func(m string) string {
		return m[:1] + "_" + strings.ToLower(m[1:])
	})
}

// camel finds the humps of camelCase names.
var camel = regexp.MustCompile(`[a-z][A-Z]`)

// Decode makes the typed payload of an event from its JSON. An unknown type is Invalid.
func Decode(typ string, body []byte) (proto.Message, error) {
	m := payload(typ)
	if m == nil {
		return nil, fault.New(fault.Invalid, "unknown event type %q", typ)
	}
	if err := Unmarshal(body, m); err != nil {
		return nil, err
	}
	return m, nil
}

// Empty makes an empty payload of a type, nil for a type that is not ours.
func Empty(typ string) proto.Message { return payload(typ) }
