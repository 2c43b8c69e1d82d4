// Package planner turns a request into a backfill: it checks the request, resolves dates against the
// calendar, and finds what history says is done. It writes nothing.
package planner

import (
	"maps"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/fault"
	pb "sluice.dev/proto/gen/sluice/v1"
)

var idPattern = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// Check reads a request and lists everything about it that is wrong whatever the pipeline says.
func Check(m *pb.BackfillRequested) (backfill.Request, error) {
	var faults fault.List
	r := backfill.Request{
		ID: m.GetBackfillId(), Pipeline: m.GetPipeline(), Phases: m.GetPhases(), Order: backfill.Order(m.GetOrder()),
		ValidateFirst: int(m.GetValidateFirst()), Force: m.GetForce(), BudgetUSD: m.GetBudgetUsd(),
		Reason: m.GetReason(), RequestedBy: m.GetRequestedBy(), DryRun: m.GetDryRun(),
	}
	if r.ID != "" && !idPattern.MatchString(r.ID) {
		faults.Addf("backfill_id %q must start with a letter and hold at most 63 of a-z, 0-9 and -", r.ID)
	}
	if r.Pipeline == "" {
		faults.Addf("pipeline is missing: name the pipeline to backfill")
	}
	checkDates(&faults, m.GetDates(), &r)
	switch r.Order {
	case "":
		r.Order = backfill.OrderOverlap
	case backfill.OrderOverlap, backfill.OrderPhaseByPhase, backfill.OrderDateByDate:
	default:
		faults.Addf("order %q is none of overlap, phase_by_phase and date_by_date", r.Order)
	}
	if r.ValidateFirst < 0 {
		faults.Addf("validate_first is %d: it counts dates and cannot be negative", r.ValidateFirst)
	}
	if m.BudgetUsd != nil && (!(r.BudgetUSD > 0) || math.IsInf(r.BudgetUSD, 0)) {
		faults.Addf("budget_usd is %v: it must be above zero", r.BudgetUSD)
	}
	switch m.GetOnExhausted() {
	case "", "continue":
	case "pause":
		r.PauseOnFail = true
	default:
		faults.Addf("on_exhausted %q is neither continue nor pause", m.GetOnExhausted())
	}
	r.Limits = Limits(m.GetLimits())
	checkLimits(&faults, m.GetLimits())
	for _, gap := range m.GetAcceptGaps() {
		from, to, ranged := strings.Cut(gap, "..")
		if !ranged {
			to = from
		}
		a, b := checkDate(&faults, "accept_gaps", from), checkDate(&faults, "accept_gaps", to)
		r.AcceptGaps = append(r.AcceptGaps, backfill.Span{From: a, To: b})
	}
	return r, faults.Err()
}

func checkLimits(faults *fault.List, limits map[string]*pb.PhaseLimits) {
	for _, name := range slices.Sorted(maps.Keys(limits)) {
		if l := limits[name]; l.GetMaxDates() < 0 || l.GetMaxProcessors() < 0 {
			faults.Addf("limits.%s must not be negative", name)
		}
	}
}

// Limits reads limits from a message; nil for none.
func Limits(m map[string]*pb.PhaseLimits) map[string]backfill.Limits {
	var out map[string]backfill.Limits
	for name, l := range m {
		if out == nil {
			out = map[string]backfill.Limits{}
		}
		out[name] = backfill.Limits{MaxDates: int(l.GetMaxDates()), MaxProcessors: int(l.GetMaxProcessors())}
	}
	return out
}

func checkDates(faults *fault.List, d *pb.DateSelection, r *backfill.Request) {
	given := 0
	if len(d.GetSeasons()) > 0 {
		given++
		r.Seasons = d.GetSeasons()
	}
	if d.GetRange() != nil {
		given++
		start, end := checkDate(faults, "dates.range.start", d.GetRange().GetStart()), checkDate(faults, "dates.range.end", d.GetRange().GetEnd())
		r.Start, r.End = &start, &end
		if start > end && len(*faults) == 0 {
			faults.Addf("dates.range ends on %s, before it starts on %s", end, start)
		}
	}
	if len(d.GetList()) > 0 {
		given++
		for _, s := range d.GetList() {
			r.List = append(r.List, checkDate(faults, "dates.list", s))
		}
		slices.Sort(r.List)
		r.List = slices.Compact(r.List)
	}
	if given != 1 {
		faults.Addf("dates must name exactly one of seasons, range and list (with something in it)")
	}
}

func checkDate(faults *fault.List, field, s string) backfill.Date {
	d, err := backfill.ParseDate(s)
	if err != nil {
		faults.Addf("%s: %v", field, err)
	}
	return d
}

// Same compares requests by what they ask for; who asks and why may differ from one delivery to the next.
func Same(a, b backfill.Request) bool {
	a.RequestedBy, b.RequestedBy, a.Reason, b.Reason = "", "", "", ""
	return reflect.DeepEqual(normal(a), normal(b))
}

// normal is a request in which empty and absent are one, as they are in documents.
func normal(r backfill.Request) backfill.Request {
	if len(r.Seasons) == 0 {
		r.Seasons = nil
	}
	if len(r.List) == 0 {
		r.List = nil
	}
	if len(r.Phases) == 0 {
		r.Phases = nil
	}
	if len(r.Limits) == 0 {
		r.Limits = nil
	}
	if len(r.AcceptGaps) == 0 {
		r.AcceptGaps = nil
	}
	return r
}

// actions are those that a control may have.
const actions = "pause, resume, cancel, retry, waive, limit, rollback, release and forget"

// CheckControl lists everything that is wrong with a control by itself.
func CheckControl(m *pb.BackfillControlled) error {
	var faults fault.List
	if m.GetBackfillId() == "" {
		faults.Addf("backfill_id is missing: name the backfill to control")
	}
	switch m.GetAction() {
	case "pause", "resume", "cancel", "retry", "release", "forget":
	case "waive":
		if len(m.GetDates()) == 0 || m.GetPhase() == "" || len(m.GetProcessors()) == 0 || m.GetReason() == "" {
			faults.Addf("waive needs dates, phase, processors and reason")
		}
	case "limit":
		if len(m.GetLimits()) == 0 && m.BudgetUsd == nil {
			faults.Addf("limit needs limits, phases with max_dates or max_processors where 0 is the pipeline's own, or budget_usd")
		}
		if v := m.GetBudgetUsd(); m.BudgetUsd != nil && (!(v > 0) || math.IsInf(v, 0)) {
			faults.Addf("budget_usd is %v: it must be above zero", v)
		}
		checkLimits(&faults, m.GetLimits())
	case "rollback":
		if len(m.GetPhases()) == 0 && !m.GetUndo() {
			faults.Addf("rollback needs phases: name those whose output is to be deleted")
		}
		if m.GetUndo() && m.GetRerun() {
			faults.Addf("a rollback either reruns or is undone")
		}
	case "":
		faults.Addf("action is missing: use one of %s", actions)
	default:
		faults.Addf("action %q is none of %s", m.GetAction(), actions)
	}
	for _, d := range m.GetDates() {
		checkDate(&faults, "dates", d)
	}
	return faults.Err()
}
