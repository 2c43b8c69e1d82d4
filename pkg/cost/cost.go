// Package cost turns what a backfill uses into money. The prices stand in one table with their source and the
// day on which they were read; free quotas and discounts are left out, so an estimate is rather too high.
package cost

// Price is what one unit costs.
type Price struct {
	What   string
	USD    float64
	Per    float64 // units
	Unit   string
	Source string
	Read   string // the day on which this was looked up, in a stored copy of the source
}

// The prices, as far as stored copies of the pages give them: compare them with the pages before you rely on a
// budget. BigQuery and Pub/Sub cost the same in all of the US; Cloud Run is tier 1; Firestore is multi-region.
var (
	BigQueryBytes   = Price{"BigQuery on demand", 6.25, 1 << 40, "bytes billed", "cloud.google.com/bigquery/pricing", "2026-11-24"}
	RunVCPU         = Price{"Cloud Run CPU", 0.000024, 1, "vCPU seconds", "cloud.google.com/run/pricing", "2026-11-24"}
	RunMemory       = Price{"Cloud Run memory", 0.0000025, 1, "GiB seconds", "cloud.google.com/run/pricing", "2026-11-24"}
	RunRequests     = Price{"Cloud Run requests", 0.40, 1e6, "requests", "cloud.google.com/run/pricing", "2026-11-24"}
	PubSubBytes     = Price{"Pub/Sub", 40, 1 << 40, "bytes", "cloud.google.com/pubsub/pricing", "2026-11-24"}
	FirestoreReads  = Price{"Firestore reads", 0.06, 1e5, "reads", "cloud.google.com/firestore/pricing", "2026-11-24"}
	FirestoreWrites = Price{"Firestore writes", 0.18, 1e5, "writes", "cloud.google.com/firestore/pricing", "2026-11-24"}
)

// Prices lists them all.
func Prices() []Price {
	return []Price{BigQueryBytes, RunVCPU, RunMemory, RunRequests, PubSubBytes, FirestoreReads, FirestoreWrites}
}

// Of is what an amount costs in USD.
func (p Price) Of(amount float64) float64 { return amount / p.Per * p.USD }

// Usage is what a backfill uses, or is expected to.
type Usage struct {
	Runs             int     // processor runs, retries included
	Calls            int     // HTTP requests to processors
	ProcessorSeconds float64 // of all runs together
	BytesBilled      float64 // by BigQuery, for the processors' queries
}

// What one run uses, as measured (docs/benchmarks.md), and what a processor is taken to be: a container of Cloud
// Run's default size that serves one request at a time.
const (
	messagesPerRun  = 7.4
	bytesPerMessage = 2 * 1024 // published and delivered; Pub/Sub bills at least 1,000 bytes for each
	readsPerRun     = 1.53
	writesPerRun    = 2
	vCPU            = 1
	memoryGiB       = 0.5
)

// Part is one line of an estimate.
type Part struct {
	Price
	Amount float64
	USD    float64
}

// Estimate is what a usage costs, by parts.
func Estimate(u Usage) []Part {
	runs := float64(u.Runs)
	var out []Part
	for _, x := range []struct {
		Price
		amount float64
	}{
		{BigQueryBytes, u.BytesBilled}, {RunVCPU, u.ProcessorSeconds * vCPU}, {RunMemory, u.ProcessorSeconds * memoryGiB},
		{RunRequests, float64(u.Calls)}, {PubSubBytes, runs * messagesPerRun * bytesPerMessage},
		{FirestoreReads, runs * readsPerRun}, {FirestoreWrites, runs * writesPerRun},
	} {
		out = append(out, Part{x.Price, x.amount, x.Of(x.amount)})
	}
	return out
}

// Total adds parts up.
func Total(parts []Part) float64 {
	sum := 0.0
	for _, p := range parts {
		sum += p.USD
	}
	return sum
}

// PhaseCost is what a phase has done, what is left of it, and what a run of it is expected to cost.
type PhaseCost struct {
	Done, Left int
	EachUSD    float64
}

// enoughRuns is how many runs must have ended before what they cost corrects what was expected.
const enoughRuns = 20

// Forecast is what a run will have cost at its end: what it has spent, and what is left at the expected price,
// corrected by how far the expectation was off so far, between a fifth and five times as much.
func Forecast(spent float64, phases []PhaseCost) float64 {
	var done, left float64
	runs := 0
	for _, p := range phases {
		done += float64(p.Done) * p.EachUSD
		left += float64(p.Left) * p.EachUSD
		runs += p.Done
	}
	factor := 1.0
	if runs >= enoughRuns && done > 0 {
		factor = min(5, max(0.2, spent/done))
	}
	return spent + left*factor
}
