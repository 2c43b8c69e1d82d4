package command

import (
	"context"
	"fmt"
	"strings"

	tea "charm.land/bubbletea/v2"

	pb "sluice.dev/proto/gen/sluice/v1"
)

// view is the live picture of a backfill: a bar per phase and a map of dates and phases.
type view struct {
	b      *pb.Backfill
	dates  map[string]*pb.DateStatus
	order  []string
	width  int
	closed bool
	err    error
}

type ending struct{ err error }

// live draws until the backfill has ended or the user leaves; leaving does not stop the backfill.
func (a *app) live(ctx context.Context, id string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	program := tea.NewProgram(&view{dates: map[string]*pb.DateStatus{}, width: 100}, tea.WithContext(ctx), tea.WithOutput(a.Out), tea.WithInput(a.In))
	go func() {
		_, err := a.follow(ctx, id, true, func(m *pb.WatchResponse) error { program.Send(m); return nil })
		program.Send(ending{err})
	}()
	model, err := program.Run()
	if err != nil {
		return err
	}
	v, ok := model.(*view)
	switch {
	case !ok || v.err != nil:
		return v.err
	case v.closed:
		_, _ = fmt.Fprintf(a.Out, "%s goes on: watch it again with sluice watch %s\n", id, id)
		return nil
	default:
		return verdictOf(v.b)
	}
}

// Init implements tea.Model.
func (v *view) Init() tea.Cmd { return nil }

// Update implements tea.Model.
func (v *view) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		v.width = msg.Width
	case tea.KeyPressMsg:
		if s := msg.String(); s == "q" || s == "ctrl+c" || s == "esc" {
			v.closed = true
			return v, tea.Quit
		}
	case *pb.WatchResponse:
		v.b = msg.GetBackfill()
		for _, d := range msg.GetDates() {
			if v.dates[d.GetDate()] == nil {
				v.order = insert(v.order, d.GetDate())
			}
			v.dates[d.GetDate()] = d
		}
	case ending:
		v.err = msg.err
		return v, tea.Quit
	}
	return v, nil
}

func insert(sorted []string, s string) []string {
	i := len(sorted)
	for i > 0 && sorted[i-1] > s {
		i--
	}
	return append(sorted[:i], append([]string{s}, sorted[i:]...)...)
}

// View implements tea.Model.
func (v *view) View() tea.View { return tea.NewView(v.text()) }

// marks are the map's signs for the states of a phase on a date.
var marks = map[string]string{
	"none": " ", "waiting": "·", "running": "▒", "complete": "█", "failed": "✗", "blocked": "□",
}

func (v *view) text() string {
	if v.b == nil {
		return "waiting for news …\n"
	}
	var s strings.Builder
	b := v.b
	_, _ = fmt.Fprintf(&s, "%s  %s  %s\n\n", b.GetId(), b.GetPipeline(), b.GetState())
	const bar = 40
	for _, p := range b.GetPhases() {
		n, total := int(done(p)), max(1, int(p.GetRuns().GetTotal()))
		full := n * bar / total
		_, _ = fmt.Fprintf(&s, "%-22s %s%s %6d/%d  in flight %d  retrying %d  failed %d\n", p.GetId(), strings.Repeat("█", full),
			strings.Repeat("░", bar-full), n, p.GetRuns().GetTotal(), p.GetRuns().GetInFlight(), p.GetRuns().GetRetrying(), p.GetRuns().GetExhausted())
	}
	_, _ = fmt.Fprintf(&s, "\ndates %d/%d  %.1f runs/s  retries %d  throttles %d  %s%s\n", b.GetDates().GetComplete(), b.GetDates().GetTotal(),
		b.GetRatePerSecond(), b.GetRetries(), b.GetThrottles(), spending(b), eta(b))
	if notices := b.GetNotices(); len(notices) > 0 {
		_, _ = fmt.Fprintf(&s, "note: %s\n", notices[len(notices)-1])
	}
	s.WriteString("\n")
	v.dateMap(&s)
	s.WriteString("\n█ complete  ▒ running  · waiting  ✗ failed  □ blocked     q leaves; the backfill goes on\n")
	return s.String()
}

// dateMap draws a row per phase and a column per date, in as many blocks as the width asks for.
func (v *view) dateMap(s *strings.Builder) {
	columns := max(20, v.width-26)
	for from := 0; from < len(v.order); from += columns {
		block := v.order[from:min(len(v.order), from+columns)]
		_, _ = fmt.Fprintf(s, "%-22s  %s … %s\n", "", block[0], block[len(block)-1])
		for i, ph := range v.dates[block[0]].GetPhases() {
			_, _ = fmt.Fprintf(s, "%-22s  ", ph.GetId())
			for _, d := range block {
				s.WriteString(marks[v.dates[d].GetPhases()[i].GetState()])
			}
			s.WriteString("\n")
		}
	}
}
