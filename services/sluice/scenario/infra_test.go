package scenario_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"sluice.dev/pkg/event"
	"sluice.dev/pkg/telemetry"
	"sluice.dev/services/sluice/emulated"
)

const infra = "../../../infra"

// rules are the alerts.
func rules(t *testing.T) []struct {
	Alert, Expr string
	Labels      map[string]string
	Annotations map[string]string
} {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(infra, "alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr string
				Labels      map[string]string
				Annotations map[string]string
			}
		}
	}
	if err := yaml.Unmarshal(text, &file); err != nil || len(file.Groups) != 1 {
		t.Fatalf("%v, %d groups", err, len(file.Groups))
	}
	return file.Groups[0].Rules
}

// TestTheInfrastructureKnowsTheProgramsNames compares what infra/ says with the constants of the program.
func TestTheInfrastructureKnowsTheProgramsNames(t *testing.T) {
	t.Parallel()
	var names struct {
		Topics        []string
		Subscriptions map[string]struct{ Consumer, Topic string }
		Metrics       map[string]string
	}
	text, err := os.ReadFile(filepath.Join(infra, "names.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &names); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(names.Topics, event.Topics()) {
		t.Errorf("topics %v", names.Topics)
	}
	for _, s := range emulated.Subscriptions(nil) {
		if got := names.Subscriptions[s.Name()]; got.Consumer != s.Consumer || got.Topic != s.Topic {
			t.Errorf("subscription %s is %+v", s.Name(), got)
		}
	}
	if len(names.Subscriptions) != len(emulated.Subscriptions(nil)) || len(names.Metrics) != len(telemetry.Instruments()) {
		t.Errorf("%d subscriptions, %d metrics", len(names.Subscriptions), len(names.Metrics))
	}
	known := map[string]bool{}
	for _, i := range telemetry.Instruments() {
		known[i.Prometheus] = true
		if names.Metrics[i.Name] != i.Prometheus {
			t.Errorf("metric %s is %s", i.Name, names.Metrics[i.Name])
		}
	}
	operations, err := os.ReadFile("../../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for metric := range known {
		if !bytes.Contains(operations, []byte("`"+metric+"`")) {
			t.Errorf("docs/operations.md does not list the metric %s", metric)
		}
	}
	used := regexp.MustCompile(`\bsluice_\w+`)
	for _, r := range rules(t) {
		for _, metric := range used.FindAllString(r.Expr, -1) {
			if !known[metric] {
				t.Errorf("alert %s uses %s, which nobody sends", r.Alert, metric)
			}
		}
		heading := strings.ReplaceAll(r.Annotations["runbook"], "-", " ")
		if !regexp.MustCompile(`(?mi)^### ` + heading + `$`).Match(operations) {
			t.Errorf("docs/operations.md has no section for %s: ### %s", r.Alert, heading)
		}
		if !slices.Contains([]string{"critical", "error", "warning"}, r.Labels["severity"]) || r.Annotations["summary"] == "" {
			t.Errorf("alert %s has severity %q and summary %q", r.Alert, r.Labels["severity"], r.Annotations["summary"])
		}
	}
	files, err := filepath.Glob(filepath.Join(infra, "*.tf"))
	if err != nil || len(files) < 10 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	topic := regexp.MustCompile(`google_pubsub_topic\.(?:topics|dead)\["([^"]+)"\]`)
	metric := regexp.MustCompile(`local\.m\["([^"$]+)"\]`)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range topic.FindAllStringSubmatch(string(text), -1) {
			if !slices.Contains(event.Topics(), m[1]) {
				t.Errorf("%s names the topic %s", file, m[1])
			}
		}
		for _, m := range metric.FindAllStringSubmatch(string(text), -1) {
			if names.Metrics[m[1]] == "" {
				t.Errorf("%s names the metric %s", file, m[1])
			}
		}
		if regexp.MustCompile(`"roles/(owner|editor)"`).Match(text) {
			t.Errorf("%s grants the whole project", file)
		}
	}
}

// TestNoAlertFiresOnAHealthyRun records the metrics of a run that goes well, a sample for every minute of the rules'
// time, and has promtool hold the alerts against them.
func TestNoAlertFiresOnAHealthyRun(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("promtool"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("no promtool: .ci/run installs it")
		}
		t.Skip("no promtool: install Debian's package prometheus")
	}
	w := demo(t, "--faults", "0.01")
	w.submit("healthy", 40)
	var samples []map[string]string
	for state := ""; state != "completed"; time.Sleep(300 * time.Millisecond) {
		resp, err := http.Get("http://" + w.address + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%v, %s", err, resp.Status)
		}
		sample := map[string]string{}
		for line := range strings.Lines(string(text)) {
			line = strings.TrimSpace(line)
			if i := strings.LastIndex(line, " "); i > 0 && line[0] != '#' && !strings.Contains(line, "_bucket{") {
				sample[line[:i]] = line[i+1:]
			}
		}
		samples = append(samples, sample)
		if state = w.status("healthy").State; len(samples) > 400 || state == "incomplete" {
			t.Fatalf("after %d samples it is %s", len(samples), state)
		}
	}
	all := map[string]bool{}
	for _, s := range samples {
		for name := range s {
			all[name] = true
		}
	}
	var test strings.Builder
	path, err := filepath.Abs(filepath.Join(infra, "alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = fmt.Fprintf(&test, "rule_files: [%s]\nevaluation_interval: 1m\ntests:\n  - interval: 1m\n    input_series:\n", path)
	metrics := map[string]bool{}
	for name := range all {
		metrics[strings.SplitN(name, "{", 2)[0]] = true
		values := make([]string, len(samples))
		for i, s := range samples {
			values[i] = s[name]
			if values[i] == "" {
				values[i] = "_"
			}
		}
		_, _ = fmt.Fprintf(&test, "      - series: '%s'\n        values: '%s'\n", name, strings.Join(values, " "))
	}
	for _, want := range []string{"sluice_backfill_runs", "sluice_completions_total", "sluice_calls_total", "sluice_backfill_idle_seconds", "sluice_gate_latency_seconds_count", "sluice_messages_total"} {
		if !metrics[want] {
			t.Errorf("the run has not told %s", want)
		}
	}
	test.WriteString("    alert_rule_test:\n")
	for _, r := range rules(t) {
		for minute := range len(samples) {
			_, _ = fmt.Fprintf(&test, "      - {alertname: %s, eval_time: %dm, exp_alerts: []}\n", r.Alert, minute)
		}
	}
	file := w.write("healthy_test.yaml", test.String())
	if out, err := exec.Command("promtool", "test", "rules", file).CombinedOutput(); err != nil {
		t.Errorf("%d samples of %d series: %v\n%s", len(samples), len(all), err, out[:min(len(out), 3000)])
	}
}
