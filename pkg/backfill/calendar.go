package backfill

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"sort"
)

// Partition is one date of a pipeline's calendar. Season is empty where the calendar has none.
type Partition struct {
	Date   Date
	Season string
}

// Calendar is an ordered set of partitions. It is immutable.
type Calendar struct{ parts []Partition }

// NewCalendar sorts the partitions and drops repeated dates.
func NewCalendar(parts []Partition) Calendar {
	sorted := slices.Clone(parts)
	slices.SortFunc(sorted, func(a, b Partition) int { return int(a.Date) - int(b.Date) })
	return Calendar{slices.CompactFunc(sorted, func(a, b Partition) bool { return a.Date == b.Date })}
}

// Len is the number of dates.
func (c Calendar) Len() int { return len(c.parts) }

// At is the i-th partition in date order.
func (c Calendar) At(i int) Partition { return c.parts[i] }

// All lists the partitions in date order; the caller must not change them.
func (c Calendar) All() []Partition { return c.parts }

// search is the index of the first date that is not before d. As each date is there once, its distance from either
// end says where it can be; without gaps that is one place.
func (c Calendar) search(d Date) int {
	n := len(c.parts)
	if n == 0 || d <= c.parts[0].Date {
		return 0
	}
	last := c.parts[n-1].Date
	if d > last {
		return n
	}
	lo, hi := max(0, n-1-int(last-d)), min(n, int(d-c.parts[0].Date))
	return lo + sort.Search(hi-lo, func(i int) bool { return c.parts[lo+i].Date >= d })
}

// Index finds d.
func (c Calendar) Index(d Date) (int, bool) {
	i := c.search(d)
	return i, i < len(c.parts) && c.parts[i].Date == d
}

// Between lists the partitions with from <= date <= to.
func (c Calendar) Between(from, to Date) []Partition {
	lo, hi := c.search(from), c.search(to+1)
	if lo >= hi {
		return nil
	}
	return c.parts[lo:hi]
}

// calendarWire keeps a calendar of any length small: a bit per day since the start, and a run of days per season.
type calendarWire struct {
	Start   Date        `json:"start"`
	Days    string      `json:"days,omitempty"`
	Seasons []seasonRun `json:"seasons,omitempty"`
}

type seasonRun struct {
	Season string `json:"season"`
	From   Date   `json:"from"`
}

// MarshalJSON writes the compact form: 100,000 days take 17 kB.
func (c Calendar) MarshalJSON() ([]byte, error) {
	var w calendarWire
	if len(c.parts) > 0 {
		w.Start = c.parts[0].Date
		bits := make([]byte, (c.parts[len(c.parts)-1].Date-w.Start)/8+1)
		for i, p := range c.parts {
			bits[(p.Date-w.Start)/8] |= 1 << ((p.Date - w.Start) % 8)
			if i == 0 || c.parts[i-1].Season != p.Season {
				w.Seasons = append(w.Seasons, seasonRun{p.Season, p.Date})
			}
		}
		w.Days = base64.StdEncoding.EncodeToString(bits)
	}
	return json.Marshal(w)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (c *Calendar) UnmarshalJSON(b []byte) error {
	var w calendarWire
	if err := json.Unmarshal(b, &w); err != nil {
		return fmt.Errorf("reading a calendar: %w", err)
	}
	bits, err := base64.StdEncoding.DecodeString(w.Days)
	if err != nil {
		return fmt.Errorf("reading the days of a calendar: %w", err)
	}
	c.parts = nil
	run := -1
	for i := range Date(len(bits)) * 8 {
		if bits[i/8]&(1<<(i%8)) == 0 {
			continue
		}
		d := w.Start + i
		for run+1 < len(w.Seasons) && w.Seasons[run+1].From <= d {
			run++
		}
		p := Partition{Date: d}
		if run >= 0 {
			p.Season = w.Seasons[run].Season
		}
		c.parts = append(c.parts, p)
	}
	return nil
}
