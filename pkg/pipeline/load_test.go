package pipeline_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"sluice.dev/pkg/pipeline"
)

const nbaFile = "../../deploy/pipelines/nba/pipeline.yaml"

func nbaEnv(string) (string, bool) { return "http://127.0.0.1:1", true }

func TestNBAPipeline(t *testing.T) {
	t.Parallel()
	p, err := pipeline.Load(nbaFile, nbaEnv)
	if err != nil {
		t.Fatal(err)
	}
	want := []int{21, 21, 5, 5, 1}
	if len(p.Phases) != len(want) {
		t.Fatalf("%d phases, want %d", len(p.Phases), len(want))
	}
	for i, n := range want {
		if got := len(p.Phases[i].Processors); got != n {
			t.Errorf("%s has %d processors, want %d", p.Phases[i].ID, got, n)
		}
	}
	v1, err := pipeline.Version(p)
	if err != nil {
		t.Fatal(err)
	}
	again, err := pipeline.Load(nbaFile, nbaEnv)
	if err != nil {
		t.Fatal(err)
	}
	if v2, err := pipeline.Version(again); err != nil || v1 != v2 {
		t.Errorf("the same file has versions %s and %s (%v)", v1, v2, err)
	}
}

// small is a correct pipeline that each case below damages.
const small = `name: small
partition:
  column: day
  calendar: {daily: {from: 2024-01-01}}
limiters:
  api: {rate: 5/s}
phases:
  - id: one
    trigger: {http: {url: "${URL}/run", body: '{"p":"{{.Processor}}"}'}}
    processors:
      - {name: a, limiter: api}
      - b
  - id: two
    trigger: none
    processors: [c]
`

func TestFaultsHavePlaces(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		old, repl string
		want      []string // line:col: part of the message
	}{
		"unknown field":           {"  column: day\n", "  column: day\n  colum: x\n", []string{"4:3: unknown field \"colum\""}},
		"two unknown fields":      {"- id: two\n", "- id: two\n    foo: 1\n    bar: 2\n", []string{"unknown field \"foo\"", "unknown field \"bar\""}},
		"limiter not declared":    {"limiter: api}", "limiter: apj}", []string{"11:19: limiter \"apj\" is not declared"}},
		"template field":          {"{{.Processor}}", "{{.Procesor}}", []string{"9:41: the body template is wrong"}},
		"variable not set":        {"${URL}", "${URI}", []string{"the environment variable URI is not set"}},
		"rate of zero":            {"rate: 5/s", "rate: 0/s", []string{"6:9: a rate of 0/s"}},
		"bad rate":                {"rate: 5/s", "rate: fast", []string{"\"fast\" is not a rate"}},
		"no processors":           {"processors: [c]", "processors: []", []string{"15:5: the list must not be empty"}},
		"processor twice":         {"      - b\n", "      - a\n", []string{"12:9: processor \"a\" is listed twice"}},
		"unknown need":            {"      - b\n", "      - {name: b, needs: [x]}\n", []string{"unknown processor \"x\""}},
		"unknown after":           {"- id: two\n", "- id: two\n    after: [zero]\n", []string{"after names the unknown phase \"zero\""}},
		"unknown window":          {"      - b\n", "      - {name: b, window: {phase: x, days: 3}}\n", []string{"the window names the unknown phase"}},
		"needs cycle":             {"      - b\n", "      - {name: b, needs: [b2]}\n      - {name: b2, needs: [b]}\n", []string{"wait for each other"}},
		"after cycle":             {"- id: one\n", "- id: one\n    after: [two]\n", []string{"wait for each other"}},
		"phase twice":             {"- id: two", "- id: one", []string{"phase \"one\" is listed twice"}},
		"wrong type":              {"processors: [c]", "processors: c", []string{"expected array"}},
		"missing trigger":         {"    trigger: none\n", "", []string{"phase \"two\" has no trigger"}},
		"not YAML":                {"name: small", "name: [small", []string{""}},
		"bad duration":            {"- id: two\n", "- id: two\n    timeout: soon\n", []string{"\"soon\" is not a duration"}},
		"several faults together": {"limiter: api}", "limiter: no, timeout: never}", []string{"limiter \"no\"", "\"never\" is not a duration"}},
	}
	env := func(k string) (string, bool) { return "http://127.0.0.1:1", k == "URL" }
	if _, err := pipeline.Parse("small.yaml", []byte(small), env); err != nil {
		t.Fatalf("the undamaged file: %v", err)
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := strings.Replace(small, c.old, c.repl, 1)
			if text == small {
				t.Fatal("the case changes nothing")
			}
			_, err := pipeline.Parse("small.yaml", []byte(text), env)
			var faults pipeline.Faults
			if !errors.As(err, &faults) {
				t.Fatalf("got %v, want faults", err)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("no %q in:\n%v", want, err)
				}
			}
		})
	}
}

func TestBodyIsAlwaysJSON(t *testing.T) {
	t.Parallel()
	p, err := pipeline.Load(nbaFile, nbaEnv)
	if err != nil {
		t.Fatal(err)
	}
	b, err := pipeline.Body(p.Phases[0].Trigger.HTTP, pipeline.Call{Processor: "x", Date: "2024-01-01", Reason: "say \"hi\"\n\\ end\""})
	if err != nil || !strings.Contains(string(b), `say \"hi\"\n\\ end\"`) {
		t.Fatalf("%s, %v", b, err)
	}
}

func TestSchemaIsCommitted(t *testing.T) {
	t.Parallel()
	want, err := pipeline.Schema()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../deploy/pipelines/pipeline.schema.json")
	if err != nil || string(got) != string(want) {
		t.Errorf("deploy/pipelines/pipeline.schema.json is not what the types say: run make generate (%v)", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(small))
	f.Add([]byte("name: x\nphases: [{id: a, processors: [b]}]"))
	f.Add([]byte("&a [*a]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := pipeline.Parse("fuzz.yaml", data, nbaEnv)
		if (p == nil) == (err == nil) {
			t.Fatalf("got %v and %v", p, err)
		}
	})
}

const withChecks = small + `
checks:
  - {name: survive, after: one, kind: count_ratio, over: a.b.c, to: d.e.f, min: 0.9, blocking: true}
  - {name: sane, after: one, kind: distribution, column: a.b.points, mean: [5, 20], min: 0, max: 110}
  - {name: nulls, after: one, kind: null_fraction, columns: [a.b.c, a.b.d], max: 0.01}
  - {name: like_last_year, after: one, kind: season_over_season, table: a.b, metrics: [count_dates, count_distinct(p), avg(points)], max_change: 0.15}
  - {name: custom, after: one, kind: sql, query: "SELECT 1 FROM a.b WHERE d IN UNNEST(@dates)", expect: no_rows}
`

func TestChecksAreRead(t *testing.T) {
	t.Parallel()
	p, err := pipeline.Parse("p.yaml", []byte(withChecks), nbaEnv)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Checks) != 5 || !p.Checks[0].Blocking || *p.Checks[0].Min != 0.9 || p.Checks[1].Mean != [2]float64{5, 20} || !p.Checks[1].HasMean {
		t.Errorf("%+v", p.Checks)
	}
}

func TestChecksThatMakeNoSense(t *testing.T) {
	t.Parallel()
	for from, c := range map[string]struct{ to, fault string }{
		"name: sane,":                     {"name: survive,", `check "survive" is listed twice`},
		"{name: nulls, after: one":        {"{name: nulls, after: nine", `unknown phase "nine"`},
		"over: a.b.c, ":                   {"", "needs over"},
		"mean: [5, 20]":                   {"mean: [20, 5]", "smaller number first"},
		"mean: [5, 20], min: 0, max: 110": {"", "bounds nothing"},
		"columns: [a.b.c, a.b.d]":         {"columns: [points]", `"points" is not a column`},
		"avg(points)":                     {"median(points)", `"median(points)" is no metric`},
		"UNNEST(@dates)":                  {"UNNEST(dates)", "does not use @dates"},
		"expect: no_rows":                 {"expect: no_rows, table: a.b", "takes no table"},
		"kind: sql":                       {"kind: magic", "magic"},
	} {
		text := strings.Replace(withChecks, from, c.to, 1)
		if text == withChecks {
			t.Errorf("%q is not in the file", from)
		}
		if _, err := pipeline.Parse("p.yaml", []byte(text), nbaEnv); err == nil || !strings.Contains(err.Error(), c.fault) {
			t.Errorf("%s: %v", c.to, err)
		}
	}
}
