package local

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed" // for the pipeline file
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/pipeline"
	"sluice.dev/services/sluice/platform"
)

// nbaFile is deploy/pipelines/nba/pipeline.yaml, copied here by make generate because a program can only
// carry files of its own module.
//
//go:embed nba.yaml
var nbaFile []byte

// NBA is the text of the NBA pipeline.
func NBA() string { return string(nbaFile) }

// Demo is the example platform with its own HTTP listener.
type Demo struct {
	Pipeline *backfill.Pipeline
	platform *platform.Platform
	server   *http.Server
	listener net.Listener
	speed    float64
	seed     uint64
	faults   platform.Faults
	damage   platform.Damage
	mute     string
	log      *slog.Logger
}

// Trouble is what is wrong with the example platform.
type Trouble struct {
	Faults platform.Faults
	Damage platform.Damage
	// Mute is a phase whose processors report nothing: the pipeline adopts their outcomes from the history.
	Mute string
}

// NewDemo listens on a free port and makes the pipeline that leads there, scaled to the speed.
func NewDemo(ctx context.Context, speed float64, seed uint64, trouble Trouble, log *slog.Logger) (*Demo, error) {
	if trouble.Damage != platform.NoDamage && !slices.Contains(platform.Damages(), trouble.Damage) {
		return nil, fault.New(fault.Invalid, "unknown damage %q: use one of %v", trouble.Damage, platform.Damages())
	}
	if speed <= 0 {
		return nil, fault.New(fault.Invalid, "the speed is %v: it must be above zero", speed)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening for the example platform: %w", err)
	}
	url := "http://" + listener.Addr().String()
	p, err := pipeline.Parse("nba.yaml", nbaFile, func(string) (string, bool) { return url, true })
	if err != nil {
		return nil, fmt.Errorf("reading the built-in pipeline: %w", err)
	}
	if ph, ok := p.Phase(trouble.Mute); ok {
		ph.Adopt, ph.Completions = true, nil
	} else if trouble.Mute != "" {
		return nil, fault.New(fault.Invalid, "the example pipeline has no phase %q", trouble.Mute)
	}
	return &Demo{Pipeline: platform.Scale(p, speed), listener: listener, speed: speed, seed: seed, faults: trouble.Faults, damage: trouble.Damage, mute: trouble.Mute, log: log}, nil
}

// Start fills the tables and serves the platform, which reports to the API at apiURL.
func (d *Demo) Start(ctx context.Context, l *Local, apiURL string) error {
	tables, err := platform.OpenTables(ctx, l.Warehouse())
	if err != nil {
		return err
	}
	tables.Damage = d.damage
	d.platform = platform.New(platform.Options{
		Speed: d.speed, Seed: d.seed, Faults: d.faults, Tables: tables, Mute: d.mute, Log: d.log, Report: PostTo(apiURL),
	})
	d.server = &http.Server{Handler: d.platform.Handler(), ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	go func() { _ = d.server.Serve(d.listener) }()
	return nil
}

// Close stops the platform.
func (d *Demo) Close() {
	if d.server != nil {
		_ = d.server.Close()
		d.platform.Close()
	}
}

// PostTo reports completions to an API server's POST /topics/{topic}.
func PostTo(apiURL string) func(ctx context.Context, topic string, body []byte) error {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256, IdleConnTimeout: 30 * time.Second}}
	return func(ctx context.Context, topic string, body []byte) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, apiURL+"/topics/"+topic, bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Idempotency-Key", fmt.Sprintf("%x", sha256.Sum256(body))) // a report that is repeated is one
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusNoContent {
			return fmt.Errorf("topic %s answered %s", topic, resp.Status)
		}
		return nil
	}
}
