package backfill

import (
	"slices"
	"time"
)

// Pipeline is a checked pipeline: package pipeline makes it from a file and guarantees that every name is
// unique, every reference exists and nothing is circular.
type Pipeline struct {
	Name      string             `json:"name"`
	Partition PartitionSource    `json:"partition"`
	History   *HistorySource     `json:"history,omitempty"`
	Limiters  map[string]Limiter `json:"limiters,omitempty"`
	Phases    []Phase            `json:"phases"`
	Checks    []Check            `json:"checks,omitempty"`
	BigQuery  BigQuery           `json:"bigquery,omitzero"`
}

// BigQuery says which of the project's jobs are the pipeline's, and when they are too many.
type BigQuery struct {
	// ServiceAccounts run the processors: what they are billed while a backfill runs is the backfill's.
	ServiceAccounts []string `json:"service_accounts,omitempty"`
	// PendingJobs and Queue are how many jobs may wait, and how long on average, before phases with outputs slow
	// down; 0 for no bound.
	PendingJobs int           `json:"pending_jobs,omitempty"`
	Queue       time.Duration `json:"queue,omitempty"`
}

// Check is a question about the data that a phase has written. Which fields count depends on the kind.
type Check struct {
	Name      string     `json:"name"`
	After     string     `json:"after"`
	Kind      string     `json:"kind"`
	Blocking  bool       `json:"blocking,omitempty"`
	Over      string     `json:"over,omitempty"`
	To        string     `json:"to,omitempty"`
	Column    string     `json:"column,omitempty"`
	Columns   []string   `json:"columns,omitempty"`
	HasMean   bool       `json:"has_mean,omitempty"`
	Mean      [2]float64 `json:"mean,omitzero"`
	HasStdDev bool       `json:"has_stddev,omitempty"`
	StdDev    [2]float64 `json:"stddev,omitzero"`
	Min       *float64   `json:"min,omitempty"`
	Max       *float64   `json:"max,omitempty"`
	Table     string     `json:"table,omitempty"`
	Metrics   []string   `json:"metrics,omitempty"`
	MaxChange *float64   `json:"max_change,omitempty"`
	Query     string     `json:"query,omitempty"`
	Expect    string     `json:"expect,omitempty"`
}

// PartitionSource says where the dates come from: exactly one of Table, Dates and DailyFrom.
type PartitionSource struct {
	Column    string         `json:"column"`
	Table     *CalendarTable `json:"table,omitempty"`
	Dates     *Calendar      `json:"dates,omitempty"`
	DailyFrom *Date          `json:"daily_from,omitempty"`
}

// CalendarTable names a warehouse table with one row or more per date.
type CalendarTable struct {
	Table  string `json:"table"`
	Date   string `json:"date"`
	Season string `json:"season,omitempty"`
}

// HistorySource names the warehouse table in which processors record their runs.
type HistorySource struct {
	Table     string   `json:"table"`
	Processor string   `json:"processor"`
	Date      string   `json:"date"`
	Phase     string   `json:"phase"`
	Status    string   `json:"status"`
	Succeeded []string `json:"succeeded"`
	Duration  string   `json:"duration,omitempty"` // column with seconds, for forecasts
	// What follows is for adopting outcomes and for writing runs back.
	RunID    string   `json:"run_id,omitempty"`
	Started  string   `json:"started,omitempty"`
	Finished string   `json:"finished,omitempty"`
	Records  string   `json:"records,omitempty"`
	Failed   []string `json:"failed,omitempty"`
	Partial  []string `json:"partial,omitempty"`
	Skipped  []string `json:"skipped,omitempty"`
	// Write says that runs of ours are written back.
	Write bool `json:"write,omitempty"`
}

// Outcome is what a status of the history means as a completion; empty for one that is no outcome, such as a run
// that is said to be running.
func (h *HistorySource) Outcome(status string) string {
	for outcome, words := range map[string][]string{
		"succeeded": h.Succeeded, "failed": h.Failed, "partial": h.Partial, "skipped": h.Skipped,
	} {
		if slices.Contains(words, status) {
			return outcome
		}
	}
	return ""
}

// Limiter guards one outside API. Rate is calls per second, 0 for no rate; InFlight is 0 for no cap.
type Limiter struct {
	Rate     float64 `json:"rate,omitempty"`
	Burst    int     `json:"burst,omitempty"`
	InFlight int     `json:"in_flight,omitempty"`
	PerDay   int     `json:"per_day,omitempty"` // quota of the outside API, 0 for none; plans are held to it
}

// Phase is a set of processors that run once per date.
type Phase struct {
	ID            string      `json:"id"`
	After         []string    `json:"after,omitempty"`
	GateNeeds     bool        `json:"gate_needs,omitempty"` // processors wait for their own needs, not for whole phases
	Seasons       []string    `json:"seasons,omitempty"`    // empty: every season
	Trigger       Trigger     `json:"trigger"`
	OnTimeout     *Retrigger  `json:"on_timeout,omitempty"`
	Completions   *Adapter    `json:"completions,omitempty"`
	Adopt         bool        `json:"adopt,omitempty"` // its processors report nothing: the history tells how they ended
	MaxDates      int         `json:"max_dates,omitempty"`
	MaxProcessors int         `json:"max_processors,omitempty"`
	Ramp          Ramp        `json:"ramp"`
	Outputs       []string    `json:"outputs,omitempty"`
	Processors    []Processor `json:"processors"`
}

// Processor is one unit of work per date, with its retry rules filled in from the defaults.
type Processor struct {
	Name          string        `json:"name"`
	Limiter       string        `json:"limiter,omitempty"`
	Needs         []Ref         `json:"needs,omitempty"`
	Windows       []Window      `json:"windows,omitempty"`
	Timeout       time.Duration `json:"timeout"`
	Attempts      int           `json:"attempts"`
	Backoff       Backoff       `json:"backoff"`
	AcceptPartial bool          `json:"accept_partial,omitempty"`
	Expect        Expect        `json:"expect,omitzero"`
}

// Expect is what the pipeline says of a run that history knows too little of. Zero is not said.
type Expect struct {
	P50   time.Duration `json:"p50,omitempty"`
	P90   time.Duration `json:"p90,omitempty"`
	Bytes uint64        `json:"bytes,omitempty"` // that a warehouse bills for it
}

// Ref names a processor.
type Ref struct {
	Phase     string `json:"phase"`
	Processor string `json:"processor"`
}

// Window is a dependence on other dates of a phase: all calendar dates in [D-Days, D], or the Games
// partitions before D and D itself. On the processor's own phase, D is left out: such a window makes
// dates wait for earlier ones. SameSeason stops the window at the start of the season.
type Window struct {
	Phase      string `json:"phase"`
	Days       int    `json:"days,omitempty"`
	Games      int    `json:"games,omitempty"`
	SameSeason bool   `json:"same_season,omitempty"`
}

// Trigger says how a phase's processors are started. A nil HTTP means that the platform starts them by itself.
type Trigger struct {
	HTTP *HTTPTrigger `json:"http,omitempty"`
}

// HTTPTrigger is a POST. PerPhase makes one call for all processors of the phase instead of one each.
type HTTPTrigger struct {
	URL      string `json:"url"`
	Auth     string `json:"auth,omitempty"`
	Async    bool   `json:"async,omitempty"`
	PerPhase bool   `json:"per_phase,omitempty"`
	Body     string `json:"body,omitempty"`
	Health   string `json:"health,omitempty"`
	// Timeout is how long the call may take to be answered; 0 is the attempt's own timeout.
	Timeout time.Duration `json:"timeout,omitempty"`
}

// Retrigger re-runs a processor of an earlier phase when one of this phase stayed silent: Match maps the
// earlier phase's processor to this phase's.
type Retrigger struct {
	Phase string            `json:"phase"`
	Match map[string]string `json:"match"`
}

// Source finds the processor of the earlier phase that feeds this one.
func (r *Retrigger) Source(processor string) (Ref, bool) {
	if r != nil {
		for from, to := range r.Match {
			if to == processor {
				return Ref{r.Phase, from}, true
			}
		}
	}
	return Ref{}, false
}

// Adapter reads another system's JSON on Topic as completions: Fields maps our field names to dotted paths
// in theirs, Status their words to ours.
type Adapter struct {
	Topic  string            `json:"topic"`
	Fields map[string]string `json:"fields"`
	Status map[string]string `json:"status,omitempty"`
}

// Ramp starts with Start dates in flight and adds Step after every Every calm completions. Start 0 is no ramp.
type Ramp struct {
	Start int `json:"start,omitempty"`
	Step  int `json:"step,omitempty"`
	Every int `json:"every,omitempty"`
}

// Backoff is exponential with full jitter: attempt n waits between 0 and min(Max, Initial*2^(n-1)).
type Backoff struct {
	Initial time.Duration `json:"initial"`
	Max     time.Duration `json:"max"`
}

// Phase finds a phase by its id.
func (p *Pipeline) Phase(id string) (*Phase, bool) {
	i := slices.IndexFunc(p.Phases, func(ph Phase) bool { return ph.ID == id })
	if i < 0 {
		return nil, false
	}
	return &p.Phases[i], true
}

// Processor finds a processor of the phase by its name.
func (ph *Phase) Processor(name string) (*Processor, bool) {
	i := slices.IndexFunc(ph.Processors, func(pr Processor) bool { return pr.Name == name })
	if i < 0 {
		return nil, false
	}
	return &ph.Processors[i], true
}

// AppliesTo says whether the phase runs in a season at all.
func (ph *Phase) AppliesTo(season string) bool {
	return len(ph.Seasons) == 0 || slices.Contains(ph.Seasons, season)
}

// Needed says whether some other processor of the pipeline waits for this one by name.
func (p *Pipeline) Needed(ref Ref) bool {
	for i := range p.Phases {
		for j := range p.Phases[i].Processors {
			if slices.Contains(p.Phases[i].Processors[j].Needs, ref) {
				return true
			}
		}
	}
	return false
}
