package sqlitestate_test

import (
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/state"
	"sluice.dev/pkg/state/sqlitestate"
	"sluice.dev/pkg/state/statetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStore(t *testing.T) {
	t.Parallel()
	statetest.Run(t, func(t *testing.T) state.Store {
		t.Helper()
		return open(t, filepath.Join(t.TempDir(), "state.db"))
	})
}

func open(t *testing.T, path string) *sqlitestate.Store {
	t.Helper()
	s, err := sqlitestate.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSurvivesReopening(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path)
	d := backfill.Date(19700)
	at := time.Date(2024, 5, 1, 0, 0, 0, 0, time.UTC)
	fact := backfill.Fact{Key: backfill.Key{Phase: "one", Processor: "p", Attempt: 1, Kind: backfill.Succeeded}, Value: backfill.Value{At: at}}
	if err := s.CreateDates(t.Context(), "b", []backfill.Record{backfill.NewRecord(d, "s")}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Merge(t.Context(), "b", d, at, fact); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	defer s.Close()
	r, err := s.Date(t.Context(), "b", d)
	if err != nil || !r.Has(fact.Key) || !r.WakeAt.Equal(at) || r.Season != "s" {
		t.Errorf("%+v, %v", r, err)
	}
}
