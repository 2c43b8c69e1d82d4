package warehouse

import (
	"regexp"
	"slices"

	"sluice.dev/pkg/fault"
)

var (
	tablePattern  = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9-]{4,62}\.)?[A-Za-z_][A-Za-z0-9_]{0,127}\.[A-Za-z_][A-Za-z0-9_]{0,127}$`)
	columnPattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)
)

// CheckTable accepts [project.]dataset.table.
func CheckTable(name string) error {
	if !tablePattern.MatchString(name) {
		return fault.New(fault.Invalid, "%q is not a table name: write it as dataset.table", name)
	}
	return nil
}

// CheckColumns accepts plain column names.
func CheckColumns(names ...string) error {
	for _, n := range names {
		if !columnPattern.MatchString(n) {
			return fault.New(fault.Invalid, "%q is not a column name", n)
		}
	}
	return nil
}

// MissingColumn is NotFound when a table lacks a column, and nil when it has them all.
func MissingColumn(table string, have []string, want ...string) error {
	for _, c := range want {
		if !slices.Contains(have, c) {
			return fault.New(fault.NotFound, "table %s has no column %q", table, c)
		}
	}
	return nil
}
