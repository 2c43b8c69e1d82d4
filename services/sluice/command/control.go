package command

import (
	"context"
	"fmt"
	"os/user"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	pb "sluice.dev/proto/gen/sluice/v1"
)

// controlCommand is what all controls share; RunE publishes the control.
func (a *app) controlCommand(action, short string) (*cobra.Command, *pb.BackfillControlled, *bool) {
	m := &pb.BackfillControlled{Action: action}
	wait := new(bool)
	cmd := &cobra.Command{
		Use: action + " ID", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			asked(m, args[0])
			return a.runControl(cmd.Context(), m, *wait)
		},
	}
	cmd.Flags().StringVar(&m.Reason, "reason", "", "why, for the record")
	cmd.Flags().StringVar(&m.RequestedBy, "by", "", "who, for the record; default: you")
	cmd.Flags().BoolVar(wait, "wait", false, "wait until it has taken effect")
	return cmd, m, wait
}

// asked says of a control which backfill it is for, and who asks.
func asked(m *pb.BackfillControlled, id string) {
	m.BackfillId = id
	if u, err := user.Current(); err == nil && m.GetRequestedBy() == "" {
		m.RequestedBy = u.Username
	}
}

func (a *app) control(action, short string) *cobra.Command {
	cmd, m, _ := a.controlCommand(action, short)
	if action == "limit" {
		limits(cmd, m)
	}
	if action == "retry" || action == "waive" {
		cmd.Flags().StringSliceVar(&m.Dates, "dates", nil, "only these dates")
		cmd.Flags().StringSliceVar(&m.Processors, "processors", nil, "only these processors")
	}
	if action == "retry" {
		cmd.Flags().StringSliceVar(&m.Phases, "phases", nil, "only these phases")
	}
	if action == "waive" {
		cmd.Flags().StringVar(&m.Phase, "phase", "", "the phase of the processors")
	}
	return cmd
}

// limits adds the flags of sluice limit.
func limits(cmd *cobra.Command, m *pb.BackfillControlled) {
	var flags []string
	var budget float64
	cmd.Flags().StringArrayVar(&flags, "limit", nil, "PHASE.max_processors=N or PHASE.max_dates=N, may be given again; 0 is the pipeline's own")
	cmd.Flags().Float64Var(&budget, "budget-usd", 0, "what the backfill may spend")
	cmd.MarkFlagsOneRequired("limit", "budget-usd")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if cmd.Flags().Changed("budget-usd") {
			m.BudgetUsd = &budget
		}
		parsed, err := parseLimits(flags)
		if err != nil {
			return err
		}
		m.Limits = map[string]*pb.PhaseLimits{}
		for name, v := range parsed {
			phase, field, _ := strings.Cut(name, ".")
			if m.GetLimits()[phase] == nil {
				m.Limits[phase] = new(pb.PhaseLimits)
			}
			switch n := int32(v); {
			case float64(n) != v || n < 0:
				return fmt.Errorf("--limit %s=%v: it must be a whole number, not below zero", name, v)
			case field == "max_processors":
				m.Limits[phase].MaxProcessors = n
			case field == "max_dates":
				m.Limits[phase].MaxDates = n
			default:
				return fmt.Errorf("--limit %s: there is no such limit: use PHASE.max_processors or PHASE.max_dates", name)
			}
		}
		return nil
	}
}

// settled are the states that show that an action has taken effect.
func settled(m *pb.BackfillControlled, before *pb.Backfill, now *pb.Backfill) bool {
	state := now.GetState()
	switch m.GetAction() {
	case "pause":
		return state == "paused" || ended(state)
	case "resume":
		return state == "active" || ended(state)
	case "cancel":
		return ended(state)
	case "rollback":
		return rolledBack(m, before, now)
	case "release":
		return true
	case "limit":
		if m.BudgetUsd != nil && now.GetBudgetUsd() != m.GetBudgetUsd() {
			return ended(state)
		}
		for phase, l := range m.GetLimits() {
			if got := now.GetLimits()[phase]; got.GetMaxDates() != l.GetMaxDates() || got.GetMaxProcessors() != l.GetMaxProcessors() {
				return ended(state)
			}
		}
		return true
	default: // retry and waive reopen an ended backfill, or leave a notice
		return !ended(before.GetState()) || !ended(state) || len(now.GetNotices()) > len(before.GetNotices()) ||
			!now.GetFinishedAt().AsTime().Equal(before.GetFinishedAt().AsTime())
	}
}

// rolledBack says that the newest rollback is a new one, or one that goes on, and has come to its end.
func rolledBack(m *pb.BackfillControlled, before, now *pb.Backfill) bool {
	want := "deleted"
	if m.GetUndo() {
		want = "restored"
	}
	tables := now.GetRollback()
	for _, t := range tables {
		if t.GetState() != want {
			return false
		}
	}
	return len(tables) > 0 && (m.GetUndo() || len(before.GetRollback()) == 0 || before.GetRollback()[0].GetSnapshot() != tables[0].GetSnapshot() ||
		before.GetRollback()[len(tables)-1].GetState() != want)
}

func ended(state string) bool {
	return state == "completed" || state == "incomplete" || state == "cancelled" || state == "refused"
}

func (a *app) runControl(ctx context.Context, m *pb.BackfillControlled, wait bool) error {
	answer, err := a.client().Control(ctx, connect.NewRequest(m))
	if err != nil {
		return err
	}
	before, now := answer.Msg.GetBackfill(), answer.Msg.GetBackfill()
	for pause := 10 * time.Millisecond; wait && !settled(m, before, now); pause = min(2*pause, 500*time.Millisecond) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		got, err := a.client().Get(ctx, connect.NewRequest(&pb.GetRequest{BackfillId: m.GetBackfillId()}))
		if m.GetAction() == "forget" && connect.CodeOf(err) == connect.CodeNotFound {
			break
		}
		if err != nil {
			return err
		}
		now = got.Msg.GetBackfill()
		if n := len(now.GetNotices()); n > len(before.GetNotices()) {
			return fmt.Errorf("%s %s: %s", m.GetAction(), m.GetBackfillId(), now.GetNotices()[n-1])
		}
	}
	if a.output == "json" {
		return a.json(&pb.ControlResponse{Backfill: now})
	}
	text := "%s: %s has taken effect: %s\n"
	if !wait {
		text = "%s: %s is asked for; when it was asked, the backfill was %s\n"
	}
	_, err = fmt.Fprintf(a.Out, text, m.GetBackfillId(), m.GetAction(), now.GetState())
	return err
}
