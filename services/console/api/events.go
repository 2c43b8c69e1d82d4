package api

import (
	"context"

	"connectrpc.com/connect"

	pb "sluice.dev/proto/gen/sluice/v1"
)

// Events implements the service. The journal outlives the documents: a backfill without either is unknown.
func (s *Server) Events(ctx context.Context, r *connect.Request[pb.EventsRequest], stream *connect.ServerStream[pb.EventsResponse]) error {
	id := r.Msg.GetBackfillId()
	sent := 0
	err := s.before.Planner.Warehouse.Events(ctx, id, func(e *pb.BackfillEvent) error {
		sent++
		return stream.Send(&pb.EventsResponse{Event: e})
	})
	if err != nil {
		return wire(err)
	}
	if sent > 0 {
		return nil
	}
	if _, err := s.store.Backfill(ctx, id); err != nil {
		return wire(err)
	}
	return nil
}
