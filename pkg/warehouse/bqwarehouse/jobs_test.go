package bqwarehouse_test

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sluice.dev/pkg/warehouse/bqwarehouse"
)

// documented are the columns of INFORMATION_SCHEMA.JOBS with their types.
func documented(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("testdata/jobs_columns.txt")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if name, typ, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name != "#" {
			out[name] = typ
		}
	}
	return out
}

// usedInJobs says whether a query names a column.
func usedInJobs(column string) bool {
	for _, file := range []string{"sql/billed.sql", "sql/queue.sql"} {
		text, err := os.ReadFile(file)
		if err == nil && regexp.MustCompile(`\b`+column+`\b`).Match(text) {
			return true
		}
	}
	return column == "job_id"
}

// TestJobsQueriesUseDocumentedColumns is as near to the view as a machine without Google Cloud comes: the emulator has
// none, so the suite runs the queries on a table with these columns.
func TestJobsQueriesUseDocumentedColumns(t *testing.T) {
	t.Parallel()
	columns := documented(t)
	if len(columns) < 25 {
		t.Fatalf("only %d columns are documented", len(columns))
	}
	words := regexp.MustCompile(`@?\b[a-z_]+(\.[a-z]+)?\b`)
	own := []string{"billed", "pending", "wait", "l", "l.key", "l.value"} // names that the queries give
	for _, file := range []string{"sql/billed.sql", "sql/queue.sql"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for line := range strings.Lines(string(text)) {
			line, _, _ = strings.Cut(line, "--")
			line = regexp.MustCompile(`'[^']*'|\{jobs\}`).ReplaceAllString(line, "")
			for _, word := range words.FindAllString(line, -1) {
				if strings.HasPrefix(word, "@") || slices.Contains(own, word) {
					continue
				}
				n++
				if columns[word] == "" {
					t.Errorf("%s uses %q, which INFORMATION_SCHEMA.JOBS does not have: it has %v", file, word, slices.Sorted(maps.Keys(columns)))
				}
			}
		}
		if n < 3 {
			t.Errorf("%s uses %d columns: is it read aright?", file, n)
		}
	}
}

func TestJobsView(t *testing.T) {
	t.Parallel()
	if got := bqwarehouse.JobsView("p-1", "US-West2"); got != "`p-1`.`region-us-west2`.INFORMATION_SCHEMA.JOBS" {
		t.Error(got)
	}
}

func TestTheJournalsSchemaIsTheMessages(t *testing.T) {
	t.Parallel()
	schema, err := bqwarehouse.JournalSchema()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, f := range schema {
		got[f.Name] = string(f.Type)
		if f.Repeated != (f.Name == "faults") || f.Required != (f.Name == "id" || f.Name == "at") {
			t.Errorf("%+v", f)
		}
	}
	for name, typ := range map[string]string{"id": "STRING", "at": "TIMESTAMP", "attempt": "INTEGER", "records": "INTEGER", "duration_seconds": "FLOAT64", "data": "STRING"} {
		if got[name] != typ {
			t.Errorf("%s is %s, not %s", name, got[name], typ)
		}
	}
}
