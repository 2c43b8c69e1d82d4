// Package scenario runs the real program against the example platform and looks at what the platform saw.
package scenario_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sluice.dev/services/sluice/local"
	"sluice.dev/services/sluice/platform"
)

// program is the sluice program, built once.
var program string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "sluice-scenario")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "sluice")
	if out, err := exec.Command("go", "build", "-o", program, "..").CombinedOutput(); err != nil {
		panic(fmt.Sprintf("building sluice: %v\n%s", err, out))
	}
	return m.Run()
}

// world is the example platform in this process, and what a sluice process needs to backfill it.
type world struct {
	t        testing.TB
	platform *platform.Platform
	dir      string
	address  string // of the API server
	pipeline string
}

// newWorld starts a platform. The pipeline is the NBA's, hurried.
func newWorld(t *testing.T, o platform.Options) *world {
	t.Helper()

	w := &world{t: t, dir: t.TempDir(), address: freeAddress(t)}
	if o.Speed == 0 {
		o.Speed = 400
	}
	o.Report = local.PostTo("http://" + w.address)
	w.platform = platform.New(o)
	server := httptest.NewServer(w.platform.Handler())
	t.Cleanup(func() { server.CloseClientConnections(); server.Close(); w.platform.Close() })
	w.pipeline = filepath.Join(w.dir, "pipeline.yaml")
	w.write("pipeline.yaml", hurried(t, server.URL))
	w.writeCalendar()
	return w
}

func (w *world) writeCalendar() {
	w.t.Helper()
	cal, err := platform.Calendar()
	if err != nil {
		w.t.Fatal(err)
	}
	var csv strings.Builder
	csv.WriteString("game_date,season\n")
	for _, p := range cal.All() {
		_, _ = fmt.Fprintf(&csv, "%s,%s\n", p.Date, p.Season)
	}
	w.write("dates.csv", csv.String())
}

// hurried is the NBA pipeline with a calendar file, no history, and short waits.
func hurried(t *testing.T, url string) string {
	t.Helper()
	text, err := os.ReadFile("../../../deploy/pipelines/nba/pipeline.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s := string(text)
	for _, r := range [][2]string{
		{"auth: oidc", "auth: none"}, {"calendar: {table: nba_reference.nba_schedule,", "calendar: {file: dates.csv,"},
		{"history: {", "# history: {"}, {"attempts: 5, backoff: {initial: 10s, max: 10m}", "attempts: 3, backoff: {initial: 20ms, max: 200ms}"},
		{"rate: 5/s, burst: 5", "rate: 1000/s, burst: 50"}, {"rate: 10/s, burst: 10", "rate: 2000/s, burst: 50"},
		{"timeout: 5m", "timeout: 3s"}, {"timeout: 10m", "timeout: 3s"}, {"timeout: 60m", "timeout: 3s"}, {"timeout: 30m", "timeout: 3s"},
		{"${SCRAPER_URL}", url}, {"${ANALYTICS_URL}", url}, {"${PRECOMPUTE_URL}", url}, {"${COORDINATOR_URL}", url},
	} {
		if !strings.Contains(s, r[0]) {
			t.Fatalf("the NBA pipeline has no %q any more", r[0])
		}
		s = strings.ReplaceAll(s, r[0], r[1])
	}
	return regexp.MustCompile(`expect: \{[^}]*\}`).ReplaceAllString(s, "expect: {p50: 50ms, p90: 100ms}")
}

// addresses have been handed out, to tests that run at the same time.
var addresses sync.Map

func freeAddress(t testing.TB) string {
	t.Helper()
	for {
		// Below the ports that the kernel gives to others, so that none of them takes it before the program does.
		address := fmt.Sprint("127.0.0.1:", 15000+rand.IntN(15000))
		if _, given := addresses.LoadOrStore(address, true); given {
			continue
		}
		if l, err := net.Listen("tcp", address); err == nil {
			_ = l.Close()
			return address
		}
	}
}

func (w *world) read(path string) string {
	w.t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(text)
}

func (w *world) write(name, text string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// process is a running sluice local.
type process struct {
	t    testing.TB
	cmd  *exec.Cmd
	done chan struct{}
	err  error
	log  bytes.Buffer
}

// start runs sluice local until it says that it is ready.
func (w *world) start(args ...string) *process {
	w.t.Helper()
	args = append([]string{"local", "--listen", w.address, "--data", filepath.Join(w.dir, "data")}, args...)
	if w.pipeline != "" {
		args = append(args, "--pipeline", w.pipeline)
	}
	p := &process{t: w.t, cmd: exec.Command(program, args...), done: make(chan struct{})}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	p.cmd.Stderr = &p.log
	if err := p.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	ready := make(chan bool, 1)
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "sluice is ready at ") {
				ready <- true
			}
		}
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	w.t.Cleanup(func() {
		if w.t.Failed() && p.runs() { // what is it doing?
			_ = p.cmd.Process.Signal(syscall.SIGQUIT)
			<-p.done
			w.t.Logf("the end of the program's log:\n%s", ours(p.log.String()))
		}
		p.kill()
	})
	select {
	case <-ready:
	case <-p.done:
		w.t.Fatalf("sluice local ended: %v\n%s", p.err, p.log.String())
	case <-time.After(30 * time.Second):
		w.t.Fatal("sluice local is not ready after 30 s")
	}
	return p
}

// ours is the end of the program's log and some of its goroutines that run code of ours.
func ours(log string) string {
	log, dump, _ := strings.Cut(log, "SIGQUIT: quit")
	out := []string{log[max(0, len(log)-5000):]}
	for block := range strings.SplitSeq(dump, "\n\n") {
		if len(out) <= 20 && strings.HasPrefix(block, "goroutine ") && strings.Contains(block, "sluice.dev/") {
			out = append(out, block)
		}
	}
	return strings.Join(out, "\n\n")
}

func (p *process) runs() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// kill is kill -9.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// stop sends a signal and waits for the end; it returns how long that took and the exit code.
func (p *process) stop(s syscall.Signal) (time.Duration, int) {
	p.t.Helper()
	began := time.Now()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		p.t.Fatal("sluice local still runs 20 s after the signal")
	}
	return time.Since(began), p.cmd.ProcessState.ExitCode()
}

// answer is what a command came to.
type answer struct {
	out, err string
	code     int
}

// sluice runs a command to its end.
func (w *world) sluice(args ...string) answer {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, append([]string{"--server", "http://" + w.address}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatal(err)
	}
	return answer{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// must runs a command that has to succeed.
func (w *world) must(args ...string) string {
	w.t.Helper()
	a := w.sluice(args...)
	if a.code != 0 {
		w.t.Fatalf("sluice %s: exit %d\n%s%s", strings.Join(args, " "), a.code, a.out, a.err)
	}
	return a.out
}

// submit asks for a backfill of the first n dates of season 2023-24.
func (w *world) submit(id string, n int) {
	w.t.Helper()
	dates := w.dates(n)
	req := fmt.Sprintf(`{"backfill_id":%q,"pipeline":"nba","dates":{"range":{"start":%q,"end":%q}}}`, id, dates[0], dates[n-1])
	w.must("submit", "-f", w.write(id+".json", req))
}

func (w *world) dates(n int) []string {
	w.t.Helper()
	cal, err := platform.Calendar()
	if err != nil {
		w.t.Fatal(err)
	}
	var out []string
	for _, p := range cal.All() {
		if p.Season == "2023-24" && len(out) < n {
			out = append(out, p.Date.String())
		}
	}
	return out
}

// status is the part of status -o json that scenarios look at.
type status struct {
	State   string   `json:"state"`
	Faults  []string `json:"faults"`
	Notices []string `json:"notices"`
	Dates   struct{ Total, Complete, Failed, Blocked int }
	Phases  []struct {
		ID   string
		Runs struct {
			Total, Succeeded, Exhausted, Pending int
			InFlight                             int `json:"in_flight"`
		}
	}
	Attempts, Retries, Throttles int
}

func (w *world) status(id string) status {
	w.t.Helper()
	var got struct{ Backfill status }
	if err := json.Unmarshal([]byte(w.must("status", id, "-o", "json")), &got); err != nil {
		w.t.Fatal(err)
	}
	return got.Backfill
}

// eventually waits for a condition.
func eventually(t testing.TB, within time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", within, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// story is all that the journal says of the runs that failed.
func (w *world) story(id string) string {
	w.t.Helper()
	var failures struct {
		Failures []struct{ Date, Phase, Processor string }
	}
	if err := json.Unmarshal([]byte(w.sluice("failures", id, "-o", "json").out), &failures); err != nil {
		w.t.Fatal(err)
	}
	var out strings.Builder
	for _, f := range failures.Failures {
		out.WriteString(w.told(id, f.Date, f.Phase, f.Processor))
	}
	return out.String()
}

// told is what the journal says of one run.
func (w *world) told(id, date, phase, processor string) string {
	w.t.Helper()
	var out strings.Builder
	for line := range strings.Lines(w.must("events", id, "-o", "json")) {
		if contains(line, `"`+date+`"`, `"`+phase+`"`, `"`+processor+`"`) {
			out.WriteString(line)
		}
	}
	return out.String()
}

// finished waits until the platform has finished n pieces of work.
func (w *world) finished(n int) {
	w.t.Helper()
	eventually(w.t, time.Minute, fmt.Sprintf("the platform finishes %d runs", n), func() bool { return len(w.platform.Finished()) >= n })
}
