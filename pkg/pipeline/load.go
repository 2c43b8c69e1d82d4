package pipeline

import (
	"bytes"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	validator "github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"sluice.dev/pkg/backfill"
)

// Faults is the error of a file that is not right.
type Faults []Fault

func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i, one := range f {
		lines[i] = one.String()
	}
	return strings.Join(lines, "\n")
}

// Load reads and checks a file. lookup finds the variables that the file names as ${VAR}; nil looks in the
// environment. An error that is not Faults means that the file could not be read.
func Load(path string, lookup func(string) (string, bool)) (*backfill.Pipeline, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading a pipeline: %w", err)
	}
	return Parse(path, data, lookup)
}

// Parse checks the text of a file; path is used in faults and to find a calendar file beside it.
func Parse(path string, data []byte, lookup func(string) (string, bool)) (*backfill.Pipeline, error) {
	t := parse(path, data, lookup)
	var file File
	if t.root != nil {
		t.normalize()
		t.conform()
		decodeTree(t.root, &file)
	}
	if len(t.faults) > 0 {
		return nil, t.sorted()
	}
	c := &compiler{tree: t, file: &file, dir: filepath.Dir(path)}
	p := c.compile()
	if len(t.faults) > 0 {
		return nil, t.sorted()
	}
	return p, nil
}

// Version identifies what a pipeline says: equal pipelines have equal versions.
func Version(p *backfill.Pipeline) (string, error) {
	b, err := json.Marshal(p)
	if err != nil {
		return "", fmt.Errorf("hashing pipeline %s: %w", p.Name, err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

func (t *tree) sorted() Faults {
	slices.SortStableFunc(t.faults, func(a, b Fault) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Col - b.Col
	})
	return Faults(slices.Compact(t.faults))
}

// normalize writes the short forms out: a processor that is only a name, and trigger: none.
func (t *tree) normalize() {
	root, _ := t.root.(map[string]any)
	phases, _ := root["phases"].([]any)
	for _, ph := range phases {
		phase, ok := ph.(map[string]any)
		if !ok {
			continue
		}
		if phase["trigger"] == "none" {
			phase["trigger"] = map[string]any{"none": true}
		}
		procs, _ := phase["processors"].([]any)
		for i, p := range procs {
			if name, ok := p.(string); ok {
				procs[i] = map[string]any{"name": name}
			}
		}
	}
}

// conform holds the tree against the schema of File and reports everything that does not fit.
func (t *tree) conform() {
	raw, err := json.Marshal(reflectSchema())
	if err == nil {
		var doc any
		if doc, err = validator.UnmarshalJSON(bytes.NewReader(raw)); err == nil {
			c := validator.NewCompiler()
			if err = c.AddResource("pipeline.json", doc); err == nil {
				var s *validator.Schema
				if s, err = c.Compile("pipeline.json"); err == nil {
					err = s.Validate(t.root)
				}
			}
		}
	}
	var invalid *validator.ValidationError
	switch {
	case errors.As(err, &invalid):
		t.leaves(invalid)
	case err != nil:
		t.faultf("", "checking the file: %v", err)
	}
}

func (t *tree) leaves(e *validator.ValidationError) {
	for _, cause := range e.Causes {
		t.leaves(cause)
	}
	if len(e.Causes) > 0 {
		return
	}
	pointer := ""
	for _, part := range e.InstanceLocation {
		pointer += "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(part)
	}
	here := describe(e.InstanceLocation)
	switch k := e.ErrorKind.(type) {
	case *kind.AdditionalProperties:
		for _, name := range k.Properties {
			t.faultf(pointer+"/"+name, "unknown field %q%s", name, here)
		}
	case *kind.Required:
		for _, name := range k.Missing {
			t.faultf(pointer, "%q is missing%s", name, here)
		}
	case *kind.Type:
		t.faultf(pointer, "expected %s, not %s%s", strings.Join(k.Want, " or "), k.Got, here)
	case *kind.Enum:
		t.faultf(pointer, "%v is none of %v%s", k.Got, k.Want, here)
	case *kind.Pattern:
		t.faultf(pointer, "%q does not match %s%s", k.Got, k.Want, here)
	case *kind.Minimum:
		t.faultf(pointer, "%s is below %s%s", k.Got.RatString(), k.Want.RatString(), here)
	case *kind.MinItems:
		t.faultf(pointer, "the list must not be empty%s", here)
	default:
		t.faultf(pointer, "does not fit the schema: %v%s", e, here)
	}
}

func describe(location []string) string {
	if len(location) == 0 {
		return ""
	}
	return " in " + strings.Join(location, ".")
}

func decodeTree(tree any, file *File) {
	if b, err := json.Marshal(tree); err == nil {
		// What does not decode has been reported by conform.
		_ = json.Unmarshal(b, file)
	}
}

// readCalendar reads a CSV with a header.
func readCalendar(path, dateColumn, seasonColumn string) (backfill.Calendar, error) {
	f, err := os.Open(path)
	if err != nil {
		return backfill.Calendar{}, err
	}
	defer f.Close()
	r := csv.NewReader(f)
	header, err := r.Read()
	if err != nil {
		return backfill.Calendar{}, fmt.Errorf("%s has no header line: %w", path, err)
	}
	date, season := slices.Index(header, dateColumn), slices.Index(header, seasonColumn)
	if date < 0 || (seasonColumn != "" && season < 0) {
		return backfill.Calendar{}, fmt.Errorf("%s has the columns %v, but the pipeline names %q and %q", path, header, dateColumn, seasonColumn)
	}
	var parts []backfill.Partition
	for line := 2; ; line++ {
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			return backfill.NewCalendar(parts), nil
		}
		if err != nil {
			return backfill.Calendar{}, err
		}
		p := backfill.Partition{}
		if p.Date, err = backfill.ParseDate(row[date]); err != nil {
			return backfill.Calendar{}, fmt.Errorf("%s line %s: %w", path, strconv.Itoa(line), err)
		}
		if season >= 0 {
			p.Season = row[season]
		}
		parts = append(parts, p)
	}
}
