package platform_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/pipeline"
	"sluice.dev/pkg/verify"
	"sluice.dev/pkg/warehouse/sqlitewarehouse"
	"sluice.dev/services/sluice/platform"
)

// TestEachCheckCatchesItsOwnDamage runs the NBA pipeline's checks with the season before beside: over the whole undamaged season none fires, and each
// damage is caught by the check that is meant for it.
func TestEachCheckCatchesItsOwnDamage(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../../deploy/pipelines/nba/pipeline.yaml")
	if err != nil {
		t.Fatal(err)
	}
	p, err := pipeline.Parse("nba.yaml", text, func(string) (string, bool) { return "http://127.0.0.1:1", true })
	if err != nil {
		t.Fatal(err)
	}
	cal, err := platform.Calendar()
	if err != nil {
		t.Fatal(err)
	}
	whole, start := map[string][]backfill.Partition{}, map[string][]backfill.Partition{}
	for _, part := range cal.All() {
		whole[part.Season] = append(whole[part.Season], part)
		if len(start[part.Season]) < 40 { // enough for a damage to show
			start[part.Season] = append(start[part.Season], part)
		}
	}
	for damage, want := range map[platform.Damage][]string{
		platform.NoDamage: nil, platform.HalfPlayers: {"players_survive", "players_in_analytics"}, platform.HugePoints: {"points_sane", "like_last_year"},
		platform.NullKeys:   {"no_nulls"}, // Where there is nothing at all, every check has something to say.
		platform.HalfSeason: {"like_last_year", "every_game_summarized", "players_survive", "players_in_analytics", "points_sane", "no_nulls"},
	} {
		t.Run("damage "+string(damage), func(t *testing.T) {
			t.Parallel()
			seasons := start
			if damage == platform.NoDamage {
				seasons = whole
			}
			w, err := sqlitewarehouse.Open(t.Context(), filepath.Join(t.TempDir(), "w.db"))
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			tables, err := platform.OpenTables(t.Context(), w)
			if err != nil {
				t.Fatal(err)
			}
			if err := tables.Fill(t.Context(), seasons["2022-23"]); err != nil {
				t.Fatal(err)
			}
			tables.Damage = damage
			if err := tables.Fill(t.Context(), seasons["2023-24"]); err != nil {
				t.Fatal(err)
			}
			s := verify.Settings{Source: w, Pipeline: p, Calendar: func(context.Context) (backfill.Calendar, error) { return cal, nil }}
			outcomes, err := s.Run(t.Context(), p.Checks, seasons["2023-24"])
			if err != nil {
				t.Fatal(err)
			}
			fired := map[string]verify.Outcome{}
			for _, o := range outcomes {
				if o.Result == verify.Skipped || o.Dates != len(seasons["2023-24"]) {
					t.Errorf("%s was not run over the season: %s %s", o.Check.Name, o.Result, o.Detail)
				}
				if o.Result == verify.Failed {
					fired[o.Check.Name] = o
				}
			}
			for _, name := range want {
				if o, ok := fired[name]; !ok || len(o.Failures) == 0 || o.Failures[0].Detail == "" {
					t.Errorf("%s does not catch it: %+v", name, o)
				}
			}
			for name, o := range fired {
				if !slices.Contains(want, name) {
					t.Errorf("%s fires: %s, e.g. %+v", name, o.Detail, o.Failures[0])
				}
			}
		})
	}
}
