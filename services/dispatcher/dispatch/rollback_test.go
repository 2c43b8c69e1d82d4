package dispatch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/warehouse"
	"sluice.dev/pkg/warehouse/sqlitewarehouse"
	pb "sluice.dev/proto/gen/sluice/v1"
)

// breaking is a warehouse that stops working after some changes.
type breaking struct {
	warehouse.Warehouse
	left  int
	steps []string
}

var errBroken = errors.New("the process was killed")

func (b *breaking) step(what string) error {
	if b.left == 0 {
		return errBroken
	}
	b.left--
	b.steps = append(b.steps, what)
	return nil
}

func (b *breaking) Snapshot(ctx context.Context, table, snapshot string, expires time.Time) error {
	if err := b.step("snapshot " + table); err != nil {
		return err
	}
	return b.Warehouse.Snapshot(ctx, table, snapshot, expires)
}

func (b *breaking) Delete(ctx context.Context, s backfill.Slice) (int64, error) {
	if err := b.step("delete " + s.Table); err != nil {
		return 0, err
	}
	return b.Warehouse.Delete(ctx, s)
}

func (b *breaking) Restore(ctx context.Context, s backfill.Slice, snapshot string) (int64, error) {
	if err := b.step("restore " + s.Table); err != nil {
		return 0, err
	}
	return b.Warehouse.Restore(ctx, s, snapshot)
}

// rolled is an ended backfill of one date with three phases, of which two write tables, and a history.
func rolled(t *testing.T) *watched {
	t.Helper()
	p := small("p")
	p.Partition.Column = "day"
	p.Phases = []backfill.Phase{
		{ID: "one", Outputs: []string{"raw.one"}, Trigger: backfill.Trigger{}, After: nil, Processors: []backfill.Processor{{Name: "a", Attempts: 1}}},
		{ID: "two", After: []string{"one"}, Outputs: []string{"raw.two", "raw.more"}, Processors: []backfill.Processor{{Name: "b", Attempts: 1}}},
		{ID: "three", After: []string{"two"}, Processors: []backfill.Processor{{Name: "c", Attempts: 1}}},
	}
	p.Phases[0].Trigger.HTTP = &backfill.HTTPTrigger{URL: "http://127.0.0.1:1/"}
	p.History = &backfill.HistorySource{Table: "ref.runs", Processor: "processor", Date: "day", Phase: "phase", Status: "status", Succeeded: []string{"ok"}}
	x := watch(t, p, backfill.Fact{Key: backfill.Key{Phase: "one", Processor: "a", Attempt: 1, Kind: backfill.Succeeded}, Value: backfill.Value{At: time.Now()}})
	x.now = time.Now().UTC() // snapshots expire by the real clock
	for _, name := range []string{"raw.one", "raw.two", "raw.more"} {
		tab := sqlitewarehouse.Table{Name: name, Columns: []string{"day", "v"}, Partition: "day"}
		if err := x.w.CreateTable(t.Context(), tab); err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			d := (firstDay + backfill.Date(i)).String()
			if err := x.w.Insert(t.Context(), tab, [][]any{{d, 1}, {d, 2}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := x.w.CreateTable(t.Context(), runsTable); err != nil {
		t.Fatal(err)
	}
	for _, phase := range []string{"one", "two", "three"} {
		if err := x.w.Insert(t.Context(), runsTable, [][]any{{"p", firstDay.String(), phase, "ok", phase, nil, nil, 1}, {"p", (firstDay + 1).String(), phase, "ok", phase, nil, nil, 1}}); err != nil {
			t.Fatal(err)
		}
	}
	return x
}

// rows are those of the tables, and of phases in the history.
func (x *watched) rows() string {
	x.t.Helper()
	var out []string
	for _, name := range []string{"raw.one", "raw.two", "raw.more"} {
		n, err := x.w.Count(x.t.Context(), name, "", "")
		if err != nil {
			x.t.Fatal(err)
		}
		out = append(out, fmt.Sprint(n))
	}
	for _, phase := range []string{"one", "two", "three"} {
		n, err := x.w.Count(x.t.Context(), "ref.runs", "phase", phase)
		if err != nil {
			x.t.Fatal(err)
		}
		out = append(out, phase+fmt.Sprint(n))
	}
	return strings.Join(out, " ")
}

// tryControl delivers a control until it is taken, and says how often that was.
func (x *watched) tryControl(w *breaking, steps int, m *pb.BackfillControlled) int {
	x.t.Helper()
	m.BackfillId = "b"
	x.now = x.now.Add(time.Second)
	e := event.New(event.TypeControlled, "//test", "b", x.now, m, x.now.String())
	for n := 1; ; n++ {
		w.left = steps
		err := x.onControl(x.t.Context(), e)
		if err == nil {
			return n
		}
		if !errors.Is(err, errBroken) || n > 30 {
			x.t.Fatal(err)
		}
	}
}

func TestARollbackThatIsInterruptedIsFinished(t *testing.T) {
	t.Parallel()
	for _, steps := range []int{1, 2, 3, 100} {
		t.Run(fmt.Sprint(steps, " steps at once"), func(t *testing.T) {
			t.Parallel()
			x := rolled(t)
			if before := x.rows(); before != "6 6 6 one2 two2 three2" {
				t.Fatal(before)
			}
			w := &breaking{Warehouse: x.w, left: 100}
			x.Before.Planner.Warehouse = w
			m := &pb.BackfillControlled{Action: "rollback", Phases: []string{"one", "two"}, RequestedBy: "me", Rerun: true}
			x.tryControl(w, 100, m)
			if b := x.backfill(); len(b.Notices) != 1 || b.Notices[0] != "rollback has no effect on a backfill that is active" || x.rows() != "6 6 6 one2 two2 three2" {
				t.Fatalf("a running backfill: %v, %s", b.Notices, x.rows())
			}
			if err := x.end(t.Context(), x.drive("b"), backfill.StateIncomplete, nil); err != nil {
				t.Fatal(err)
			}
			if n := x.tryControl(w, steps, m); (steps == 100) != (n == 1) {
				t.Errorf("it took %d tries", n)
			}
			if got := x.rows(); got != "4 4 4 one1 two1 three2" {
				t.Errorf("after it: %s", got)
			}
			// Later phases first, each table after its snapshot, and nothing twice.
			want := []string{
				"snapshot raw.two", "delete raw.two", "snapshot raw.more", "delete raw.more", "snapshot raw.one", "delete raw.one", "snapshot ref.runs", "delete ref.runs",
			}
			if !slices.Equal(w.steps, want) {
				t.Errorf("steps %v", w.steps)
			}
			b := x.backfill()
			if len(b.Rollbacks) != 1 || b.Rollbacks[0].Open() || b.Rollbacks[0].Tables[0].Deleted != 2 || b.Rollbacks[0].By != "me" {
				t.Errorf("%+v", b.Rollbacks)
			}
			if _, err := x.store.Owner(t.Context(), "p", firstDay); !fault.Is(err, fault.NotFound) {
				t.Errorf("the date is still owned: %v", err)
			}
			asked := x.sent.sent[event.TopicRequests]
			if len(asked) == 0 {
				t.Fatal("no rerun was asked for")
			}
			again := asked[0].Data.(*pb.BackfillRequested)
			if again.GetBackfillId() != "b-rerun-1" || !again.GetForce() || !slices.Equal(again.GetPhases(), []string{"one", "two"}) ||
				!slices.Equal(again.GetDates().GetList(), []string{firstDay.String()}) {
				t.Errorf("%+v", again)
			}
			w.steps = nil
			x.tryControl(w, steps, &pb.BackfillControlled{Action: "rollback", Undo: true})
			if got := x.rows(); got != "6 6 6 one2 two2 three2" {
				t.Errorf("after its undoing: %s", got)
			}
			x.tryControl(w, 100, &pb.BackfillControlled{Action: "rollback", Undo: true})
			if b := x.backfill(); !strings.Contains(b.Notices[len(b.Notices)-1], "no rollback that could be undone") {
				t.Errorf("undone twice: %v", b.Notices)
			}
			kinds := x.kinds()
			for _, want := range []string{"rollback_snapshotted", "rollback_deleted", "rolled_back", "rollback_restored", "rollback_undone", "control_rollback"} {
				if !slices.Contains(kinds, want) {
					t.Errorf("the journal has no %s: %v", want, kinds)
				}
			}
		})
	}
}

func TestWhatCannotBeRolledBack(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		prepare func(*watched)
		m       *pb.BackfillControlled
		says    string
	}{
		"a phase without outputs": {func(*watched) {}, &pb.BackfillControlled{Phases: []string{"three"}}, "three have no outputs"},
		"an unknown phase":        {func(*watched) {}, &pb.BackfillControlled{Phases: []string{"nine"}}, `unknown phase "nine"`},
		"a date of another":       {func(*watched) {}, &pb.BackfillControlled{Phases: []string{"one"}, Dates: []string{"2020-01-01"}}, "2020-01-01 is no date of backfill b"},
		"nothing to undo":         {func(*watched) {}, &pb.BackfillControlled{Undo: true}, "no rollback that could be undone"},
		"no partition column": {func(x *watched) {
			p, _ := x.store.Pipeline(x.t.Context(), "p", "v")
			p.Partition.Column = "date"
			if err := x.store.PutPipeline(x.t.Context(), "v2", p); err != nil {
				x.t.Fatal(err)
			}
			if _, err := x.store.UpdateBackfill(x.t.Context(), "b", 0, func(b *backfill.Backfill) error { b.Version = "v2"; return nil }); err != nil {
				x.t.Fatal(err)
			}
		}, &pb.BackfillControlled{Phases: []string{"one"}}, `table raw.one has no column "date"`},
		"dates that another owns": {func(x *watched) {
			active(x.t, x.store, "other", small("p"), x.now, firstDay)
			if err := x.store.Claim(x.t.Context(), "p", "other", []backfill.Date{firstDay}); err != nil {
				x.t.Fatal(err)
			}
		}, &pb.BackfillControlled{Phases: []string{"one"}}, `belongs to the active backfill "other"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := rolled(t)
			if err := x.end(t.Context(), x.drive("b"), backfill.StateIncomplete, nil); err != nil {
				t.Fatal(err)
			}
			c.prepare(x)
			c.m.Action = "rollback"
			x.control(c.m)
			if b := x.backfill(); len(b.Notices) != 1 || !strings.Contains(b.Notices[0], c.says) || len(b.Rollbacks) != 0 || x.rows() != "6 6 6 one2 two2 three2" {
				t.Errorf("%v, %s, %+v", b.Notices, x.rows(), b.Rollbacks)
			}
		})
	}
}

func TestAnUnfinishedRollbackGoesFirst(t *testing.T) {
	t.Parallel()
	x := rolled(t)
	w := &breaking{Warehouse: x.w, left: 1}
	x.Before.Planner.Warehouse = w
	if err := x.end(t.Context(), x.drive("b"), backfill.StateIncomplete, nil); err != nil {
		t.Fatal(err)
	}
	m := &pb.BackfillControlled{BackfillId: "b", Action: "rollback", Phases: []string{"one", "two"}}
	if err := x.onControl(t.Context(), event.New(event.TypeControlled, "//test", "b", x.now, m, "1")); !errors.Is(err, errBroken) {
		t.Fatal(err)
	}
	x.tryControl(w, 100, &pb.BackfillControlled{Action: "rollback", Phases: []string{"one"}})
	if b := x.backfill(); len(b.Notices) != 1 || !strings.Contains(b.Notices[0], "is not finished: run it again first") {
		t.Errorf("another one: %v", b.Notices)
	}
	x.tryControl(w, 100, &pb.BackfillControlled{Action: "rollback", Phases: []string{"two", "one"}}) // run again by a person
	if b := x.backfill(); len(b.Rollbacks) != 1 || b.Rollbacks[0].Open() || x.rows() != "4 4 4 one1 two1 three2" {
		t.Errorf("run again: %+v, %s", b.Rollbacks, x.rows())
	}
}
