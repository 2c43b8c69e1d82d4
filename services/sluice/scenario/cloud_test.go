package scenario_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice.dev/pkg/event"
	pb "sluice.dev/proto/gen/sluice/v1"
	"sluice.dev/services/sluice/emulated"
	"sluice.dev/services/sluice/platform"
)

func TestCloudRequestByGcloud(t *testing.T) {
	t.Parallel()
	c := newCloud(t, cloudOptions{Options: platform.Options{Speed: 100, Seed: 5, Faults: platform.DefaultFaults()}})
	const n = 30
	dates := c.dates(n)
	c.gcloud(event.TopicRequests, fmt.Sprintf(`{"backfill_id":"by-gcloud","pipeline":"nba","dates":{"range":{"start":%q,"end":%q}}}`, dates[0], dates[n-1]))
	c.completes("by-gcloud", n)
	assertNoneAgain(t, c.platform, nil, 0)
}

// The tracker and the gate are push endpoints here.
func TestCloudRequestAsCloudEventWithPush(t *testing.T) {
	t.Parallel()
	c := newCloud(t, cloudOptions{Options: platform.Options{Speed: 100, Seed: 6, Faults: platform.DefaultFaults()}, push: true})
	const n = 30
	dates := c.dates(n)
	m := &pb.BackfillRequested{BackfillId: "by-event", Pipeline: "nba", Dates: &pb.DateSelection{Range: &pb.DateRange{Start: dates[0], End: dates[n-1]}}}
	if err := c.bus.Publish(t.Context(), event.TopicRequests, event.New(event.TypeRequested, "//test", "by-event", time.Now(), m)); err != nil {
		t.Fatal(err)
	}
	c.completes("by-event", n)
	assertNoneAgain(t, c.platform, nil, 0)
}

// Without faults of the platform every processor has to be called once; with two instances of each service,
// never under two keys.
func TestCloudTwoInstances(t *testing.T) {
	t.Parallel()
	c := newCloud(t, cloudOptions{Options: platform.Options{Speed: 100, Seed: 8}, instances: 2})
	const n = 30
	c.submit("twice", n)
	c.completes("twice", n)
	assertNoneAgain(t, c.platform, nil, 0)
	keys := map[string]string{}
	for _, call := range c.platform.Calls() {
		for _, p := range call.Processors {
			run := call.Path + " " + p + " " + call.Date
			if before, ok := keys[run]; ok && before != call.Key {
				t.Errorf("%s was called with %s and with %s", run, before, call.Key)
			}
			keys[run] = call.Key
		}
	}
}

// make up runs this program: it sets everything up, tells how to use it, and leaves nothing behind.
func TestCloudUp(t *testing.T) {
	t.Parallel()
	if err := emulated.Require(); err != nil && os.Getenv("CI") == "" {
		t.Skip("no emulators: run make test")
	}
	turn <- struct{}{}
	t.Cleanup(func() { <-turn })
	bin := servicesBuilt()
	if out, err := exec.Command("go", "build", "-o", filepath.Join(bin, "up"), "../up").CombinedOutput(); err != nil {
		t.Fatalf("building up: %v\n%s", err, out)
	}
	w := &world{t: t, dir: t.TempDir(), address: freeAddress(t)}
	up := exec.Command(filepath.Join(bin, "up"), "-bin", bin, "-listen", w.address, "-speed", "100", "-push")
	up.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := os.Create(filepath.Join(w.dir, "up.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	up.Stdout, up.Stderr = log, log
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	said := func() string { b, _ := os.ReadFile(log.Name()); return string(b) }
	eventually(t, time.Minute, "it is up", func() bool { return strings.Contains(said(), "sluice is up at http://"+w.address) })
	if !contains(said(), "gcloud pubsub topics publish backfill-requests", "sluice submit -f") {
		t.Errorf("it does not tell how to publish:\n%s", said())
	}
	dates := w.dates(3)
	w.must("submit", "-f", w.write("r.json", fmt.Sprintf(`{"backfill_id":"up","pipeline":"nba","dates":{"range":{"start":%q,"end":%q}}}`, dates[0], dates[2])))
	if a := w.sluice("watch", "up"); a.code != 0 {
		t.Errorf("watch: exit %d\n%s%s\n%s", a.code, a.out, a.err, said())
	}
	if err := up.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := up.Wait(); err != nil {
		t.Errorf("it ends with %v:\n%s", err, said())
	}
	if a := w.sluice("status"); a.code == 0 {
		t.Error("the console still answers")
	}
}
