package scenario_test
import ("context";"testing";"net";"net/http";"net/http/httptest";"log/slog";"path/filepath";"fmt";"strings";"time"
"sluice.dev/pkg/backfill";"sluice.dev/pkg/pipeline";"sluice.dev/services/sluice/local";"sluice.dev/services/sluice/platform")
func BenchmarkProf(b *testing.B) {
	for range b.N {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204) }))
	cal, _ := platform.Calendar()
	w := &world{t: b, dir: b.TempDir(), address: freeAddress(b)}
	var csv strings.Builder
	csv.WriteString("game_date,season\n")
	for _, p := range cal.All() { fmt.Fprintf(&csv, "%s,%s\n", p.Date, p.Season) }
	w.write("dates.csv", csv.String())
	w.pipeline = w.write("pipeline.yaml", instant(b, server.URL))
	p, err := pipeline.Load(w.pipeline, nil)
	if err != nil { b.Fatal(err) }
	l, err := local.Open(b.Context(), local.Options{DataDir: filepath.Join(w.dir,"data"), Pipelines: map[string]*backfill.Pipeline{p.Name: p}, Log: slog.New(slog.DiscardHandler)})
	if err != nil { b.Fatal(err) }
	ln, _ := net.Listen("tcp", w.address)
	ctx, stop := context.WithCancel(b.Context())
	done := make(chan error,1)
	go func(){ done <- l.Serve(ctx, ln)}()
	t0:=time.Now()
	w.must("submit", "-f", w.write("r.json", `{"backfill_id":"nba-4","pipeline":"nba","dates":{"seasons":["2021-22","2022-23","2023-24","2024-25"]}}`))
	w.must("watch", "nba-4")
	b.ReportMetric(43940/time.Since(t0).Seconds(),"runs/s")
	stop(); <-done; l.Close(); server.Close()
	}
}
