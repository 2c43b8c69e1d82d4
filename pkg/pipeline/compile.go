package pipeline

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/warehouse"
)

// compiler checks what a schema cannot, and makes the pipeline.
type compiler struct {
	*tree
	file *File
	dir  string
	p    *backfill.Pipeline
}

// builtin are the rules where a pipeline says nothing.
func builtin() backfill.Processor {
	return backfill.Processor{
		Timeout: 10 * time.Minute, Attempts: 5, Backoff: backfill.Backoff{Initial: 10 * time.Second, Max: 10 * time.Minute},
	}
}

func (c *compiler) compile() *backfill.Pipeline {
	c.p = &backfill.Pipeline{Name: c.file.Name, Limiters: map[string]backfill.Limiter{}}
	c.partition()
	c.history()
	for _, name := range sortedKeys(c.file.Limiters) {
		c.limiter(name, c.file.Limiters[name])
	}
	rules := builtin()
	c.rules("/defaults", c.file.Defaults, &rules)
	seen := map[string]bool{}
	for i := range c.file.Phases {
		at, b := fmt.Sprintf("/phases/%d", i), &c.file.Phases[i]
		if seen[b.ID] {
			c.faultf(at+"/id", "phase %q is listed twice", b.ID)
		}
		seen[b.ID] = true
		c.p.Phases = append(c.p.Phases, c.phase(at, i, b, rules))
	}
	c.checks()
	c.bigquery()
	if len(c.faults) == 0 {
		c.references()
		c.cycles()
	}
	return c.p
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (c *compiler) partition() {
	b, at := &c.file.Partition, "/partition/calendar"
	c.p.Partition.Column = b.Column
	c.identifiers("/partition/column", b.Column)
	cal := b.Calendar
	given := 0
	for _, set := range []bool{cal.Table != "", cal.File != "", cal.Daily != nil} {
		if set {
			given++
		}
	}
	switch {
	case given != 1:
		c.faultf(at, "give exactly one of table, file and daily")
	case cal.Daily != nil:
		d, err := backfill.ParseDate(cal.Daily.From)
		if err != nil {
			c.faultf(at+"/daily/from", "%v", err)
		}
		c.p.Partition.DailyFrom = &d
	case cal.Date == "":
		c.faultf(at, "name the date column: date")
	case cal.Table != "":
		c.table(at+"/table", cal.Table)
		c.identifiers(at+"/date", cal.Date)
		if cal.Season != "" {
			c.identifiers(at+"/season", cal.Season)
		}
		c.p.Partition.Table = &backfill.CalendarTable{Table: cal.Table, Date: cal.Date, Season: cal.Season}
	default:
		dates, err := readCalendar(filepath.Join(c.dir, cal.File), cal.Date, cal.Season)
		switch {
		case err != nil:
			c.faultf(at+"/file", "%v", err)
		case dates.Len() == 0:
			c.faultf(at+"/file", "%s holds no dates", cal.File)
		}
		c.p.Partition.Dates = &dates
	}
}

func (c *compiler) history() {
	h := c.file.History
	if h == nil {
		return
	}
	c.table("/history/table", h.Table)
	for field, column := range map[string]string{"processor": h.Processor, "date": h.Date, "phase": h.Phase, "status": h.Status} {
		c.identifiers("/history/"+field, column)
	}
	for field, column := range map[string]string{"duration": h.Duration, "run_id": h.RunID, "started": h.Started, "finished": h.Finished, "records": h.Records} {
		if column != "" {
			c.identifiers("/history/"+field, column)
		}
	}
	seen := map[string]bool{}
	for _, word := range slices.Concat(h.Succeeded, h.Failed, h.Partial, h.Skipped) {
		if seen[word] {
			c.faultf("/history", "the status %q means two things: list it once", word)
		}
		seen[word] = true
	}
	if h.Write && h.RunID == "" {
		c.faultf("/history/write", "to write runs back, name the column of their ids: run_id")
	}
	c.p.History = &backfill.HistorySource{
		Table: h.Table, Processor: h.Processor, Date: h.Date, Phase: h.Phase, Status: h.Status, Succeeded: h.Succeeded, Duration: h.Duration,
		RunID: h.RunID, Started: h.Started, Finished: h.Finished, Records: h.Records, Failed: h.Failed, Partial: h.Partial, Skipped: h.Skipped, Write: h.Write,
	}
}

func (c *compiler) bigquery() {
	b := c.file.BigQuery
	if b == nil {
		return
	}
	c.p.BigQuery.ServiceAccounts = b.ServiceAccounts
	for i, account := range b.ServiceAccounts {
		if !strings.Contains(account, "@") {
			c.faultf(fmt.Sprintf("/bigquery/service_accounts/%d", i), "%q is no service account: write it as name@project.iam.gserviceaccount.com", account)
		}
	}
	if p := b.SlotPressure; p != nil {
		if p.PendingJobs == 0 && p.Queue == "" {
			c.faultf("/bigquery/slot_pressure", "it bounds nothing: give it pending_jobs, queue or both")
		}
		c.p.BigQuery.PendingJobs = p.PendingJobs
		if p.Queue != "" {
			c.p.BigQuery.Queue = c.duration("/bigquery/slot_pressure/queue", p.Queue)
		}
	}
}

func (c *compiler) table(at, name string) {
	if err := warehouse.CheckTable(name); err != nil {
		c.faultf(at, "%v", err)
	}
}

func (c *compiler) identifiers(at string, names ...string) {
	if err := warehouse.CheckColumns(names...); err != nil {
		c.faultf(at, "%v", err)
	}
}

func (c *compiler) limiter(name string, b LimitRule) {
	at := "/limiters/" + name
	l := backfill.Limiter{Burst: b.Burst, InFlight: b.InFlight, PerDay: b.PerDay}
	if b.Rate == "" && b.InFlight == 0 {
		c.faultf(at, "limiter %q limits nothing: give it a rate, in_flight or both", name)
	}
	if b.Rate != "" {
		rate, err := parseRate(b.Rate)
		if err != nil {
			c.faultf(at+"/rate", "%v", err)
		}
		l.Rate = rate
	}
	c.p.Limiters[name] = l
}

// parseRate reads "5/s", "300/m" or "1000/h" as calls per second.
func parseRate(s string) (float64, error) {
	n, unit, ok := strings.Cut(s, "/")
	per := map[string]float64{"s": 1, "m": 60, "h": 3600}[unit]
	v, err := strconv.ParseFloat(strings.TrimSpace(n), 64)
	if !ok || per == 0 || err != nil {
		return 0, fmt.Errorf("%q is not a rate: write it as 5/s, 300/m or 1000/h", s)
	}
	if !(v > 0) || v > 1e9 {
		return 0, fmt.Errorf("a rate of %s lets nothing through: it must be above zero", s)
	}
	return v / per, nil
}

// rules fills in what a block says over what was there.
func (c *compiler) rules(at string, b RunRules, r *backfill.Processor) {
	if b.Timeout != "" {
		r.Timeout = c.duration(at+"/timeout", b.Timeout)
	}
	if b.Attempts > 0 {
		r.Attempts = b.Attempts
	}
	if b.Backoff != nil {
		r.Backoff = backfill.Backoff{
			Initial: c.duration(at+"/backoff/initial", b.Backoff.Initial), Max: c.duration(at+"/backoff/max", b.Backoff.Max),
		}
		if r.Backoff.Max < r.Backoff.Initial {
			c.faultf(at+"/backoff/max", "the longest wait (%s) is shorter than the first (%s)", b.Backoff.Max, b.Backoff.Initial)
		}
	}
	if b.Expect != nil {
		c.expect(at+"/expect", b.Expect, &r.Expect)
	}
}

func (c *compiler) expect(at string, b *ExpectBlock, e *backfill.Expect) {
	if b.P50 == "" && b.P90 != "" {
		c.faultf(at, "p90 alone says too little: give p50 too")
	}
	if b.P50 != "" {
		e.P50 = c.duration(at+"/p50", b.P50)
		e.P90 = e.P50
	}
	if b.P90 != "" {
		if e.P90 = c.duration(at+"/p90", b.P90); e.P90 < e.P50 {
			c.faultf(at+"/p90", "the 90th percentile (%s) is below the median (%s)", b.P90, b.P50)
		}
	}
	if b.Bytes != "" {
		n, err := humanize.ParseBytes(b.Bytes)
		if err != nil {
			c.faultf(at+"/bytes", "%q is not a size: write it as 500MB or 2GiB", b.Bytes)
		}
		e.Bytes = n
	}
}

func (c *compiler) duration(at, s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		c.faultf(at, "%q is not a duration above zero: write it as 90s, 10m or 1h30m", s)
	}
	return d
}

func (c *compiler) phase(at string, i int, b *PhaseBlock, rules backfill.Processor) backfill.Phase {
	ph := backfill.Phase{
		ID: b.ID, After: b.After, GateNeeds: b.Gate == "needs", MaxDates: b.MaxDates, MaxProcessors: b.MaxProcessors, Outputs: b.Outputs,
		Adopt: b.Adopt,
	}
	if b.After == nil && i > 0 {
		ph.After = []string{c.file.Phases[i-1].ID}
	}
	if b.When != nil {
		ph.Seasons = b.When.Seasons
	}
	if b.Ramp != nil {
		ph.Ramp = backfill.Ramp{Start: b.Ramp.Start, Step: b.Ramp.Step, Every: b.Ramp.Every}
	}
	for j, table := range b.Outputs {
		c.table(fmt.Sprintf("%s/outputs/%d", at, j), table)
	}
	c.trigger(at, b, &ph)
	c.adapter(at+"/completions", b.Completions, &ph)
	switch h := c.file.History; {
	case b.Adopt && (h == nil || h.Finished == ""):
		c.faultf(at+"/adopt", "to adopt outcomes, history must be there and name the column finished, which tells new runs from old ones")
	case b.Adopt && ph.Trigger.HTTP != nil && !ph.Trigger.HTTP.Async:
		c.faultf(at+"/adopt", "the answer to a synchronous call is its outcome: leave adopt out, or say reply: async")
	}
	if b.OnTimeout != nil {
		ph.OnTimeout = &backfill.Retrigger{Phase: b.OnTimeout.Retrigger, Match: b.OnTimeout.Match}
	}
	c.rules(at, b.RunRules, &rules)
	seen := map[string]bool{}
	for j := range b.Processors {
		where := fmt.Sprintf("%s/processors/%d", at, j)
		if name := b.Processors[j].Name; seen[name] {
			c.faultf(where, "processor %q is listed twice in phase %s", name, b.ID)
		}
		seen[b.Processors[j].Name] = true
		ph.Processors = append(ph.Processors, c.processor(where, b, &b.Processors[j], rules))
	}
	return ph
}

func (c *compiler) processor(at string, ph *PhaseBlock, b *ProcessorBlock, pr backfill.Processor) backfill.Processor {
	c.rules(at, b.RunRules, &pr)
	pr.Name, pr.Limiter, pr.AcceptPartial = b.Name, b.Limiter, b.AcceptPartial
	if _, check := backfill.CheckName(b.Name); check || b.Name == "" || strings.ContainsAny(b.Name, "/ \t\n") {
		c.faultf(at, "%q is not a processor name: it must not be empty, hold spaces or slashes, or begin with check:", b.Name)
	}
	if _, ok := c.p.Limiters[b.Limiter]; b.Limiter != "" && !ok {
		c.faultf(at+"/limiter", "limiter %q is not declared under limiters", b.Limiter)
	}
	for _, need := range b.Needs {
		ref := backfill.Ref{Phase: ph.ID, Processor: need}
		if phase, proc, ok := strings.Cut(need, "/"); ok {
			ref = backfill.Ref{Phase: phase, Processor: proc}
		}
		pr.Needs = append(pr.Needs, ref)
	}
	if ph.Gate == "needs" && len(pr.Needs) == 0 {
		c.faultf(at, "the phase has gate: needs, but processor %q names no needs", b.Name)
	}
	if w := b.Window; w != nil {
		if (w.Days > 0) == (w.Games > 0) {
			c.faultf(at+"/window", "a window has either days or games")
		}
		pr.Windows = append(pr.Windows, backfill.Window{Phase: w.Phase, Days: w.Days, Games: w.Games, SameSeason: w.Within == "season"})
	}
	return pr
}

func (c *compiler) adapter(at string, b *AdapterBlock, ph *backfill.Phase) {
	if b == nil {
		return
	}
	known := []string{
		"backfill_id", "pipeline", "date", "phase", "processor", "attempt", "status", "message", "records",
		"bytes_billed", "started_at", "finished_at", "correlation_id",
	}
	for _, field := range sortedKeys(b.Fields) {
		if !slices.Contains(known, field) {
			c.faultf(at+"/fields/"+field, "completions have no field %q: they have %s", field, strings.Join(known, ", "))
		}
	}
	for _, field := range []string{"date", "processor", "status"} {
		if b.Fields[field] == "" {
			c.faultf(at+"/fields", "say where to find the %s", field)
		}
	}
	for _, word := range sortedKeys(b.Status) {
		if !slices.Contains([]string{"succeeded", "failed", "partial", "skipped"}, b.Status[word]) {
			c.faultf(at+"/status/"+word, "%q is not a status: use succeeded, failed, partial or skipped", b.Status[word])
		}
	}
	ph.Completions = &backfill.Adapter{Topic: b.Topic, Fields: b.Fields, Status: b.Status}
}
