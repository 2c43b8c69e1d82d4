package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/pipeline"
	"sluice.dev/services/sluice/local"
	"sluice.dev/services/sluice/platform"
)

type localFlags struct {
	listen    string
	data      string
	pipelines []string
	demo      bool
	speed     float64
	seed      uint64
	faults    float64
	damage    string
	mute      string
	keep      time.Duration
	verbose   bool
}

func (a *app) local() *cobra.Command {
	var f localFlags
	cmd := &cobra.Command{
		Use: "local", Short: "Run all of Sluice in this process, on embedded storage", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runLocal(cmd.Context(), f) },
	}
	home, _ := os.UserHomeDir()
	cmd.Flags().StringVar(&f.listen, "listen", "127.0.0.1:8080", "address to listen on (env PORT overrides the port)")
	cmd.Flags().StringVar(&f.data, "data", filepath.Join(home, ".sluice"), "directory that keeps everything")
	cmd.Flags().StringArrayVar(&f.pipelines, "pipeline", nil, "pipeline file; may be repeated")
	cmd.Flags().BoolVar(&f.demo, "demo", false, "also run an example platform, as pipeline nba")
	cmd.Flags().Float64Var(&f.speed, "speed", 50, "how many times faster than the real one the example platform is")
	cmd.Flags().Uint64Var(&f.seed, "seed", 1, "seed of the example platform's troubles")
	cmd.Flags().Float64Var(&f.faults, "faults", -1, "share of attempts that fail on the example platform; below 0 some fail, hang, are cut off or turned away")
	cmd.Flags().StringVar(&f.damage, "damage", "", "what is wrong with the data of the example platform: half_players, huge_points, null_keys or half_season")
	cmd.Flags().StringVar(&f.mute, "mute", "", "a phase whose processors report nothing on the example platform, so that their outcomes are adopted from its history")
	cmd.Flags().DurationVar(&f.keep, "keep", 90*24*time.Hour, "how long the documents of ended backfills are kept; 0 for ever")
	cmd.Flags().BoolVarP(&f.verbose, "verbose", "v", false, "log more to stderr")
	return cmd
}

func (a *app) runLocal(ctx context.Context, f localFlags) (err error) {
	level := slog.LevelWarn
	if f.verbose {
		level = slog.LevelInfo
	}
	log := slog.New(slog.NewJSONHandler(a.Err, &slog.HandlerOptions{Level: level}))
	pipelines := map[string]*backfill.Pipeline{}
	for _, file := range f.pipelines {
		p, err := pipeline.Load(file, nil)
		if err != nil {
			return err
		}
		if pipelines[p.Name] != nil {
			return fault.New(fault.Invalid, "%s: pipeline %q was given twice: leave one out", file, p.Name)
		}
		pipelines[p.Name] = p
	}
	var demo *local.Demo
	if f.demo {
		faults := platform.DefaultFaults()
		if f.faults >= 0 {
			faults = platform.Faults{Fail: f.faults}
		}
		if demo, err = local.NewDemo(ctx, f.speed, f.seed, local.Trouble{Faults: faults, Damage: platform.Damage(f.damage), Mute: f.mute}, log); err != nil {
			return err
		}
		if pipelines[demo.Pipeline.Name] != nil {
			return fault.New(fault.Invalid, "pipeline %q is the example platform's: leave --demo or the file out", demo.Pipeline.Name)
		}
		pipelines[demo.Pipeline.Name] = demo.Pipeline
		defer demo.Close()
	}
	if len(pipelines) == 0 {
		return fault.New(fault.Invalid, "no pipeline: give a file with --pipeline, or try the example with --demo")
	}
	if err := credentials(pipelines, f.demo); err != nil {
		return err
	}
	return a.serveLocal(ctx, f, pipelines, demo, log)
}

// credentials refuses pipelines that this process cannot call: it has no Google identity.
func credentials(pipelines map[string]*backfill.Pipeline, demo bool) error {
	var faults fault.List
	for _, p := range pipelines {
		for i := range p.Phases {
			if h := p.Phases[i].Trigger.HTTP; h != nil && h.Auth == "oidc" && !demo {
				faults.Addf("pipeline %s: phase %s wants auth: oidc, for which sluice local has no Google identity: use auth: none", p.Name, p.Phases[i].ID)
			}
		}
	}
	return faults.Err()
}

func (a *app) serveLocal(ctx context.Context, f localFlags, pipelines map[string]*backfill.Pipeline, demo *local.Demo, log *slog.Logger) (err error) {
	address := f.listen
	if port := os.Getenv("PORT"); port != "" {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return fmt.Errorf("--listen %s: %w: write it as host:port", address, err)
		}
		address = net.JoinHostPort(host, port)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listening on %s: %w: choose another with --listen", address, err)
	}
	defer listener.Close()
	l, err := local.Open(ctx, local.Options{DataDir: f.data, Pipelines: pipelines, Log: log, Keep: f.keep})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	url := "http://" + listener.Addr().String()
	if demo != nil {
		if err := demo.Start(ctx, l, url); err != nil {
			return err
		}
	}
	_, _ = fmt.Fprintf(a.Out, "sluice is ready at %s\n", url)
	return l.Serve(ctx, listener)
}
