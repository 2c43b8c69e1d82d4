package serve_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

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

func TestAProgramThatDoesNotStopIsLeft(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	stuck := make(chan struct{})
	defer close(stuck)
	cancel()
	began := time.Now()
	if err := serve.Within(ctx, 20*time.Millisecond, slog.New(slog.DiscardHandler), func() error { <-stuck; return nil }); err != nil || time.Since(began) > 5*time.Second {
		t.Errorf("%v after %s", err, time.Since(began))
	}
	broken := errors.New("broken")
	if err := serve.Within(t.Context(), time.Hour, slog.New(slog.DiscardHandler), func() error { return broken }); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}
