// Package backfill is the domain: pipelines, backfills, the facts recorded about each date, and every
// decision that follows from them, as pure functions. It does no I/O and knows neither a clock nor a
// context; time is an argument. Services, simulations and tests all call the same functions.
package backfill

import (
	"fmt"
	"time"
)

// Date is a calendar day, counted in days since 1970-01-01 so that it is small, ordered and comparable.
type Date int32

const day = 24 * time.Hour

// ParseDate reads YYYY-MM-DD and nothing else.
func ParseDate(s string) (Date, error) {
	t, err := time.Parse(time.DateOnly, s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a date: write it as YYYY-MM-DD", s)
	}
	return DateOf(t), nil
}

// DateOf is the UTC day of t.
func DateOf(t time.Time) Date {
	secs := t.Unix()
	days := secs / int64(day/time.Second)
	if secs < 0 && secs%int64(day/time.Second) != 0 {
		days--
	}
	return Date(days)
}

// Time is the midnight, UTC, with which the date begins.
func (d Date) Time() time.Time { return time.Unix(int64(d)*int64(day/time.Second), 0).UTC() }

func (d Date) String() string { return d.Time().Format(time.DateOnly) }

// MarshalText writes YYYY-MM-DD.
func (d Date) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads YYYY-MM-DD.
func (d *Date) UnmarshalText(b []byte) error {
	v, err := ParseDate(string(b))
	if err != nil {
		return err
	}
	*d = v
	return nil
}
