// Package command is the sluice command line.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/protobuf/proto"

	"sluice.dev/pkg/event"
	"sluice.dev/pkg/fault"
	"sluice.dev/proto/gen/sluice/v1/sluicev1connect"
	"sluice.dev/services/console/api"
)

// IO is where a command reads and writes.
type IO struct {
	In       io.Reader
	Out, Err io.Writer
}

// exit is an error with an exit code of its own; without a message nothing is printed for it.
type exit struct {
	code int
	err  error
}

func (e exit) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit %d", e.code)
	}
	return e.err.Error()
}

// app is what all commands share.
type app struct {
	IO
	server string
	output string
}

// Run runs a command line and returns its exit code.
func Run(ctx context.Context, args []string, streams IO) int {
	a := &app{IO: streams}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(streams.In)
	root.SetOut(streams.Out)
	root.SetErr(streams.Err)
	err := root.ExecuteContext(ctx)
	var ex exit
	switch {
	case err == nil:
		return 0
	case errors.As(err, &ex):
		if ex.err != nil {
			a.complain(ex.err)
		}
		return ex.code
	default:
		a.complain(err)
		return 1
	}
}

// complain writes one line per fault.
func (a *app) complain(err error) {
	var ce *connect.Error
	if errors.As(err, &ce) {
		if ce.Code() == connect.CodeUnavailable && strings.Contains(ce.Message(), "dial") {
			err = fmt.Errorf("no answer from %s: %s: start one with sluice local, or name another with --server", a.server, ce.Message())
		} else {
			err = errors.New(ce.Message())
		}
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, one := range joined.Unwrap() {
			a.complain(one)
		}
		return
	}
	for _, f := range fault.Faults(err) {
		_, _ = fmt.Fprintf(a.Err, "sluice: %s\n", f)
	}
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use: "sluice", Short: "Backfill phased, date-partitioned data pipelines", SilenceUsage: true, SilenceErrors: true,
	}
	server := os.Getenv("SLUICE_SERVER")
	if server == "" {
		server = "http://127.0.0.1:8080"
	}
	root.PersistentFlags().StringVar(&a.server, "server", server, "URL of the API server (env SLUICE_SERVER)")
	root.PersistentFlags().StringVarP(&a.output, "output", "o", "text", "text or json")
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		if a.output != "text" && a.output != "json" {
			return fmt.Errorf("--output %s: unknown form: use text or json", a.output)
		}
		a.server = strings.TrimRight(a.server, "/")
		return nil
	}
	root.AddCommand(a.local(), a.pipeline(), a.plan(), a.simulate(), a.preflight(), a.submit(), a.status(), a.watch(), a.failures(), a.events(),
		a.verify(), a.report(), a.rollback())
	for _, action := range []struct{ name, short string }{
		{"pause", "Let work in flight end and start nothing new"}, {"resume", "Go on after a pause"},
		{"cancel", "Stop for good: end calls in flight and start nothing new"},
		{"retry", "Grant failed processors new attempts"}, {"waive", "Let the gates pass processors that will not succeed"},
		{"limit", "Change the limits or the budget of a running backfill"},
		{"release", "Free dates that an ended backfill still owns"},
		{"forget", "Remove the documents of an ended backfill; its journal stays"},
	} {
		root.AddCommand(a.control(action.name, action.short))
	}
	return root
}

// client talks to the API server.
func (a *app) client() sluicev1connect.BackfillServiceClient {
	return sluicev1connect.NewBackfillServiceClient(a.http(), a.server, connect.WithCodec(api.Codec{}))
}

func (a *app) http() *http.Client {
	return &http.Client{Transport: &http.Transport{IdleConnTimeout: time.Second}}
}

func (a *app) json(m proto.Message) error {
	b, err := event.Marshal(m)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.Out, "%s\n", b)
	return err
}

// terminal says whether a stream is a terminal.
func terminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
