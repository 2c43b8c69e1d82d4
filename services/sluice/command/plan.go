package command

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"sluice.dev/pkg/event"
	pb "sluice.dev/proto/gen/sluice/v1"
)

func (a *app) plan() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "plan -f REQUEST", Short: "Say what a request would do, how long it would take and what it would cost", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			req, err := a.request(file)
			if err != nil {
				return err
			}
			answer, err := a.client().Plan(cmd.Context(), connect.NewRequest(req))
			if err != nil {
				return err
			}
			return a.showPlan(answer.Msg)
		},
	}
	requestFlag(cmd, &file)
	return cmd
}

func requestFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVarP(file, "file", "f", "", "the request, JSON; - reads standard input")
	_ = cmd.MarkFlagRequired("file")
}

// request reads a request file.
func (a *app) request(file string) (*pb.BackfillRequested, error) {
	data, err := a.read(file)
	if err != nil {
		return nil, err
	}
	req := new(pb.BackfillRequested)
	return req, event.Unmarshal(data, req)
}

func (a *app) simulate() *cobra.Command {
	var file string
	var limits []string
	m := new(pb.SimulateRequest)
	var fail, throttle float64
	cmd := &cobra.Command{
		Use: "simulate -f REQUEST", Short: "Plan a request under other limits, another order or more faults", Args: cobra.NoArgs,
		Example: "  sluice simulate -f request.json --limit phase_4_precompute.max_processors=100 --order phase_by_phase --fail 0.05",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if m.Request, err = a.request(file); err != nil {
				return err
			}
			if m.Limits, err = parseLimits(limits); err != nil {
				return err
			}
			if cmd.Flags().Changed("fail") {
				m.FailRate = &fail
			}
			if cmd.Flags().Changed("throttle") {
				m.ThrottleRate = &throttle
			}
			answer, err := a.client().Simulate(cmd.Context(), connect.NewRequest(m))
			if err != nil {
				return err
			}
			return a.showPlan(answer.Msg)
		},
	}
	requestFlag(cmd, &file)
	cmd.Flags().StringArrayVar(&limits, "limit", nil, "NAME=NUMBER, may be given again: PHASE.max_processors, PHASE.max_dates, LIMITER.rate (per second), LIMITER.burst, LIMITER.in_flight")
	cmd.Flags().StringVar(&m.Order, "order", "", "overlap, phase_by_phase or date_by_date instead of the request's")
	cmd.Flags().Float64Var(&fail, "fail", 0.01, "share of attempts that fail")
	cmd.Flags().Float64Var(&throttle, "throttle", 0, "share of calls answered 429 although the limits are kept")
	cmd.Flags().Int32Var(&m.Seeds, "seeds", 0, "how many runs to simulate; 0 for ten, or fewer when the backfill is very large")
	cmd.Flags().Uint64Var(&m.Seed, "seed", 0, "where the random numbers start")
	return cmd
}

// parseLimits reads NAME=NUMBER flags.
func parseLimits(flags []string) (map[string]float64, error) {
	out := map[string]float64{}
	for _, f := range flags {
		name, number, ok := strings.Cut(f, "=")
		v, err := strconv.ParseFloat(number, 64)
		if !ok || err != nil || name == "" {
			return nil, fmt.Errorf("--limit %s: it is no limit: write NAME=NUMBER, e.g. phase_1.max_processors=50", f)
		}
		out[name] = v
	}
	return out, nil
}

func (a *app) showPlan(m *pb.PlanResponse) error {
	if a.output == "json" {
		return a.json(m)
	}
	p := m.GetPlan()
	w := tabwriter.NewWriter(a.Out, 0, 0, 2, ' ', 0)
	line := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) }
	line("pipeline\t%s, order %s", p.GetPipeline(), p.GetOrder())
	line("dates\t%d to do of %d, %s to %s", p.GetDatesToDo(), p.GetDatesTotal(), p.GetFirstDate(), p.GetLastDate())
	line("runs\t%d to do, %d skipped as done in history", p.GetRunsToDo(), p.GetRunsSkipped())
	span := p.GetMakespan()
	line("takes\t%s (p10 %s, p90 %s, %d simulated runs)", clock(span.GetP50Seconds()), clock(span.GetP10Seconds()), clock(span.GetP90Seconds()), span.GetSeeds())
	if len(p.GetBounds()) > 0 && p.GetBounds()[0].GetSeconds() > 0 {
		b := p.GetBounds()[0]
		line("lower bound\t%s, set by %s: the plan takes %.2f times as long", clock(b.GetSeconds()), b.GetName(), span.GetP50Seconds()/b.GetSeconds())
	}
	line("troubles\t%d retries, %d throttled calls, %d runs that use up their attempts", p.GetRetries(), p.GetThrottles(), p.GetExhausted())
	line("spend\t$%.2f", p.GetSpend().GetTotalUsd())
	if err := w.Flush(); err != nil {
		return err
	}
	gantt(a.Out, p)
	limitTable(a.Out, p)
	criticalPath(a.Out, p)
	spend(a.Out, p)
	for _, n := range p.GetNotes() {
		_, _ = fmt.Fprintf(a.Out, "note: %s\n", n)
	}
	return nil
}

// clock writes seconds for people.
func clock(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d < time.Hour:
		return d.Round(time.Second).String()
	default:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	}
}

// ganttWidth is how many characters the whole makespan takes.
const ganttWidth = 50

func gantt(out io.Writer, p *pb.Plan) {
	total := max(p.GetMakespan().GetP50Seconds(), 1e-9)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "\nPHASE\tRUNS\tFROM\tTO\t")
	for _, ph := range p.GetPhases() {
		from := min(ganttWidth-1, int(ph.GetStartSeconds()/total*ganttWidth))
		to := min(ganttWidth, max(from+1, int(ph.GetEndSeconds()/total*ganttWidth+0.5)))
		bar := strings.Repeat("·", from) + strings.Repeat("█", to-from) + strings.Repeat("·", ganttWidth-to)
		_, _ = fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\n", ph.GetId(), ph.GetRuns(), clock(ph.GetStartSeconds()), clock(ph.GetEndSeconds()), bar)
	}
	_ = w.Flush()
}

func limitTable(out io.Writer, p *pb.Plan) {
	bounds := map[string]float64{}
	for _, b := range p.GetBounds() {
		bounds[b.GetName()] = b.GetSeconds()
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "\nLIMIT\tVALUE\tUSED\tALLOWS NO LESS THAN")
	for _, u := range p.GetLimits() {
		_, _ = fmt.Fprintf(w, "%s\t%g\t%.0f%%\t%s\n", u.GetName(), u.GetLimit(), 100*u.GetUtilisation(), clock(bounds[u.GetName()]))
	}
	_ = w.Flush()
}

// criticalPath shows the last steps of the path in full, as earlier ones are alike.
func criticalPath(out io.Writer, p *pb.Plan) {
	steps := p.GetCriticalPath()
	if len(steps) == 0 {
		return
	}
	const shown = 12
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "\nCRITICAL PATH\tFROM\tTO\tDATE")
	if left := len(steps) - shown; left > 0 {
		_, _ = fmt.Fprintf(w, "%d earlier steps\t%s\t%s\t\n", left, clock(0), clock(steps[left].GetStartSeconds()))
		steps = steps[left:]
	}
	for _, s := range steps {
		what := s.GetPhase() + "/" + s.GetProcessor()
		if s.GetWait() != "" {
			what = "wait for " + s.GetWait()
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", what, clock(s.GetStartSeconds()), clock(s.GetEndSeconds()), s.GetDate())
	}
	_ = w.Flush()
}

func spend(out io.Writer, p *pb.Plan) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "\nSPEND\tUSD\tFOR\tPRICE FROM")
	for _, part := range p.GetSpend().GetParts() {
		_, _ = fmt.Fprintf(w, "%s\t%.2f\t%.0f %s\t%s\n", part.GetName(), part.GetUsd(), part.GetAmount(), part.GetUnit(), part.GetSource())
	}
	_ = w.Flush()
	_, _ = fmt.Fprintln(out)
}
