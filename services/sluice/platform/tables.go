package platform

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/warehouse/sqlitewarehouse"
)

// Tables writes the platform's tables: the schedule, raw, analytics and precompute rows that agree with
// each other and with the calendar, and the run history.
type Tables struct {
	w        *sqlitewarehouse.Warehouse
	calendar backfill.Calendar
	// Damage spoils what is written.
	Damage Damage
}

// Damage is something that is wrong with the data although every processor says that it succeeded.
type Damage string

// The damages.
const (
	NoDamage    Damage = ""
	HalfPlayers Damage = "half_players" // every second player is lost between the box scores and what is made of them
	HugePoints  Damage = "huge_points"  // players score 500 points
	NullKeys    Damage = "null_keys"    // every twentieth player has no key
	HalfSeason  Damage = "half_season"  // nothing is written for every second date
)

// Damages lists them.
func Damages() []Damage { return []Damage{HalfPlayers, HugePoints, NullKeys, HalfSeason} }

// Account is the service account that the platform's queries run as, and QueryBytes what each is billed.
const (
	Account    = "nba-processors@nba-props-platform.iam.gserviceaccount.com"
	QueryBytes = 20 << 20
)

var schedule = sqlitewarehouse.Table{
	Name: "nba_reference.nba_schedule", Columns: []string{"game_date", "season", "game_id"}, Partition: "game_date",
}

var history = sqlitewarehouse.Table{
	Name: "nba_reference.processor_run_history", Partition: "data_date",
	Columns: []string{"processor_name", "run_id", "data_date", "phase", "status", "started_at", "processed_at", "duration_seconds", "records_processed"},
}

func table(name string, columns ...string) sqlitewarehouse.Table {
	return sqlitewarehouse.Table{Name: name, Columns: append([]string{"game_date", "season"}, columns...), Partition: "game_date"}
}

// outputs are the tables that processors fill; processors that are not here only leave a history row.
var outputs = map[string]sqlitewarehouse.Table{
	"BdlGamesProcessor":            table("nba_raw.bdl_games", "game_id"),
	"NbacGamesProcessor":           table("nba_raw.nbac_player_boxscore", "game_id", "player_id", "points"),
	"player_game_summary":          table("nba_analytics.player_game_summary", "game_id", "player_lookup", "points"),
	"team_offense_game_summary":    table("nba_analytics.team_offense_game_summary", "game_id", "points"),
	"team_defense_game_summary":    table("nba_analytics.team_defense_game_summary", "game_id", "points"),
	"upcoming_team_game_context":   table("nba_analytics.upcoming_team_game_context", "game_id"),
	"upcoming_player_game_context": table("nba_analytics.upcoming_player_game_context", "game_id", "player_lookup"),
	"team_defense_zone_analysis":   table("nba_precompute.team_defense_zone_analysis", "game_id"),
	"player_shot_zone_analysis":    table("nba_precompute.player_shot_zone_analysis", "game_id", "player_lookup"),
	"player_composite_factors":     table("nba_precompute.player_composite_factors", "game_id", "player_lookup"),
	"player_daily_cache":           table("nba_precompute.player_daily_cache", "game_id", "player_lookup"),
	"ml_feature_store_v2":          table("nba_precompute.ml_feature_store_v2", "game_id", "player_lookup"),
	"prediction_coordinator":       table("nba_predictions.player_prop_predictions", "game_id", "player_lookup"),
}

// OpenTables creates the tables and fills the schedule.
func OpenTables(ctx context.Context, w *sqlitewarehouse.Warehouse) (*Tables, error) {
	cal, err := Calendar()
	if err != nil {
		return nil, err
	}
	t := &Tables{w: w, calendar: cal}
	for _, tab := range outputs {
		if err := w.CreateTable(ctx, tab); err != nil {
			return nil, err
		}
	}
	for _, tab := range []sqlitewarehouse.Table{schedule, history} {
		if err := w.CreateTable(ctx, tab); err != nil {
			return nil, err
		}
	}
	if n, err := w.Count(ctx, schedule.Name, "", ""); err != nil || n > 0 {
		return t, err
	}
	var rows [][]any
	for _, p := range cal.All() {
		for g := range games(p.Date) {
			rows = append(rows, []any{p.Date.String(), p.Season, gameID(p.Date, g)})
		}
	}
	return t, w.Insert(ctx, schedule, rows)
}

func mix(parts ...any) uint32 {
	h := fnv.New32a()
	_, _ = fmt.Fprint(h, parts...)
	return h.Sum32()
}

// games is how many games a date has, between 1 and 12.
func games(d backfill.Date) int { return 1 + int(mix("games", d)%12) }

func gameID(d backfill.Date, g int) string { return fmt.Sprintf("%s-%02d", d, g) }

// playersPerGame is fewer than in a real game: enough to count, quick to write.
const playersPerGame = 10

// write replaces a processor's partition and adds its history row.
func (t *Tables) write(ctx context.Context, phase, processor, date string, began time.Time) (int, error) {
	d, err := backfill.ParseDate(date)
	if err != nil {
		return 0, err
	}
	season := ""
	if i, ok := t.calendar.Index(d); ok {
		season = t.calendar.At(i).Season
	}
	n := games(d)
	if tab, ok := outputs[processor]; ok {
		rows := t.Damage.spoil(tab, d, rowsFor(tab, d, season))
		n = len(rows)
		if err := t.w.ReplacePartition(ctx, tab, date, rows); err != nil {
			return 0, err
		}
	}
	now := time.Now()
	job := sqlitewarehouse.Job{ID: fmt.Sprintf("%s-%s-%d", processor, date, began.UnixNano()), Account: Account, Created: now, Started: now, Billed: QueryBytes}
	if err := t.w.AddJobs(ctx, job); err != nil {
		return 0, err
	}
	return n, t.record(ctx, phase, processor, date, "success", began, n)
}

// record adds a row to the history.
func (t *Tables) record(ctx context.Context, phase, processor, date, status string, began time.Time, n int) error {
	now := time.Now()
	return t.w.Insert(ctx, history, [][]any{{
		processor, fmt.Sprintf("%s-%s-%d", processor, date, began.UnixNano()), date, phase, status,
		began.UTC().Format(time.RFC3339Nano), now.UTC().Format(time.RFC3339Nano), now.Sub(began).Seconds(), n,
	}})
}

// Fill writes what all processors write for some dates, at once.
func (t *Tables) Fill(ctx context.Context, dates []backfill.Partition) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(128)
	for _, tab := range outputs {
		for _, p := range dates {
			g.Go(func() error {
				return t.w.ReplacePartition(ctx, tab, p.Date.String(), t.Damage.spoil(tab, p.Date, rowsFor(tab, p.Date, p.Season)))
			})
		}
	}
	return g.Wait()
}

// rowsFor makes a date's rows: per game, or per player of every game when the table has players.
func rowsFor(tab sqlitewarehouse.Table, d backfill.Date, season string) [][]any {
	var rows [][]any
	for g := range games(d) {
		players := 1
		if len(tab.Columns) > 3 && (tab.Columns[3] == "player_id" || tab.Columns[3] == "player_lookup") {
			players = playersPerGame
		}
		for i := range players {
			row := []any{d.String(), season, gameID(d, g)}
			for _, c := range tab.Columns[3:] {
				if c == "points" { // about 11 on average, as in the league
					row = append(row, int(mix("points", d, g, i)%16+mix("more", d, g, i)%8))
				} else {
					row = append(row, fmt.Sprintf("player_%03d", mix(d, g, i)%450))
				}
			}
			rows = append(rows, row)
		}
	}
	return rows
}

// spoil damages the rows of a date; the box scores stay as they are.
func (x Damage) spoil(tab sqlitewarehouse.Table, d backfill.Date, rows [][]any) [][]any {
	derived := strings.HasPrefix(tab.Name, "nba_analytics.") || strings.HasPrefix(tab.Name, "nba_precompute.")
	player, points := slices.Index(tab.Columns, "player_lookup"), slices.Index(tab.Columns, "points")
	if !derived {
		return rows
	}
	var out [][]any
	for i, row := range rows {
		switch {
		case x == HalfPlayers && player >= 0 && i%2 == 1, x == HalfSeason && d%2 == 1:
			continue
		case x == HugePoints && points >= 0:
			row[points] = 500
		case x == NullKeys && player >= 0 && i%20 == 0:
			row[player] = nil
		}
		out = append(out, row)
	}
	return out
}
