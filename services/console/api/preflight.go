package api

import (
	"context"

	"connectrpc.com/connect"

	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/planner"
	"sluice.dev/pkg/preflight"
	pb "sluice.dev/proto/gen/sluice/v1"
)

// Preflight implements the service. A request with faults of its own is a preflight that fails, not an error.
func (s *Server) Preflight(ctx context.Context, r *connect.Request[pb.BackfillRequested]) (*connect.Response[pb.PreflightResponse], error) {
	req, bad := planner.Check(r.Msg)
	if req.ID == "" {
		req.ID = freshID(req.Pipeline, s.now())
	}
	var findings []preflight.Finding
	for _, f := range fault.Faults(bad) {
		findings = append(findings, preflight.Finding{Check: "request", Result: preflight.Failed, Detail: f})
	}
	if bad == nil {
		checked, err := s.before.Request(ctx, req, s.now())
		if err != nil {
			return nil, wire(err)
		}
		findings = checked.Findings
	}
	out := &pb.PreflightResponse{Passed: preflight.Faults(findings) == nil}
	for _, f := range findings {
		out.Findings = append(out.Findings, &pb.Finding{Check: f.Check, Result: string(f.Result), Detail: f.Detail, Do: f.Do})
	}
	return connect.NewResponse(out), nil
}
