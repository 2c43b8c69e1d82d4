// Command emulators starts Google's Pub/Sub and Firestore emulators and a BigQuery emulator on free ports of
// 127.0.0.1, and stops them when it ends. With a command after --, it runs that with the emulators'
// addresses in its environment and ends with its exit code; without one it prints them and waits for a signal.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"runtime/metrics"
	"strings"
	"syscall"
	"time"

	"github.com/goccy/bigquery-emulator/server"
)

func main() { os.Exit(run()) }

func run() int {
	project := flag.String("project", "sluice-local", "project id")
	quiet := flag.Bool("quiet", false, "do not print the environment")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	e := &emulators{project: *project}
	defer e.stop()
	if err := e.start(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "emulators:", err)
		return 1
	}
	if !*quiet {
		for _, v := range e.env {
			fmt.Println("export " + v)
		}
	}
	if flag.NArg() == 0 {
		<-ctx.Done()
		return 0
	}
	return e.command(ctx, flag.Args())
}

type emulators struct {
	project  string
	env      []string
	commands []*exec.Cmd
	bigquery *server.Server
	pubsub   *http.Server
}

// command runs a program until it or ctx ends.
func (e *emulators) command(ctx context.Context, args []string) int {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...) //nolint:gosec // the caller's own
	cmd.Env = append(os.Environ(), e.env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 15 * time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	default:
		fmt.Fprintln(os.Stderr, "emulators:", err)
		return 1
	}
}

func (e *emulators) start(ctx context.Context) error {
	pubsub, err := freeAddress(ctx)
	if err != nil {
		return err
	}
	firestore, err := freeAddress(ctx)
	if err != nil {
		return err
	}
	bigquery, err := freeAddress(ctx)
	if err != nil {
		return err
	}
	for _, args := range [][]string{
		{"beta", "emulators", "pubsub", "start", "--host-port=" + pubsub, "--project=" + e.project},
		{"emulators", "firestore", "start", "--host-port=" + firestore},
	} {
		if err := e.gcloud(args); err != nil {
			return err
		}
	}
	if err := e.startBigQuery(ctx, bigquery); err != nil {
		return err
	}
	for name, address := range map[string]string{"Pub/Sub": pubsub, "Firestore": firestore, "BigQuery": bigquery} {
		if err := answers(ctx, address); err != nil {
			return fmt.Errorf("the %s emulator is not ready: %w", name, err)
		}
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listening for Pub/Sub: %w", err)
	}
	e.pubsub = halfClose(listener, pubsub)
	e.env = []string{
		"PUBSUB_EMULATOR_HOST=" + listener.Addr().String(), "FIRESTORE_EMULATOR_HOST=" + firestore, "BIGQUERY_EMULATOR_HOST=http://" + bigquery,
		"SLUICE_PROJECT_ID=" + e.project,
	}
	return nil
}

// gcloud starts an emulator in a process group of its own, because gcloud leaves its Java process behind.
func (e *emulators) gcloud(args []string) error {
	cmd := exec.Command("gcloud", args...) //nolint:gosec,noctx // stop ends it
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	log, err := os.CreateTemp("", "sluice-emulator-*.log")
	if err != nil {
		return fmt.Errorf("making a log file: %w", err)
	}
	defer log.Close()
	_ = os.Remove(log.Name()) // it lives as long as the emulator writes to it
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting gcloud %s: %w", strings.Join(args[:3], " "), err)
	}
	e.commands = append(e.commands, cmd)
	return nil
}

func (e *emulators) startBigQuery(ctx context.Context, address string) error {
	s, err := server.New(server.TempStorage)
	if err != nil {
		return fmt.Errorf("making the BigQuery emulator: %w", err)
	}
	if err := s.SetProject(e.project); err != nil {
		return fmt.Errorf("making the BigQuery project: %w", err)
	}
	grpc, err := freeAddress(ctx)
	if err != nil {
		return err
	}
	e.bigquery = s
	go sweep(ctx)
	go func() { _ = s.Serve(ctx, address, grpc) }()
	return nil
}

func (e *emulators) stop() {
	for _, cmd := range e.commands {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
	}
	for _, cmd := range e.commands {
		ended := make(chan struct{})
		go func() { _ = cmd.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
		}
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	if e.pubsub != nil {
		_ = e.pubsub.Close()
	}
	if e.bigquery != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		_ = e.bigquery.Stop(ctx)
	}
}

// sweep has what the analyzer of queries holds in its own memory, which Go's collector does not see, freed soon: beyond
// 2 GiB, which it reaches after some hundred statements, it fails. A collection takes long, so there is one only after
// some work.
func sweep(ctx context.Context) {
	const work = 500_000 // objects, about twenty statements
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:objects"}}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for last := uint64(0); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		metrics.Read(sample)
		if now := sample[0].Value.Uint64(); now-last > work {
			last = now
			runtime.GC()
		}
	}
}

func freeAddress(ctx context.Context) (string, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("looking for a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

// answers waits until something speaks HTTP on the address; all three emulators do.
func answers(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			return resp.Body.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("nothing answers on %s within 90 s: %w", address, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}
