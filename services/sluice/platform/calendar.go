package platform

import (
	"fmt"
	"strings"

	"sluice.dev/pkg/backfill"
)

// seasons are the days on which NBA games were played: from the first to the last day of a season's
// schedule except the days listed as MM-DD or MM-DD..MM-DD.
var seasons = []struct{ name, from, to, except string }{
	{"2021-22", "2021-10-19", "2022-06-16", "11-25 12-24 02-18..02-23 04-04 04-11 04-14 04-30 05-05 05-14 05-16 05-28 05-30 05-31 " +
		"06-01 06-03 06-04 06-06 06-07 06-09 06-11 06-12 06-14 06-15"},
	{"2022-23", "2022-10-18", "2023-06-12", "11-08 11-24 12-24 02-17..02-22 04-03 04-10 04-13 05-13 05-15 05-24 05-26 05-28 05-30 " +
		"05-31 06-02 06-03 06-05 06-06 06-08 06-10 06-11"},
	{"2023-24", "2023-10-24", "2024-06-17", "11-07 11-23 12-03 12-09 12-10 12-24 02-16..02-21 04-08 04-13 04-15 04-18 05-20 05-29 " +
		"05-31 06-01..06-05 06-07 06-08 06-10 06-11 06-13 06-15 06-16"},
	{"2024-25", "2024-10-22", "2025-06-22", "11-05 11-28 12-17 12-18 12-24 02-14..02-18 04-12 04-14 04-17 05-17 05-19 05-30 " +
		"06-01..06-04 06-06 06-07 06-09 06-10 06-12 06-14 06-15 06-17 06-18 06-20 06-21"},
}

// Calendar lists the game dates of the four seasons.
func Calendar() (backfill.Calendar, error) {
	var parts []backfill.Partition
	for _, s := range seasons {
		from, err := backfill.ParseDate(s.from)
		if err != nil {
			return backfill.Calendar{}, err
		}
		to, err := backfill.ParseDate(s.to)
		if err != nil {
			return backfill.Calendar{}, err
		}
		off := map[backfill.Date]bool{}
		for _, word := range strings.Fields(s.except) {
			first, last, ranged := strings.Cut(word, "..")
			if !ranged {
				last = first
			}
			a, err := inSeason(first, from, to)
			if err != nil {
				return backfill.Calendar{}, err
			}
			b, err := inSeason(last, from, to)
			if err != nil {
				return backfill.Calendar{}, err
			}
			for d := a; d <= b; d++ {
				off[d] = true
			}
		}
		for d := from; d <= to; d++ {
			if !off[d] {
				parts = append(parts, backfill.Partition{Date: d, Season: s.name})
			}
		}
	}
	return backfill.NewCalendar(parts), nil
}

// inSeason finds the year of a MM-DD.
func inSeason(monthDay string, from, to backfill.Date) (backfill.Date, error) {
	for _, year := range []int{from.Time().Year(), to.Time().Year()} {
		d, err := backfill.ParseDate(fmt.Sprintf("%04d-%s", year, monthDay))
		if err == nil && from <= d && d <= to {
			return d, nil
		}
	}
	return 0, fmt.Errorf("%s lies outside the season that begins on %s", monthDay, from)
}
