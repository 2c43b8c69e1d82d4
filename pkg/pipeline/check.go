package pipeline

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"sluice.dev/pkg/backfill"
)

func (c *compiler) trigger(at string, b *PhaseBlock, ph *backfill.Phase) {
	if b.Trigger == nil || (b.Trigger.HTTP == nil && !b.Trigger.None) {
		c.faultf(at, "phase %q has no trigger: give it trigger: {http: ...}, or trigger: none when the platform starts it by itself", b.ID)
		return
	}
	h := b.Trigger.HTTP
	if h == nil {
		return
	}
	ph.Trigger.HTTP = &backfill.HTTPTrigger{
		URL: h.URL, Auth: h.Auth, Async: h.Reply == "async", PerPhase: h.Per == "phase", Body: h.Body, Health: h.Health,
	}
	switch {
	case h.Timeout != "":
		ph.Trigger.HTTP.Timeout = c.duration(at+"/trigger/http/timeout", h.Timeout)
	case ph.Trigger.HTTP.Async:
		ph.Trigger.HTTP.Timeout = time.Minute
	}
	u, err := url.Parse(h.URL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		c.faultf(at+"/trigger/http/url", "%q is not an http or https URL", h.URL)
	}
	if _, err := Body(ph.Trigger.HTTP, Call{Date: "2006-01-02", Processors: []string{"p"}}); err != nil {
		c.faultf(at+"/trigger/http/body", "%v", err)
	}
}

// references checks everything that names something else.
func (c *compiler) references() {
	for i := range c.p.Phases {
		ph, at := &c.p.Phases[i], fmt.Sprintf("/phases/%d", i)
		for j, after := range ph.After {
			if _, ok := c.p.Phase(after); !ok {
				c.faultf(fmt.Sprintf("%s/after/%d", at, j), "after names the unknown phase %q", after)
			}
		}
		c.retrigger(at+"/on_timeout", ph)
		limiters := map[string]bool{}
		for j := range ph.Processors {
			pr, where := &ph.Processors[j], fmt.Sprintf("%s/processors/%d", at, j)
			limiters[pr.Limiter] = true
			for k, need := range pr.Needs {
				if np, ok := c.p.Phase(need.Phase); !ok {
					c.faultf(fmt.Sprintf("%s/needs/%d", where, k), "needs names the unknown phase %q", need.Phase)
				} else if _, ok := np.Processor(need.Processor); !ok {
					c.faultf(fmt.Sprintf("%s/needs/%d", where, k), "needs names the unknown processor %q of phase %s", need.Processor, need.Phase)
				}
			}
			for _, w := range pr.Windows {
				if _, ok := c.p.Phase(w.Phase); !ok {
					c.faultf(where+"/window/phase", "the window names the unknown phase %q", w.Phase)
				}
			}
		}
		if h := ph.Trigger.HTTP; h != nil && h.PerPhase && len(limiters) > 1 {
			c.faultf(at+"/processors", "one call starts the whole phase %s, so its processors must share one limiter", ph.ID)
		}
	}
}

func (c *compiler) retrigger(at string, ph *backfill.Phase) {
	r := ph.OnTimeout
	if r == nil {
		return
	}
	from, ok := c.p.Phase(r.Phase)
	if !ok {
		c.faultf(at+"/retrigger", "retrigger names the unknown phase %q", r.Phase)
		return
	}
	if from.Trigger.HTTP == nil || from.Trigger.HTTP.PerPhase {
		c.faultf(at+"/retrigger", "phase %s cannot be called for a single processor, so nothing can be retriggered", r.Phase)
	}
	for _, name := range sortedKeys(r.Match) {
		if _, ok := from.Processor(name); !ok {
			c.faultf(at+"/match/"+name, "phase %s has no processor %q", r.Phase, name)
		}
		if _, ok := ph.Processor(r.Match[name]); !ok {
			c.faultf(at+"/match/"+name, "phase %s has no processor %q", ph.ID, r.Match[name])
		}
	}
}

// cycles walks everything that a processor waits for on its own date. A window on its own phase looks only
// at earlier dates and cannot close a circle.
func (c *compiler) cycles() {
	type node = backfill.Ref
	edges := map[node][]node{}
	for i := range c.p.Phases {
		ph := &c.p.Phases[i]
		whole := node{Phase: ph.ID}
		for j := range ph.Processors {
			pr := &ph.Processors[j]
			me := node{Phase: ph.ID, Processor: pr.Name}
			edges[whole] = append(edges[whole], me)
			if !ph.GateNeeds {
				for _, a := range ph.After {
					edges[me] = append(edges[me], node{Phase: a})
				}
			}
			edges[me] = append(edges[me], pr.Needs...)
			for _, w := range pr.Windows {
				if w.Phase != ph.ID {
					edges[me] = append(edges[me], node{Phase: w.Phase})
				}
			}
		}
	}
	state := map[node]int{}
	var path []node
	var visit func(node) bool
	visit = func(n node) bool {
		state[n] = 1
		path = append(path, n)
		for _, next := range edges[n] {
			if state[next] == 1 {
				c.cycle(path[slices.Index(path, next):])
				return true
			}
			if state[next] == 0 && visit(next) {
				return true
			}
		}
		path, state[n] = path[:len(path)-1], 2
		return false
	}
	for i := range c.p.Phases {
		if n := (node{Phase: c.p.Phases[i].ID}); state[n] == 0 && visit(n) {
			return
		}
	}
}

func (c *compiler) cycle(loop []backfill.Ref) {
	names := make([]string, 0, len(loop)+1)
	for _, n := range append(slices.Clone(loop), loop[0]) {
		names = append(names, strings.TrimSuffix(n.Phase+"/"+n.Processor, "/"))
	}
	i := slices.IndexFunc(c.p.Phases, func(ph backfill.Phase) bool { return ph.ID == loop[0].Phase })
	c.faultf(fmt.Sprintf("/phases/%d", i), "these wait for each other: %s", strings.Join(names, " -> "))
}
