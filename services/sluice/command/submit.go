package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/user"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"sluice.dev/pkg/event"
	pb "sluice.dev/proto/gen/sluice/v1"
)

// verdictWithin is how long submit waits to hear whether a request was taken.
const verdictWithin = 30 * time.Second

func (a *app) submit() *cobra.Command {
	var file string
	var watch bool
	cmd := &cobra.Command{
		Use: "submit -f REQUEST", Short: "Ask for a backfill", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			data, err := a.read(file)
			if err != nil {
				return err
			}
			req := new(pb.BackfillRequested)
			if err := event.Unmarshal(data, req); err != nil {
				return errors.Join(err, a.record(cmd.Context(), data))
			}
			return a.runSubmit(cmd.Context(), req, watch)
		},
	}
	requestFlag(cmd, &file)
	cmd.Flags().BoolVar(&watch, "watch", false, "watch it to its end")
	return cmd
}

func (a *app) read(file string) ([]byte, error) {
	var data []byte
	var err error
	if file == "-" {
		data, err = io.ReadAll(a.In)
	} else {
		data, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the request: %w", err)
	}
	return data, nil
}

// record publishes a request that cannot be read, so that its refusal shows in status like any other.
func (a *app) record(ctx context.Context, data []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.server+"/topics/"+event.TopicRequests, bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("recording the refusal: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := a.http().Do(req)
	if err != nil {
		return fmt.Errorf("recording the refusal: %w", err)
	}
	return resp.Body.Close()
}

func (a *app) runSubmit(ctx context.Context, req *pb.BackfillRequested, watch bool) error {
	if u, err := user.Current(); err == nil && req.GetRequestedBy() == "" {
		req.RequestedBy = u.Username
	}
	var before *pb.Backfill // a refusal that this request may replace
	if req.GetBackfillId() != "" {
		if got, err := a.client().Get(ctx, connect.NewRequest(&pb.GetRequest{BackfillId: req.GetBackfillId()})); err == nil && got.Msg.GetBackfill().GetState() == "refused" {
			before = got.Msg.GetBackfill()
		}
	}
	answer, err := a.client().Submit(ctx, connect.NewRequest(req))
	if err != nil {
		return err
	}
	id := answer.Msg.GetBackfillId()
	b, err := a.verdict(ctx, id, before)
	if err != nil {
		return err
	}
	if b.GetState() == "refused" {
		for _, f := range b.GetFaults() {
			a.complain(fmt.Errorf("%s: refused: %s", id, f))
		}
		return exit{code: 1}
	}
	for _, n := range b.GetNotices() {
		a.complain(fmt.Errorf("%s: note: %s", id, n))
	}
	if a.output == "json" {
		if err := a.json(answer.Msg); err != nil {
			return err
		}
	} else if _, err := fmt.Fprintln(a.Out, id); err != nil {
		return err
	}
	if watch {
		return a.runWatch(ctx, id)
	}
	return nil
}

// verdict waits until a request was either taken or refused; an earlier refusal of the same id is no verdict on it.
func (a *app) verdict(ctx context.Context, id string, before *pb.Backfill) (*pb.Backfill, error) {
	deadline := time.Now().Add(verdictWithin)
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		answer, err := a.client().Get(ctx, connect.NewRequest(&pb.GetRequest{BackfillId: id}))
		if err != nil && connect.CodeOf(err) != connect.CodeNotFound {
			return nil, err
		}
		var b *pb.Backfill
		if err == nil {
			b = answer.Msg.GetBackfill()
		}
		if b != nil && b.GetState() != "planning" && (before == nil || !b.GetCreatedAt().AsTime().Equal(before.GetCreatedAt().AsTime())) {
			return b, nil
		}
		if time.Now().After(deadline) {
			return nil, errors.New(id + ": no verdict within " + verdictWithin.String() + ": the request is published; ask again with sluice status " + id)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
		}
	}
}
