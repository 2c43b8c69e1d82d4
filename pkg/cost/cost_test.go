package cost_test

import (
	"math"
	"testing"

	"sluice.dev/pkg/cost"
)

func TestEstimate(t *testing.T) {
	t.Parallel()
	parts := cost.Estimate(cost.Usage{Runs: 1000, Calls: 500, ProcessorSeconds: 3600, BytesBilled: 2 * (1 << 40)})
	want := map[string]float64{
		"BigQuery on demand": 12.5, "Cloud Run CPU": 0.0864, "Cloud Run memory": 0.0045, "Cloud Run requests": 0.0002,
		"Pub/Sub": 40 * 7400 * 2048 / float64(1<<40), "Firestore reads": 0.000918, "Firestore writes": 0.0036,
	}
	sum := 0.0
	for _, p := range parts {
		sum += want[p.What]
		if math.Abs(p.USD-want[p.What]) > 1e-9 {
			t.Errorf("%s is %v, not %v", p.What, p.USD, want[p.What])
		}
	}
	if len(parts) != len(want) || math.Abs(cost.Total(parts)-sum) > 1e-9 {
		t.Errorf("%d parts, %v in all", len(parts), cost.Total(parts))
	}
}

func TestEveryPriceHasItsSource(t *testing.T) {
	t.Parallel()
	for _, p := range cost.Prices() {
		if !(p.USD > 0) || !(p.Per > 0) || p.Unit == "" || p.Source == "" || p.Read == "" {
			t.Errorf("%+v", p)
		}
	}
}

func TestForecast(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spent  float64
		phases []cost.PhaseCost
		want   float64
	}{
		"nothing done yet":        {0, []cost.PhaseCost{{Left: 10, EachUSD: 2}}, 20},
		"too few to tell":         {30, []cost.PhaseCost{{Done: 10, Left: 10, EachUSD: 1}}, 40},
		"twice as much":           {200, []cost.PhaseCost{{Done: 100, Left: 50, EachUSD: 1}, {Left: 10, EachUSD: 5}}, 200 + 2*100},
		"never more than five":    {10_000, []cost.PhaseCost{{Done: 100, Left: 100, EachUSD: 1}}, 10_500},
		"nor less than a fifth":   {0, []cost.PhaseCost{{Done: 100, Left: 100, EachUSD: 1}}, 20},
		"what nobody has a price": {7, []cost.PhaseCost{{Done: 100, Left: 100}}, 7},
	} {
		if got := cost.Forecast(c.spent, c.phases); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%s: $%v, not $%v", name, got, c.want)
		}
	}
}
