package sqlitewarehouse_test

import (
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/warehouse"
	"sluice.dev/pkg/warehouse/sqlitewarehouse"
	"sluice.dev/pkg/warehouse/warehousetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type tables struct{ w *sqlitewarehouse.Warehouse }

func (tables) Name(table string) string { return table }

func (f tables) Create(t *testing.T, table, date string, columns []string, rows [][]any) {
	t.Helper()
	tab := sqlitewarehouse.Table{Name: table, Columns: columns, Partition: date}
	if err := f.w.CreateTable(t.Context(), tab); err != nil {
		t.Fatal(err)
	}
	if err := f.w.Insert(t.Context(), tab, rows); err != nil {
		t.Fatal(err)
	}
}

func (f tables) Jobs(t *testing.T, list ...warehousetest.Job) {
	t.Helper()
	for _, j := range list {
		if err := f.w.AddJobs(t.Context(), sqlitewarehouse.Job(j)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWarehouse(t *testing.T) {
	t.Parallel()
	warehousetest.Run(t, func(t *testing.T) (warehouse.Warehouse, warehousetest.Tables) {
		t.Helper()
		w := open(t)
		return w, tables{w}
	})
}

func open(t *testing.T) *sqlitewarehouse.Warehouse {
	t.Helper()
	w, err := sqlitewarehouse.Open(t.Context(), filepath.Join(t.TempDir(), "warehouse.db"))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestReplacingAPartition(t *testing.T) {
	t.Parallel()
	w := open(t)
	defer w.Close()
	tab := sqlitewarehouse.Table{Name: "raw.games", Columns: []string{"game_date", "n"}, Partition: "game_date"}
	if err := w.CreateTable(t.Context(), tab); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		for _, d := range []string{"2024-01-01", "2024-01-02"} {
			if err := w.ReplacePartition(t.Context(), tab, d, [][]any{{d, 1}, {d, 2}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n, err := w.Count(t.Context(), tab.Name, "game_date", "2024-01-01"); err != nil || n != 2 {
		t.Errorf("%d rows, %v", n, err)
	}
}

func TestSnapshotsExpire(t *testing.T) {
	t.Parallel()
	w := open(t)
	defer w.Close()
	tab := sqlitewarehouse.Table{Name: "raw.games", Columns: []string{"game_date", "n"}, Partition: "game_date"}
	if err := w.CreateTable(t.Context(), tab); err != nil {
		t.Fatal(err)
	}
	if err := w.Snapshot(t.Context(), tab.Name, "raw.old", time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := w.Snapshot(t.Context(), tab.Name, "raw.fresh", time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Columns(t.Context(), "raw.old"); !fault.Is(err, fault.NotFound) {
		t.Errorf("an old snapshot is still there: %v", err)
	}
	if _, err := w.Columns(t.Context(), "raw.fresh"); err != nil {
		t.Errorf("a fresh snapshot is gone: %v", err)
	}
}

func TestNoStatistics(t *testing.T) {
	t.Parallel()
	w := open(t)
	defer w.Close()
	if _, err := w.Billed(t.Context(), "b", nil, time.Time{}, time.Time{}); !fault.Is(err, fault.Unsupported) {
		t.Errorf("billed: %v", err)
	}
	if _, err := w.Queue(t.Context(), time.Time{}); !fault.Is(err, fault.Unsupported) {
		t.Errorf("queue: %v", err)
	}
}
