// Package api is the API server: BackfillService over Connect and JSON, and POST /topics/{topic}. It owns
// nothing; it reads documents and publishes requests and controls.
package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"regexp"
	"sort"
	"strings"
	"time"

	"connectrpc.com/connect"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/bus"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/planner"
	"sluice.dev/pkg/preflight"
	"sluice.dev/pkg/state"
	pb "sluice.dev/proto/gen/sluice/v1"
	"sluice.dev/proto/gen/sluice/v1/sluicev1connect"
)

// Source is the source of the events that the API publishes.
const Source = "console"

// Server answers the API.
type Server struct {
	store  state.Store
	pub    bus.Publisher
	log    *slog.Logger
	now    func() time.Time
	before *preflight.Preflight
	topics map[string]bool // the topics that may be posted to
}

var _ sluicev1connect.BackfillServiceHandler = (*Server)(nil)

// New makes a server. The pipelines' adapter topics may be posted to, besides our own.
func New(store state.Store, pub bus.Publisher, before *preflight.Preflight, log *slog.Logger, now func() time.Time) *Server {
	s := &Server{store, pub, log, now, before, map[string]bool{
		event.TopicRequests: true, event.TopicControls: true, event.TopicCompletions: true,
	}}
	for _, p := range before.Planner.Pipelines {
		for i := range p.Phases {
			if a := p.Phases[i].Completions; a != nil {
				s.topics[a.Topic] = true
			}
		}
	}
	return s
}

// Handler is the whole HTTP surface.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	path, h := sluicev1connect.NewBackfillServiceHandler(s, connect.WithCodec(Codec{}), connect.WithReadMaxBytes(event.MaxBody))
	mux.Handle(path, h)
	mux.HandleFunc("POST /topics/{topic}", s.post)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	return mux
}

func newID() string {
	var b [6]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

var notInIDs = regexp.MustCompile(`[^a-z0-9-]+`)

// freshID names a backfill after its pipeline and the day.
func freshID(pipeline string, now time.Time) string {
	name := notInIDs.ReplaceAllString(strings.ToLower(pipeline), "-")
	if name == "" || name[0] < 'a' || name[0] > 'z' {
		name = "backfill-" + name
	}
	return strings.TrimRight(name[:min(len(name), 40)], "-") + "-" + now.UTC().Format("20060102") + "-" + newID()[:8]
}

// Submit implements the service.
func (s *Server) Submit(ctx context.Context, r *connect.Request[pb.BackfillRequested]) (*connect.Response[pb.SubmitResponse], error) {
	m := r.Msg
	if m.GetBackfillId() == "" {
		m.BackfillId = freshID(m.GetPipeline(), s.now())
	}
	req, bad := planner.Check(m)
	if bad == nil {
		old, err := s.store.Backfill(ctx, req.ID)
		if err == nil && old.State != backfill.StateRefused && !planner.Same(old.Request, req) {
			return nil, wire(fault.New(fault.Conflict, "the id %s is taken by a backfill that asks for something else: choose another backfill_id", req.ID))
		}
	}
	// A bad request is published too: the dispatcher puts its refusal on record.
	e := event.New(event.TypeRequested, Source, req.ID, s.now(), m, newID())
	if err := s.pub.Publish(ctx, event.TopicRequests, e); err != nil {
		return nil, wire(err)
	}
	if bad != nil {
		return nil, wire(bad)
	}
	return connect.NewResponse(&pb.SubmitResponse{BackfillId: req.ID}), nil
}

// Get implements the service.
func (s *Server) Get(ctx context.Context, r *connect.Request[pb.GetRequest]) (*connect.Response[pb.GetResponse], error) {
	b, err := s.store.Backfill(ctx, r.Msg.GetBackfillId())
	if err != nil {
		return nil, wire(err)
	}
	return connect.NewResponse(&pb.GetResponse{Backfill: present(b)}), nil
}

// List implements the service.
func (s *Server) List(ctx context.Context, r *connect.Request[pb.ListRequest]) (*connect.Response[pb.ListResponse], error) {
	all, err := s.store.ListBackfills(ctx)
	if err != nil {
		return nil, wire(err)
	}
	out := &pb.ListResponse{}
	for _, b := range all {
		if p := r.Msg.GetPipeline(); p == "" || p == b.Request.Pipeline {
			out.Backfills = append(out.Backfills, present(b))
		}
	}
	return connect.NewResponse(out), nil
}

// scope loads what is needed to judge a backfill's dates.
func (s *Server) scope(ctx context.Context, id string) (*backfill.Backfill, *backfill.Scope, error) {
	b, err := s.store.Backfill(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	if b.Dates.Len() == 0 {
		return b, nil, nil
	}
	p, err := s.store.Pipeline(ctx, b.Request.Pipeline, b.Version)
	if fault.Is(err, fault.NotFound) {
		return b, nil, nil // a dry run: planned, never started
	}
	if err != nil {
		return nil, nil, err
	}
	return b, backfill.NewScope(b, p), nil
}

func (s *Server) scan(ctx context.Context, sc *backfill.Scope, f func(backfill.Record) error) error {
	return s.store.ScanDates(ctx, sc.ID, sc.Dates.At(0).Date, sc.Dates.At(sc.Dates.Len()-1).Date, f)
}

// ListDates implements the service.
func (s *Server) ListDates(ctx context.Context, r *connect.Request[pb.ListDatesRequest]) (*connect.Response[pb.ListDatesResponse], error) {
	b, sc, err := s.scope(ctx, r.Msg.GetBackfillId())
	if err != nil {
		return nil, wire(err)
	}
	out := &pb.ListDatesResponse{}
	if sc != nil {
		err = s.scan(ctx, sc, func(rec backfill.Record) error {
			out.Dates = append(out.Dates, dateStatus(sc, &rec, b.State.Ended()))
			return nil
		})
	}
	return connect.NewResponse(out), wire(err)
}

// maxBlocks is how many of the cells that a failure blocks are listed; all are counted.
const maxBlocks = 20

// ListFailures implements the service.
func (s *Server) ListFailures(ctx context.Context, r *connect.Request[pb.ListFailuresRequest]) (*connect.Response[pb.ListFailuresResponse], error) {
	_, sc, err := s.scope(ctx, r.Msg.GetBackfillId())
	if err != nil {
		return nil, wire(err)
	}
	out := &pb.ListFailuresResponse{}
	if sc == nil {
		return connect.NewResponse(out), nil
	}
	blocked := backfill.NewBlocked(sc)
	err = s.scan(ctx, sc, func(rec backfill.Record) error {
		for _, f := range sc.Failures(&rec) {
			cell := backfill.Cell{Date: rec.Date, Phase: f.Phase}
			cells := blocked.By
			if _, check := backfill.CheckName(f.Processor); check {
				cells = blocked.ByCheck
			}
			blocks := cells(cell)
			one := &pb.Failure{
				Date: rec.Date.String(), Phase: f.Phase, Processor: f.Processor, Attempts: n32(f.Attempt - 1),
				LastError: f.LastError, Retryable: f.Retryable, BlocksTotal: n32(len(blocks)),
			}
			for _, c := range blocks[:min(len(blocks), maxBlocks)] {
				one.Blocks = append(one.Blocks, &pb.Cell{Date: c.Date.String(), Phase: c.Phase})
			}
			out.Failures = append(out.Failures, one)
		}
		return nil
	})
	return connect.NewResponse(out), wire(err)
}

// Watch implements the service.
func (s *Server) Watch(ctx context.Context, r *connect.Request[pb.WatchRequest], stream *connect.ServerStream[pb.WatchResponse]) error {
	id := r.Msg.GetBackfillId()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changes := make(chan state.Change, 64)
	watched := make(chan error, 1)
	go func() {
		watched <- s.store.Watch(ctx, id, func(c state.Change) {
			select {
			case changes <- c:
			case <-ctx.Done():
			}
		})
	}()
	b, sc, err := s.scope(ctx, id)
	if err != nil {
		return wire(err)
	}
	first := &pb.WatchResponse{Backfill: present(b)}
	if r.Msg.GetIncludeDates() && sc != nil {
		err := s.scan(ctx, sc, func(rec backfill.Record) error {
			first.Dates = append(first.Dates, dateStatus(sc, &rec, b.State.Ended()))
			return nil
		})
		if err != nil {
			return wire(err)
		}
	}
	if err := stream.Send(first); err != nil {
		return err
	}
	return s.follow(ctx, b, sc, r.Msg.GetIncludeDates(), changes, watched, stream)
}

// follow sends what changed, at most twice a second.
func (s *Server) follow(
	ctx context.Context, b *backfill.Backfill, sc *backfill.Scope, withDates bool,
	changes <-chan state.Change, watched <-chan error, stream *connect.ServerStream[pb.WatchResponse],
) error {
	pause := time.NewTicker(500 * time.Millisecond)
	defer pause.Stop()
	dates, dirty := map[backfill.Date]*pb.DateStatus{}, false
	for !b.State.Ended() || dirty {
		select {
		case <-ctx.Done():
			return wire(ctx.Err())
		case err := <-watched:
			return wire(err)
		case c := <-changes:
			if c.Backfill != nil {
				b, dirty = c.Backfill, true
			} else if withDates {
				dirty = true
				if sc == nil {
					var err error
					if _, sc, err = s.scope(ctx, b.ID); err != nil {
						return wire(err)
					}
				}
				if sc != nil {
					dates[c.Record.Date] = dateStatus(sc, c.Record, b.State.Ended())
				}
			}
		case <-pause.C:
			if !dirty {
				continue
			}
			msg := &pb.WatchResponse{Backfill: present(b)}
			for _, d := range dates {
				msg.Dates = append(msg.Dates, d)
			}
			sort.Slice(msg.GetDates(), func(i, j int) bool { return msg.GetDates()[i].GetDate() < msg.GetDates()[j].GetDate() })
			if err := stream.Send(msg); err != nil {
				return err
			}
			dates, dirty = map[backfill.Date]*pb.DateStatus{}, false
		}
	}
	return nil
}

// Control implements the service.
func (s *Server) Control(ctx context.Context, r *connect.Request[pb.BackfillControlled]) (*connect.Response[pb.ControlResponse], error) {
	if err := planner.CheckControl(r.Msg); err != nil {
		return nil, wire(err)
	}
	b, err := s.store.Backfill(ctx, r.Msg.GetBackfillId())
	if err != nil {
		return nil, wire(err)
	}
	if why := b.State.Refuses(r.Msg.GetAction()); why != "" {
		return nil, wire(fault.New(fault.Refused, "%s", why))
	}
	if r.Msg.GetAction() == "resume" && b.OverBudget() != "" {
		return nil, wire(fault.New(fault.Refused, "%s", b.OverBudget()))
	}
	if r.Msg.GetAction() == "rollback" {
		if _, err := s.planRollback(ctx, b, r.Msg); err != nil {
			return nil, wire(err)
		}
	}
	if r.Msg.GetAction() == "limit" {
		p, err := s.store.Pipeline(ctx, b.Request.Pipeline, b.Version)
		if err != nil {
			return nil, wire(err)
		}
		if err := planner.CheckLimits(p, planner.Limits(r.Msg.GetLimits())); err != nil {
			return nil, wire(err)
		}
	}
	e := event.New(event.TypeControlled, Source, b.ID, s.now(), r.Msg, newID())
	if err := s.pub.Publish(ctx, event.TopicControls, e); err != nil {
		return nil, wire(err)
	}
	return connect.NewResponse(&pb.ControlResponse{Backfill: present(b)}), nil
}

// post is POST /topics/{topic}. A request that cannot be read is published all the same, so that its
// refusal is on record.
func (s *Server) post(w http.ResponseWriter, r *http.Request) {
	topic := r.PathValue("topic")
	if !s.topics[topic] {
		http.Error(w, "no topic "+topic+" takes messages here", http.StatusNotFound)
		return
	}
	e, err := event.FromHTTP(r, topic, newID(), s.now())
	if err != nil {
		s.fail(w, err)
		return
	}
	bad := e.Err()
	if m, ok := e.Data.(*pb.BackfillRequested); ok {
		_, bad = planner.Check(m)
	}
	if m, ok := e.Data.(*pb.BackfillControlled); ok {
		bad = planner.CheckControl(m)
	}
	if bad == nil || topic == event.TopicRequests {
		if err := s.pub.Publish(r.Context(), topic, e); err != nil {
			s.fail(w, err)
			return
		}
	}
	if bad != nil {
		s.fail(w, bad)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) fail(w http.ResponseWriter, err error) {
	status := http.StatusServiceUnavailable
	if fault.Is(err, fault.Invalid) {
		status = http.StatusBadRequest
	} else {
		s.log.Error("cannot take a message", "error", err)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	for _, f := range fault.Faults(err) {
		_, _ = w.Write([]byte(f + "\n")) //nolint:gosec // plain text that browsers may not take for anything else
	}
}

// wire maps kinds of errors to Connect's codes.
func wire(err error) error {
	if err == nil {
		return nil
	}
	code := connect.CodeInternal
	switch fault.KindOf(err) {
	case fault.Invalid:
		code = connect.CodeInvalidArgument
	case fault.NotFound:
		code = connect.CodeNotFound
	case fault.Conflict:
		code = connect.CodeAlreadyExists
	case fault.Fenced, fault.Unavailable:
		code = connect.CodeUnavailable
	case fault.Refused:
		code = connect.CodeFailedPrecondition
	case fault.Unsupported:
		code = connect.CodeUnimplemented
	case fault.Unknown:
	}
	if errors.Is(err, context.Canceled) {
		code = connect.CodeCanceled
	}
	return connect.NewError(code, err)
}
