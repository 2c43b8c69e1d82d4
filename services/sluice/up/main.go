// Command up runs Sluice on the emulators as it runs in the cloud: the services are processes of their own, which
// talk over Pub/Sub and Firestore and read BigQuery; the example platform is what they drive. make up starts it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/bus"
	"sluice.dev/pkg/bus/gcpbus"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/pipeline"
	"sluice.dev/services/completion-tracker/tracker"
	"sluice.dev/services/phase-gate/gate"
	"sluice.dev/services/sluice/emulated"
	"sluice.dev/services/sluice/local"
	"sluice.dev/services/sluice/platform"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	u := &up{project: os.Getenv("SLUICE_PROJECT_ID")}
	flag.StringVar(&u.bin, "bin", ".build", "folder of the services' programs")
	flag.StringVar(&u.listen, "listen", "127.0.0.1:8080", "address of the console")
	flag.Float64Var(&u.speed, "speed", 20, "how many times faster than the real one the example platform is")
	flag.BoolVar(&u.push, "push", false, "tracker and gate receive by push subscriptions")
	flag.BoolVar(&u.create, "create", false, "only create topics, subscriptions and tables, and wait")
	flag.Parse()
	err := u.run(ctx)
	for _, f := range fault.Faults(err) {
		fmt.Fprintln(os.Stderr, "up:", f)
	}
	if err != nil {
		os.Exit(1) //nolint:gocritic // nothing is left to be done
	}
}

type up struct {
	project, bin, listen string
	speed                float64
	push, create         bool

	dir   string
	ports map[string]int
}

func (u *up) run(ctx context.Context) error {
	if err := emulated.Require(); err != nil {
		return err
	}
	if u.speed <= 0 {
		return fault.New(fault.Invalid, "the speed is %v: it must be above zero", u.speed)
	}
	var err error
	if u.dir, err = os.MkdirTemp("", "sluice-up"); err != nil {
		return fmt.Errorf("making a folder: %w", err)
	}
	defer os.RemoveAll(u.dir) //nolint:errcheck // a temporary folder
	b, err := gcpbus.Open(ctx, u.project, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer b.Close() //nolint:errcheck // the process ends
	cal, err := platform.Calendar()
	if err != nil {
		return err
	}
	p := platform.New(platform.Options{Speed: u.speed, Seed: 1, Faults: platform.DefaultFaults(), Report: func(ctx context.Context, topic string, body []byte) error {
		return b.Publish(ctx, topic, &event.Event{Raw: body})
	}})
	defer p.Close()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listening for the example platform: %w", err)
	}
	server := &http.Server{Handler: p.Handler(), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }()
	defer server.Close() //nolint:errcheck // the process ends
	if err := u.prepare(ctx, b, cal, "http://"+listener.Addr().String()); err != nil {
		return err
	}
	if u.create {
		for _, v := range []string{"PUBSUB_EMULATOR_HOST", "FIRESTORE_EMULATOR_HOST", "BIGQUERY_EMULATOR_HOST", "SLUICE_PROJECT_ID"} {
			fmt.Printf("export %s=%s\n", v, os.Getenv(v))
		}
		fmt.Printf("export SLUICE_PIPELINES=%s\n", u.dir)
		<-ctx.Done()
		return nil
	}
	return u.serve(ctx)
}

// prepare makes what the infrastructure would.
func (u *up) prepare(ctx context.Context, b *gcpbus.Bus, cal backfill.Calendar, platformURL string) error {
	// The example platform writes no tables here, so there is nothing for data checks to look at.
	text, _, found := strings.Cut(local.NBA(), "\nchecks:")
	if !found {
		return errors.New("the NBA pipeline has no checks any more")
	}
	for _, r := range [][2]string{
		{"auth: oidc", "auth: none"}, {"rate: 5/s, burst: 5", fmt.Sprintf("rate: %g/s, burst: %d", 5*u.speed, 5+int(u.speed/4))},
		{"rate: 10/s, burst: 10", fmt.Sprintf("rate: %g/s, burst: %d", 10*u.speed, 10+int(u.speed/2))}, {"initial: 10s, max: 10m", "initial: 1s, max: 1m"},
		{"${SCRAPER_URL}", platformURL}, {"${ANALYTICS_URL}", platformURL}, {"${PRECOMPUTE_URL}", platformURL}, {"${COORDINATOR_URL}", platformURL},
	} {
		if !strings.Contains(text, r[0]) {
			return fmt.Errorf("the NBA pipeline has no %q any more", r[0])
		}
		text = strings.ReplaceAll(text, r[0], r[1])
	}
	file := filepath.Join(u.dir, "nba.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return fmt.Errorf("writing the pipeline: %w", err)
	}
	pipe, err := pipeline.Load(file, nil)
	if err != nil {
		return err
	}
	if err := u.freePorts(); err != nil {
		return err
	}
	topology := gcpbus.Topology{}
	if u.push {
		topology.Push = func(s bus.Subscription) string {
			if port, ok := u.ports[s.Consumer]; ok && (s.Consumer == tracker.Name || s.Consumer == gate.Name) {
				return fmt.Sprintf("http://127.0.0.1:%d/push/%s", port, s.Name())
			}
			return ""
		}
	}
	subs := emulated.Subscriptions(map[string]*backfill.Pipeline{pipe.Name: pipe})
	if err := b.Create(ctx, topology, []string{event.TopicEvents}, subs...); err != nil {
		return err
	}
	return emulated.CreateTables(ctx, u.project, "sluice.backfill_events", pipe, cal)
}

func (u *up) freePorts() error {
	u.ports = map[string]int{}
	for _, s := range emulated.Services {
		address := "127.0.0.1:0"
		if s == "console" {
			address = u.listen
		}
		l, err := net.Listen("tcp", address) //nolint:noctx // at once
		if err != nil {
			return fmt.Errorf("listening on %s: %w: choose another with -listen", address, err)
		}
		u.ports[s] = l.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // of a TCP listener
		if err := l.Close(); err != nil {
			return fmt.Errorf("listening on %s: %w", address, err)
		}
	}
	return nil
}

// serve runs the services until ctx or one of them ends.
func (u *up) serve(ctx context.Context) error {
	fleet := &emulated.Fleet{Bin: u.bin, Logs: u.dir, Env: []string{"SLUICE_PIPELINES=" + u.dir}}
	defer fleet.Stop(8 * time.Second)
	for _, s := range emulated.Services {
		var env []string
		if u.push && (s == tracker.Name || s == gate.Name) {
			env = append(env, "SLUICE_RECEIVE=push")
		}
		if err := fleet.Start(s, s, u.ports[s], env...); err != nil {
			return err
		}
	}
	url := fmt.Sprintf("http://127.0.0.1:%d", u.ports["console"])
	if err := u.ready(ctx, fleet, url); err != nil {
		return err
	}
	fmt.Printf(welcome, url, u.dir, os.Getenv("PUBSUB_EMULATOR_HOST"), u.project, url)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			fmt.Println("stopping")
			return nil
		case <-tick.C:
			if s := fleet.Ended(); s != "" {
				return u.ended(fleet, s)
			}
		}
	}
}

const welcome = `sluice is up at %s, with logs in %s
Publish a request with gcloud:
  CLOUDSDK_AUTH_DISABLE_CREDENTIALS=true CLOUDSDK_API_ENDPOINT_OVERRIDES_PUBSUB=http://%s/ \
    gcloud pubsub topics publish backfill-requests --project=%s \
    --message='{"backfill_id":"first","pipeline":"nba","dates":{"range":{"start":"2023-10-24","end":"2023-11-10"}}}'
or put the message in request.json, and:
  export SLUICE_SERVER=%s
  .build/sluice submit -f request.json
Then follow it with .build/sluice watch first. Ctrl-C ends everything.
`

// ended tells the end of a service's log.
func (u *up) ended(fleet *emulated.Fleet, service string) error {
	log, err := os.ReadFile(fleet.Log(service))
	if err != nil {
		return fmt.Errorf("%s ended, and its log cannot be read: %w", service, err)
	}
	return fmt.Errorf("%s ended:\n%s", service, log[max(0, len(log)-2000):])
}

func (u *up) ready(ctx context.Context, fleet *emulated.Fleet, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	for {
		if s := fleet.Ended(); s != "" {
			return u.ended(fleet, s)
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/healthz", nil)
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			return resp.Body.Close()
		}
		select {
		case <-ctx.Done():
			return errors.Join(errors.New("the console is not ready"), ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}
