package pipeline

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// position is a place in the file; both count from 1.
type position struct{ line, col int }

// Fault is one thing that is wrong with a file.
type Fault struct {
	File      string
	Line, Col int
	Message   string
}

func (f Fault) String() string { return fmt.Sprintf("%s:%d:%d: %s", f.File, f.Line, f.Col, f.Message) }

// tree is a file as plain values, with the position of every value by its JSON pointer.
type tree struct {
	file   string
	lookup func(string) (string, bool)
	root   any
	at     map[string]position
	values int
	faults []Fault
}

// maxValues bounds what aliases can blow a file up to.
const maxValues = 100_000

// faultf records a fault at a pointer, or at the nearest value around it.
func (t *tree) faultf(pointer, format string, args ...any) {
	p := pointer
	pos, ok := t.at[p]
	for !ok && p != "" {
		p = p[:strings.LastIndexByte(p, '/')]
		pos, ok = t.at[p]
	}
	if !ok {
		pos = position{1, 1}
	}
	t.faults = append(t.faults, Fault{t.file, pos.line, pos.col, fmt.Sprintf(format, args...)})
}

// yamlError finds the [line:col] that the parser puts before its message.
var yamlError = regexp.MustCompile(`(?s)^\[(\d+):(\d+)\] ([^\n]*)`)

func parse(file string, data []byte, lookup func(string) (string, bool)) *tree {
	if lookup == nil {
		lookup = os.LookupEnv
	}
	t := &tree{file: file, lookup: lookup, at: map[string]position{}}
	f, err := parser.ParseBytes(data, 0)
	if err != nil {
		t.parseFault(err)
		return t
	}
	if len(f.Docs) != 1 || f.Docs[0].Body == nil {
		t.faults = append(t.faults, Fault{file, 1, 1, fmt.Sprintf("the file must hold one YAML document, not %d", len(f.Docs))})
		return t
	}
	anchors := map[string]ast.Node{}
	t.root = t.value("", f.Docs[0].Body, anchors)
	return t
}

func (t *tree) parseFault(err error) {
	if m := yamlError.FindStringSubmatch(err.Error()); m != nil {
		line, _ := strconv.Atoi(m[1])
		col, _ := strconv.Atoi(m[2])
		t.faults = append(t.faults, Fault{t.file, line, col, m[3]})
		return
	}
	t.faults = append(t.faults, Fault{t.file, 1, 1, err.Error()})
}

// value converts a node, noting positions and filling in ${VAR}.
func (t *tree) value(pointer string, n ast.Node, anchors map[string]ast.Node) any {
	if t.values++; t.values > maxValues {
		if t.values == maxValues+1 {
			t.faultf("", "the file holds more than %d values", maxValues)
		}
		return nil
	}
	if tok := n.GetToken(); tok != nil {
		if _, noted := t.at[pointer]; !noted {
			t.at[pointer] = position{tok.Position.Line, tok.Position.Column}
		}
	}
	switch n := n.(type) {
	case *ast.MappingNode:
		m := make(map[string]any, len(n.Values))
		for _, kv := range n.Values {
			t.entry(m, pointer, kv, anchors)
		}
		return m
	case *ast.MappingValueNode:
		m := map[string]any{}
		t.entry(m, pointer, n, anchors)
		return m
	case *ast.SequenceNode:
		s := make([]any, len(n.Values))
		for i, v := range n.Values {
			s[i] = t.value(fmt.Sprintf("%s/%d", pointer, i), v, anchors)
		}
		return s
	case *ast.AnchorNode:
		v := t.value(pointer, n.Value, anchors)
		anchors[n.Name.String()] = n.Value // only now: an anchor inside itself would never end
		return v
	case *ast.AliasNode:
		if v, ok := anchors[n.Value.String()]; ok {
			return t.value(pointer, v, anchors)
		}
		t.faultf(pointer, "unknown alias *%s", n.Value)
		return nil
	case *ast.TagNode:
		return t.value(pointer, n.Value, anchors)
	case *ast.LiteralNode:
		return t.expand(pointer, n.Value.Value)
	case *ast.StringNode:
		return t.expand(pointer, n.Value)
	case ast.ScalarNode:
		return n.GetValue()
	default:
		return nil
	}
}

func (t *tree) entry(m map[string]any, pointer string, kv *ast.MappingValueNode, anchors map[string]ast.Node) {
	key := kv.Key.String()
	if s, ok := kv.Key.(*ast.StringNode); ok {
		key = s.Value
	}
	if kv.Key.IsMergeKey() {
		if merged, ok := t.value(pointer, kv.Value, anchors).(map[string]any); ok {
			for k, v := range merged {
				if _, own := m[k]; !own {
					m[k] = v
				}
			}
		}
		return
	}
	child := pointer + "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(key)
	if tok := kv.Key.GetToken(); tok != nil {
		t.at[child] = position{tok.Position.Line, tok.Position.Column}
	}
	m[key] = t.value(child, kv.Value, anchors)
}

var variable = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)\}`)

func (t *tree) expand(pointer, s string) string {
	return variable.ReplaceAllStringFunc(s, func(ref string) string {
		name := ref[2 : len(ref)-1]
		v, ok := t.lookup(name)
		if !ok {
			t.faultf(pointer, "the environment variable %s is not set: export it before the pipeline is loaded", name)
		}
		return v
	})
}
