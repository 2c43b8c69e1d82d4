package scenario_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/api/iterator"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/bus"
	"sluice.dev/pkg/bus/gcpbus"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/pipeline"
	"sluice.dev/services/completion-tracker/tracker"
	"sluice.dev/services/phase-gate/gate"
	"sluice.dev/services/sluice/emulated"
	"sluice.dev/services/sluice/platform"
)

var (
	projects atomic.Int32
	// turn has these scenarios run one after the other, as each keeps two cores busy.
	turn = make(chan struct{}, 1)
)

// servicesBuilt builds the services once and returns the folder of their programs.
var servicesBuilt = sync.OnceValue(func() string {
	dir := filepath.Dir(program)
	for _, s := range emulated.Services {
		if out, err := exec.Command("go", "build", "-o", filepath.Join(dir, s), "../../"+s).CombinedOutput(); err != nil {
			panic(fmt.Sprintf("building %s: %v\n%s", s, err, out))
		}
	}
	return dir
})

// cloud is a world whose services are processes of their own, over the emulators.
type cloud struct {
	*world
	project string
	bus     *gcpbus.Bus
	fleet   *emulated.Fleet
	push    bool
	ports   map[string]int
}

// cloudOptions says how a cloud differs from one instance of each service that pull.
type cloudOptions struct {
	platform.Options
	push      bool
	instances int
	env       []string // of the services
	// tables has the warehouse's tables made, in the only project that the BigQuery emulator knows, and the pipeline
	// changed by this. Without it the pipeline has no tables.
	tables func(pipeline string) string
}

func newCloud(t *testing.T, o cloudOptions) *cloud {
	t.Helper()
	if os.Getenv("PUBSUB_EMULATOR_HOST") == "" || os.Getenv("FIRESTORE_EMULATOR_HOST") == "" || os.Getenv("BIGQUERY_EMULATOR_HOST") == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("no emulators: run the tests with make test")
		}
		t.Skip("no emulators: install gcloud with its emulators and Java 17, and run make test")
	}
	turn <- struct{}{}
	t.Cleanup(func() { <-turn })
	c := &cloud{
		world: &world{t: t, dir: t.TempDir(), address: freeAddress(t)}, push: o.push, ports: map[string]int{},
		project: fmt.Sprintf("sluice-scenario-%d-%d", os.Getpid(), projects.Add(1)),
	}
	if o.tables != nil {
		c.project = os.Getenv("SLUICE_PROJECT_ID")
	}
	var err error
	if c.bus, err = gcpbus.Open(context.Background(), c.project, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.bus.Close() })
	o.Report = func(ctx context.Context, topic string, body []byte) error {
		return c.bus.Publish(ctx, topic, &event.Event{Raw: body})
	}
	c.platform = platform.New(o.Options)
	server := httptest.NewServer(c.platform.Handler())
	t.Cleanup(func() { server.CloseClientConnections(); server.Close(); c.platform.Close() })
	// Messages that a killed process held take up to 15 s to come back.
	text := strings.NewReplacer("timeout: 3s", "timeout: 120s", "attempts: 3", "attempts: 8").Replace(hurried(t, server.URL))
	if o.tables == nil {
		text = tableless.ReplaceAllString(text, "")
	} else {
		text = o.tables(text)
	}
	c.pipeline = c.write("nba.yaml", text)
	c.writeCalendar()
	if o.tables != nil {
		c.createTables()
	}
	if o.tables != nil { // the project is shared: others want other kinds of subscriptions
		c.removeSubscriptions()
		t.Cleanup(c.removeSubscriptions)
	}
	c.createTopics()
	c.fleet = &emulated.Fleet{Bin: servicesBuilt(), Logs: t.TempDir(), Env: append([]string{
		"SLUICE_PROJECT_ID=" + c.project, "SLUICE_PIPELINES=" + c.dir, "SLUICE_LOG_LEVEL=warn",
	}, o.env...)}
	t.Cleanup(c.stop)
	for i := range max(1, o.instances) {
		for _, s := range emulated.Services {
			if i == 0 || s != "console" {
				c.startService(s, i)
			}
		}
	}
	eventually(t, 30*time.Second, "the console answers", func() bool { return c.sluice("status").code == 0 })
	return c
}

// removeSubscriptions removes all subscriptions of the project.
func (c *cloud) removeSubscriptions() {
	ctx := context.Background()
	client, err := pubsub.NewClient(ctx, c.project)
	if err != nil {
		c.t.Fatal(err)
	}
	defer client.Close()
	all := client.SubscriptionAdminClient.ListSubscriptions(ctx, &pubsubpb.ListSubscriptionsRequest{Project: "projects/" + c.project})
	for {
		sub, err := all.Next()
		if errors.Is(err, iterator.Done) {
			return
		}
		if err == nil {
			err = client.SubscriptionAdminClient.DeleteSubscription(ctx, &pubsubpb.DeleteSubscriptionRequest{Subscription: sub.GetName()})
		}
		if err != nil {
			c.t.Fatal(err)
		}
	}
}

// tableless finds what a pipeline says of tables in the warehouse.
var tableless = regexp.MustCompile(`(?m)^    outputs:( \[.*\]|\n( {6}- .*\n)+)|(?s)\nbigquery:.*`)

// createTables makes the tables that the pipeline names, empty but for the calendar.
func (c *cloud) createTables() {
	c.t.Helper()
	p, err := pipeline.Load(c.pipeline, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	cal, err := platform.Calendar()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := emulated.CreateTables(c.t.Context(), c.project, "sluice.backfill_events", p, cal); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cloud) createTopics() {
	c.t.Helper()
	p, err := pipeline.Load(c.pipeline, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	topology := gcpbus.Topology{AckDeadline: 10 * time.Second, Push: func(s bus.Subscription) string {
		if c.push && (s.Consumer == tracker.Name || s.Consumer == gate.Name) {
			return fmt.Sprintf("http://127.0.0.1:%d/push/%s", c.port(instance(s.Consumer, 0)), s.Name())
		}
		return ""
	}}
	subs := append(emulated.Subscriptions(map[string]*backfill.Pipeline{p.Name: p}), journal)
	if err := c.bus.Create(c.t.Context(), topology, nil, subs...); err != nil {
		c.t.Fatal(err)
	}
}

// journal is what BigQuery's subscription is in the cloud.
var journal = bus.Subscription{Consumer: "journal", Topic: event.TopicEvents}

func instance(service string, i int) string { return service + "-" + strconv.Itoa(i) }

// port is where an instance listens, also after a restart.
func (c *cloud) port(instance string) int {
	if c.ports[instance] == 0 {
		address := freeAddress(c.t)
		if instance == "console-0" {
			address = c.address
		}
		_, port, _ := strings.Cut(address, ":")
		c.ports[instance], _ = strconv.Atoi(port)
	}
	return c.ports[instance]
}

func (c *cloud) startService(service string, i int) {
	c.t.Helper()
	var env []string
	if c.push && (service == tracker.Name || service == gate.Name) {
		env = append(env, "SLUICE_RECEIVE=push")
	}
	name := instance(service, i)
	if err := c.fleet.Start(service, name, c.port(name), env...); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cloud) stop() {
	if name := c.fleet.Ended(); name != "" {
		c.t.Errorf("%s ended by itself", name)
	}
	c.fleet.Stop(8 * time.Second)
	if !c.t.Failed() {
		return
	}
	for name := range c.ports {
		log, _ := os.ReadFile(c.fleet.Log(name))
		c.t.Logf("the end of the log of %s:\n%s", name, log[max(0, len(log)-3000):])
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

// received collects the events of a subscription until the test ends.
func (c *cloud) received(sub bus.Subscription) func() []*event.Event {
	c.t.Helper()
	var mu sync.Mutex
	var all []*event.Event
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- c.bus.Receive(ctx, sub, func(_ context.Context, e *event.Event) error {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, e)
			return nil
		})
	}()
	c.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Error(err)
		}
	})
	return func() []*event.Event {
		mu.Lock()
		defer mu.Unlock()
		return append([]*event.Event(nil), all...)
	}
}

// letters collects the reasons of a topic's dead letters until the test ends.
func (c *cloud) letters(topic string) func() []string {
	c.t.Helper()
	client, err := pubsub.NewClient(context.Background(), c.project)
	if err != nil {
		c.t.Fatal(err)
	}
	var mu sync.Mutex
	var all []string
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- client.Subscriber(bus.Dead(topic)+".hold").Receive(ctx, func(_ context.Context, m *pubsub.Message) {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, m.Attributes["sluice-reason"])
			m.Ack()
		})
	}()
	c.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Error(err)
		}
		_ = client.Close()
	})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string(nil), all...)
	}
}
