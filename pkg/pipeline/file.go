// Package pipeline turns a pipeline.yaml into a checked backfill.Pipeline. Everything that is wrong with a
// file is reported at once, each fault with its line and column.
package pipeline

// File is a pipeline.yaml as it is written; the JSON Schema for editors is generated from these types.
type File struct {
	Name      string               `json:"name"               jsonschema:"pattern=^[a-z][a-z0-9_-]{0\\,62}$,description=The pipeline's name as requests give it"`
	Partition PartitionBlock       `json:"partition"`
	History   *HistoryBlock        `json:"history,omitempty"`
	Defaults  RunRules             `json:"defaults,omitempty"`
	Limiters  map[string]LimitRule `json:"limiters,omitempty"`
	Phases    []PhaseBlock         `json:"phases"             jsonschema:"minItems=1"`
	Checks    []CheckBlock         `json:"checks,omitempty"`
	BigQuery  *BigQueryBlock       `json:"bigquery,omitempty"`
}

// BigQueryBlock says which of the project's jobs are the pipeline's, and when they are too many.
type BigQueryBlock struct {
	ServiceAccounts []string       `json:"service_accounts,omitempty" jsonschema:"description=The processors' service accounts: what their queries are billed while a backfill runs counts as its spend"`
	SlotPressure    *PressureBlock `json:"slot_pressure,omitempty"`
}

// PressureBlock is when the phases with outputs slow down for the warehouse's sake.
type PressureBlock struct {
	PendingJobs int    `json:"pending_jobs,omitempty" jsonschema:"minimum=1,description=So many jobs may wait for slots"`
	Queue       string `json:"queue,omitempty"        jsonschema:"description=So long may jobs wait on average, e.g. 20s"`
}

// PartitionBlock says which column partitions the tables and where the dates come from.
type PartitionBlock struct {
	Column   string        `json:"column"`
	Calendar CalendarBlock `json:"calendar"`
}

// CalendarBlock is a table, a CSV file beside the pipeline file, or every day from a date on.
type CalendarBlock struct {
	Table  string      `json:"table,omitempty"`
	File   string      `json:"file,omitempty"`
	Date   string      `json:"date,omitempty"`
	Season string      `json:"season,omitempty"`
	Daily  *DailyBlock `json:"daily,omitempty"`
}

// DailyBlock is a calendar of every day from a date on, up to yesterday.
type DailyBlock struct {
	From string `json:"from" jsonschema:"format=date"`
}

// HistoryBlock names the table in which processors record their runs.
type HistoryBlock struct {
	Table     string   `json:"table"`
	Processor string   `json:"processor"`
	Date      string   `json:"date"`
	Phase     string   `json:"phase"`
	Status    string   `json:"status"`
	Succeeded []string `json:"succeeded"          jsonschema:"minItems=1"`
	Duration  string   `json:"duration,omitempty" jsonschema:"description=Column with the seconds that a run took: forecasts use its percentiles"`
	RunID     string   `json:"run_id,omitempty"   jsonschema:"description=Column that names a run"`
	Started   string   `json:"started,omitempty"  jsonschema:"description=Column with the time when a run began"`
	Finished  string   `json:"finished,omitempty" jsonschema:"description=Column with the time when a run ended; phases with adopt need it"`
	Records   string   `json:"records,omitempty"  jsonschema:"description=Column with the number of records"`
	Failed    []string `json:"failed,omitempty"   jsonschema:"description=Statuses of runs that failed"`
	Partial   []string `json:"partial,omitempty"  jsonschema:"description=Statuses of runs that succeeded in part"`
	Skipped   []string `json:"skipped,omitempty"  jsonschema:"description=Statuses of runs that had nothing to do"`
	Write     bool     `json:"write,omitempty"    jsonschema:"description=Write the runs of backfills into the table; needs run_id"`
}

// RunRules are the retry rules of a processor; what is left out is taken from the level above.
type RunRules struct {
	Timeout  string        `json:"timeout,omitempty"  jsonschema:"description=How long one attempt may take, e.g. 10m"`
	Attempts int           `json:"attempts,omitempty" jsonschema:"minimum=1"`
	Backoff  *BackoffBlock `json:"backoff,omitempty"`
	Expect   *ExpectBlock  `json:"expect,omitempty"   jsonschema:"description=What forecasts assume where history knows fewer than five runs"`
}

// ExpectBlock is what a run is expected to take and to cost.
type ExpectBlock struct {
	P50   string `json:"p50,omitempty"   jsonschema:"description=Half of the runs take no longer, e.g. 20s"`
	P90   string `json:"p90,omitempty"   jsonschema:"description=Nine in ten runs take no longer"`
	Bytes string `json:"bytes,omitempty" jsonschema:"description=Bytes that the warehouse bills for a run, e.g. 500MB"`
}

// BackoffBlock is exponential backoff with full jitter.
type BackoffBlock struct {
	Initial string `json:"initial"`
	Max     string `json:"max"`
}

// LimitRule guards an outside API.
type LimitRule struct {
	Rate     string `json:"rate,omitempty"      jsonschema:"description=Calls per second (5/s) or minute (300/m) or hour"`
	Burst    int    `json:"burst,omitempty"     jsonschema:"minimum=1"`
	InFlight int    `json:"in_flight,omitempty" jsonschema:"minimum=1"`
	PerDay   int    `json:"per_day,omitempty"   jsonschema:"minimum=1,description=The outside API's quota of calls a day: preflight holds plans to it"`
}

// PhaseBlock is one phase.
type PhaseBlock struct {
	ID            string           `json:"id"                       jsonschema:"pattern=^[a-z][a-z0-9_]{0\\,62}$"`
	After         []string         `json:"after,omitempty"`
	Gate          string           `json:"gate,omitempty"           jsonschema:"enum=strict,enum=needs"`
	When          *WhenBlock       `json:"when,omitempty"`
	Trigger       *TriggerBlock    `json:"trigger,omitempty"`
	OnTimeout     *RetriggerBlock  `json:"on_timeout,omitempty"`
	Completions   *AdapterBlock    `json:"completions,omitempty"`
	Adopt         bool             `json:"adopt,omitempty"          jsonschema:"description=The processors report nothing: outcomes are read from the history table"`
	MaxDates      int              `json:"max_dates,omitempty"      jsonschema:"minimum=1"`
	MaxProcessors int              `json:"max_processors,omitempty" jsonschema:"minimum=1"`
	Ramp          *RampBlock       `json:"ramp,omitempty"`
	Outputs       []string         `json:"outputs,omitempty"`
	Processors    []ProcessorBlock `json:"processors"               jsonschema:"minItems=1"`
	RunRules
}

// WhenBlock restricts a phase to seasons.
type WhenBlock struct {
	Seasons []string `json:"seasons" jsonschema:"minItems=1"`
}

// TriggerBlock is an HTTP call, or none: the platform starts the phase by itself.
type TriggerBlock struct {
	HTTP *HTTPBlock `json:"http,omitempty"`
	None bool       `json:"none,omitempty"`
}

// HTTPBlock is a POST per processor, or one per phase.
type HTTPBlock struct {
	URL    string `json:"url"`
	Auth   string `json:"auth,omitempty"   jsonschema:"enum=none,enum=oidc"`
	Per    string `json:"per,omitempty"    jsonschema:"enum=processor,enum=phase"`
	Reply  string `json:"reply,omitempty"  jsonschema:"enum=sync,enum=async"`
	Body   string `json:"body,omitempty"`
	Health string `json:"health,omitempty"`
	// Timeout is how long the call may take to be answered.
	Timeout string `json:"timeout,omitempty" jsonschema:"description=How long the call may take to be answered; default 1m when the reply is async and the attempt's timeout when it is sync"`
}

// RetriggerBlock re-runs an earlier phase's processor when this phase's one stayed silent.
type RetriggerBlock struct {
	Retrigger string            `json:"retrigger"`
	Match     map[string]string `json:"match,omitempty"`
}

// AdapterBlock reads an existing topic's messages as completions.
type AdapterBlock struct {
	Topic  string            `json:"topic"`
	Fields map[string]string `json:"fields"`
	Status map[string]string `json:"status,omitempty"`
}

// RampBlock lets dates in slowly.
type RampBlock struct {
	Start int `json:"start" jsonschema:"minimum=1"`
	Step  int `json:"step"  jsonschema:"minimum=1"`
	Every int `json:"every" jsonschema:"minimum=1"`
}

// ProcessorBlock is one processor; a plain name is short for {name: ...}.
type ProcessorBlock struct {
	Name          string       `json:"name"`
	Limiter       string       `json:"limiter,omitempty"`
	Needs         []string     `json:"needs,omitempty"`
	Window        *WindowBlock `json:"window,omitempty"`
	AcceptPartial bool         `json:"accept_partial,omitempty"`
	RunRules
}

// WindowBlock is a dependence on other dates: days or games, and only of the same season when it says so.
type WindowBlock struct {
	Phase  string `json:"phase"`
	Days   int    `json:"days,omitempty"   jsonschema:"minimum=1"`
	Games  int    `json:"games,omitempty"  jsonschema:"minimum=1"`
	Within string `json:"within,omitempty" jsonschema:"enum=season"`
}

// CheckBlock is a question about the data that a phase has written; which fields it takes depends on its kind.
type CheckBlock struct {
	Name      string    `json:"name"                 jsonschema:"pattern=^[a-z][a-z0-9_]{0\\,62}$"`
	After     string    `json:"after"                jsonschema:"description=The phase whose output is looked at"`
	Kind      string    `json:"kind"                 jsonschema:"enum=count_ratio,enum=distribution,enum=null_fraction,enum=season_over_season,enum=sql"`
	Blocking  bool      `json:"blocking,omitempty"   jsonschema:"description=Hold what comes after for the dates that fail"`
	Over      string    `json:"over,omitempty"       jsonschema:"description=count_ratio: the column that is counted first (dataset.table.column)"`
	To        string    `json:"to,omitempty"         jsonschema:"description=count_ratio: the column whose count is compared with it"`
	Column    string    `json:"column,omitempty"     jsonschema:"description=distribution: dataset.table.column"`
	Columns   []string  `json:"columns,omitempty"    jsonschema:"description=null_fraction: dataset.table.column each"`
	Mean      []float64 `json:"mean,omitempty"       jsonschema:"minItems=2,maxItems=2,description=distribution: the range of the mean"`
	StdDev    []float64 `json:"stddev,omitempty"     jsonschema:"minItems=2,maxItems=2,description=distribution: the range of the standard deviation"`
	Min       *float64  `json:"min,omitempty"        jsonschema:"description=The least value (distribution) or ratio (count_ratio)"`
	Max       *float64  `json:"max,omitempty"        jsonschema:"description=The greatest value (distribution) or fraction (null_fraction)"`
	Table     string    `json:"table,omitempty"      jsonschema:"description=season_over_season: dataset.table"`
	Metrics   []string  `json:"metrics,omitempty"    jsonschema:"description=season_over_season: count_dates or count_distinct(c) or avg(c) or sum(c) or min(c) or max(c)"`
	MaxChange *float64  `json:"max_change,omitempty" jsonschema:"description=season_over_season: the greatest relative change"`
	Query     string    `json:"query,omitempty"      jsonschema:"description=sql: a query over @dates"`
	Expect    string    `json:"expect,omitempty"     jsonschema:"enum=no_rows,enum=rows"`
}
