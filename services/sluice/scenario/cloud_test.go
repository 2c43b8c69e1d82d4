package scenario_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/bus"
	"sluice.dev/pkg/bus/gcpbus"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/pipeline"
	pb "sluice.dev/proto/gen/sluice/v1"
	"sluice.dev/services/completion-tracker/tracker"
	"sluice.dev/services/dispatcher/dispatch"
	"sluice.dev/services/phase-gate/gate"
	"sluice.dev/services/sluice/platform"
)

var (
	projects atomic.Int32
	services = []string{"dispatcher", "completion-tracker", "phase-gate", "console"}
	build    = sync.OnceValue(func() string {
		dir, err := os.MkdirTemp("", "sluice-services")
		if err != nil {
			panic(err)
		}
		for _, s := range services {
			if out, err := exec.Command("go", "build", "-o", filepath.Join(dir, s), "../../"+s).CombinedOutput(); err != nil {
				panic(fmt.Sprintf("building %s: %v\n%s", s, err, out))
			}
		}
		return dir
	})
)

// cloud is a world whose services are processes of their own, over the emulators.
type cloud struct {
	*world
	project string
	bus     *gcpbus.Bus

	mu      sync.Mutex
	running map[string]*exec.Cmd
	logs    map[string]*bytes.Buffer
}

func newCloud(t *testing.T, o platform.Options) *cloud {
	t.Helper()
	if os.Getenv("PUBSUB_EMULATOR_HOST") == "" || os.Getenv("FIRESTORE_EMULATOR_HOST") == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("no emulators: run the tests with make test")
		}
		t.Skip("no emulators: install gcloud with its emulators and Java 17, and run make test")
	}
	c := &cloud{
		world: &world{t: t, dir: t.TempDir(), address: freeAddress(t)}, running: map[string]*exec.Cmd{}, logs: map[string]*bytes.Buffer{},
		project: fmt.Sprintf("sluice-scenario-%d-%d", os.Getpid(), projects.Add(1)),
	}
	var err error
	if c.bus, err = gcpbus.Open(context.Background(), c.project, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.bus.Close() })
	o.Report = func(ctx context.Context, topic string, body []byte) error {
		return c.bus.Publish(ctx, topic, &event.Event{Raw: body})
	}
	c.platform = platform.New(o)
	server := httptest.NewServer(c.platform.Handler())
	t.Cleanup(func() { server.CloseClientConnections(); server.Close(); c.platform.Close() })
	c.pipeline = c.write("nba.yaml", strings.ReplaceAll(strings.ReplaceAll(hurried(t, server.URL), "timeout: 3s", "timeout: 20s"), "attempts: 3", "attempts: 8"))
	c.writeCalendar()
	p, err := pipeline.Load(c.pipeline, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.bus.Create(t.Context(), gcpbus.Topology{Backoff: 100 * time.Millisecond, AckDeadline: 10 * time.Second}, []string{event.TopicEvents}, subscriptions(p)...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.stopAll)
	for _, s := range services {
		c.startService(s)
	}
	eventually(t, 30*time.Second, "the console answers", func() bool { return c.sluice("status").code == 0 })
	return c
}

// subscriptions are those of the services.
func subscriptions(p *backfill.Pipeline) []bus.Subscription {
	subs := []bus.Subscription{{Consumer: tracker.Name, Topic: event.TopicCompletions}, {Consumer: gate.Name, Topic: event.TopicPhaseCompletions}}
	for _, topic := range []string{event.TopicRequests, event.TopicControls, event.TopicTriggers, event.TopicPhaseCompletions} {
		subs = append(subs, bus.Subscription{Consumer: dispatch.Name, Topic: topic})
	}
	for topic := range tracker.Adapters(map[string]*backfill.Pipeline{p.Name: p}) {
		subs = append(subs, bus.Subscription{Consumer: tracker.Name, Topic: topic})
	}
	return subs
}

func (c *cloud) startService(name string) {
	c.t.Helper()
	_, port, _ := strings.Cut(freeAddress(c.t), ":")
	if name == "console" {
		_, port, _ = strings.Cut(c.address, ":")
	}
	cmd := exec.Command(filepath.Join(build(), name))
	cmd.Env = append(os.Environ(), "PORT="+port, "SLUICE_PROJECT_ID="+c.project, "SLUICE_PIPELINES="+c.dir, "SLUICE_LOG_LEVEL=warn")
	log := &bytes.Buffer{}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running[name], c.logs[name] = cmd, log
}

// kill is kill -9.
func (c *cloud) kill(name string) {
	c.mu.Lock()
	cmd := c.running[name]
	delete(c.running, name)
	c.mu.Unlock()
	if cmd != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

func (c *cloud) stopAll() {
	for _, s := range services {
		c.kill(s)
		if c.t.Failed() {
			c.t.Logf("the log of %s:\n%s", s, c.logs[s])
		}
	}
}

// gcloud publishes a bare message with Google's own command line.
func (c *cloud) gcloud(topic, message string) {
	c.t.Helper()
	cmd := exec.Command("gcloud", "pubsub", "topics", "publish", topic, "--message="+message, "--project="+c.project)
	cmd.Env = append(os.Environ(), "CLOUDSDK_AUTH_DISABLE_CREDENTIALS=true",
		"CLOUDSDK_API_ENDPOINT_OVERRIDES_PUBSUB=http://"+os.Getenv("PUBSUB_EMULATOR_HOST")+"/", "CLOUDSDK_CORE_DISABLE_PROMPTS=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("gcloud: %v\n%s", err, out)
	}
}

// completes waits for the end of a backfill that was published, and checks what the platform saw.
func (c *cloud) completes(id string, n int) {
	c.t.Helper()
	eventually(c.t, 30*time.Second, id+" is on record", func() bool { return c.sluice("status", id).code == 0 })
	if a := c.sluice("watch", id); a.code != 0 {
		c.t.Fatalf("watch: exit %d\n%s%s", a.code, a.out, a.err)
	}
	assertAllDone(c.t, c.platform, c.dates(n))
	assertOrder(c.t, c.platform, c.dates(n))
}

func TestCloudRequestByGcloud(t *testing.T) {
	t.Parallel()
	c := newCloud(t, platform.Options{Speed: 100, Seed: 5, Faults: platform.DefaultFaults()})
	const n = 30
	dates := c.dates(n)
	c.gcloud(event.TopicRequests, fmt.Sprintf(`{"backfill_id":"by-gcloud","pipeline":"nba","dates":{"range":{"start":%q,"end":%q}}}`, dates[0], dates[n-1]))
	c.completes("by-gcloud", n)
	assertNoneAgain(t, c.platform, nil, 0)
}

func TestCloudRequestAsCloudEvent(t *testing.T) {
	t.Parallel()
	c := newCloud(t, platform.Options{Speed: 100, Seed: 6, Faults: platform.DefaultFaults()})
	const n = 30
	dates := c.dates(n)
	m := &pb.BackfillRequested{BackfillId: "by-event", Pipeline: "nba", Dates: &pb.DateSelection{Range: &pb.DateRange{Start: dates[0], End: dates[n-1]}}}
	if err := c.bus.Publish(t.Context(), event.TopicRequests, event.New(event.TypeRequested, "//test", "by-event", time.Now(), m)); err != nil {
		t.Fatal(err)
	}
	c.completes("by-event", n)
	assertNoneAgain(t, c.platform, nil, 0)
}
