package serve_test

import (
	"strings"
	"testing"

	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/serve"
)

func TestLoadListsEveryFault(t *testing.T) {
	t.Setenv("SLUICE_PROJECT_ID", "")
	t.Setenv("SLUICE_BUS", "kafka")
	t.Setenv("SLUICE_LOG_LEVEL", "loud")
	t.Setenv("SLUICE_RECEIVE", "push")
	t.Setenv("PUBSUB_EMULATOR_HOST", "")
	_, err := serve.Load()
	got := strings.Join(fault.Faults(err), "\n")
	for _, want := range []string{
		"SLUICE_PROJECT_ID is missing", "SLUICE_PIPELINES is missing", `SLUICE_BUS is "kafka"`, `SLUICE_LOG_LEVEL is "loud"`,
		"SLUICE_PUSH_AUDIENCE is missing", "SLUICE_PUSH_SERVICE_ACCOUNT is missing",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
}

func TestEmbeddedDriversAreRefused(t *testing.T) {
	t.Parallel()
	err := serve.Config{Bus: "local", State: "sqlite", Warehouse: "bigquery"}.CheckDrivers()
	got := strings.Join(fault.Faults(err), "\n")
	for _, want := range []string{"SLUICE_BUS=local works only inside sluice local", "SLUICE_STATE=sqlite works only inside sluice local"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
}
