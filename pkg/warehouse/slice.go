package warehouse

import "sluice.dev/pkg/backfill"

// Days are dates as text.
func Days(dates []backfill.Date) []string {
	out := make([]string, len(dates))
	for i, d := range dates {
		out[i] = d.String()
	}
	return out
}

// SliceColumns lists the columns by which a slice chooses rows.
func SliceColumns(s backfill.Slice) []string {
	if s.PhaseColumn == "" {
		return []string{s.Column}
	}
	return []string{s.Column, s.PhaseColumn}
}

// HistoryColumns lists the columns of a history that are named, with what a run has for each.
func HistoryColumns(h backfill.HistorySource, r Recorded) (names []string, values []any) {
	add := func(name string, v any) {
		if name != "" {
			names, values = append(names, name), append(values, v)
		}
	}
	add(h.Processor, r.Processor)
	add(h.Date, r.Date)
	add(h.Phase, r.Phase)
	add(h.Status, r.Status)
	add(h.RunID, r.ID)
	add(h.Started, r.Started)
	add(h.Finished, r.Finished)
	add(h.Records, r.Records)
	add(h.Duration, r.Finished.Sub(r.Started).Seconds())
	return names, values
}
