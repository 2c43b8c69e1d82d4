package platform_test

import (
	"encoding/csv"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"sluice.dev/pkg/warehouse/sqlitewarehouse"
	"sluice.dev/services/sluice/platform"
)

func TestCalendarHas845Dates(t *testing.T) {
	t.Parallel()
	cal, err := platform.Calendar()
	if err != nil {
		t.Fatal(err)
	}
	n := map[string]int{}
	for _, p := range cal.All() {
		n[p.Season]++
	}
	want := map[string]int{"2021-22": 213, "2022-23": 212, "2023-24": 207, "2024-25": 213}
	for s, w := range want {
		if n[s] != w {
			t.Errorf("season %s has %d dates, not %d", s, n[s], w)
		}
	}
	if cal.Len() != 845 {
		t.Errorf("%d dates", cal.Len())
	}
	// The whole list, where it lies beside the project.
	f, err := os.Open("../../../../shared/data/nba/calendar.csv")
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	column := map[string]int{}
	for i, name := range rows[0] {
		column[name] = i
	}
	for i, row := range rows[1:] {
		if p := cal.At(i); row[column["game_date"]] != p.Date.String() || row[column["season"]] != p.Season {
			t.Fatalf("row %d is %v, not %s of %s", i+1, row, p.Date, p.Season)
		}
	}
	if len(rows)-1 != cal.Len() {
		t.Errorf("the list has %d dates", len(rows)-1)
	}
}

func TestTablesAgreeWithTheCalendar(t *testing.T) {
	t.Parallel()
	w, err := sqlitewarehouse.Open(t.Context(), filepath.Join(t.TempDir(), "w.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for range 2 { // opened again, the schedule is not written twice
		if _, err := platform.OpenTables(t.Context(), w); err != nil {
			t.Fatal(err)
		}
	}
	n, err := w.Count(t.Context(), "nba_reference.nba_schedule", "game_date", "2023-11-23")
	if err != nil || n != 0 {
		t.Errorf("%d games on a day off, %v", n, err)
	}
	n, err = w.Count(t.Context(), "nba_reference.nba_schedule", "game_date", "2023-10-24")
	if err != nil || n < 1 || n > 12 {
		t.Errorf("%d games, %v", n, err)
	}
}
