package tracker

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/fault"
	pb "sluice.dev/proto/gen/sluice/v1"
)

// Adapter reads another system's JSON as completions of one pipeline. Phases may share a topic; the
// message's own phase then tells them apart.
type Adapter struct {
	pipeline string
	phases   []adapted
}

type adapted struct {
	id   string
	spec *backfill.Adapter
}

// Adapters collects the adapters of all pipelines by topic.
func Adapters(pipelines map[string]*backfill.Pipeline) map[string]Adapter {
	out := map[string]Adapter{}
	for name, p := range pipelines {
		for i := range p.Phases {
			if spec := p.Phases[i].Completions; spec != nil {
				a := out[spec.Topic]
				a.pipeline = name
				a.phases = append(a.phases, adapted{p.Phases[i].ID, spec})
				out[spec.Topic] = a
			}
		}
	}
	return out
}

// Read makes a completion of a message, or lists everything that is wrong with it.
func (a Adapter) Read(raw []byte) (*pb.ProcessorCompleted, error) {
	var doc map[string]any
	dec := json.NewDecoder(strings.NewReader(string(raw)))
	dec.UseNumber()
	if err := dec.Decode(&doc); err != nil {
		return nil, fault.New(fault.Invalid, "the message is not a JSON object: %v", err)
	}
	use := a.phases[0]
	if i := slices.IndexFunc(a.phases, func(p adapted) bool { return text(doc, p.spec.Fields["phase"]) == p.id }); i >= 0 {
		use = a.phases[i]
	}
	var faults fault.List
	f := use.spec.Fields
	m := &pb.ProcessorCompleted{
		BackfillId: text(doc, f["backfill_id"]), Pipeline: a.pipeline, Phase: use.id, Date: text(doc, f["date"]),
		Processor: text(doc, f["processor"]), Message: text(doc, f["message"]), CorrelationId: text(doc, f["correlation_id"]),
		Records: number(&faults, doc, f["records"]), BytesBilled: number(&faults, doc, f["bytes_billed"]),
		Attempt:   int32(number(&faults, doc, f["attempt"])),
		StartedAt: instant(&faults, doc, f["started_at"]), FinishedAt: instant(&faults, doc, f["finished_at"]),
	}
	if p := text(doc, f["phase"]); p != "" {
		m.Phase = p
	}
	for _, field := range []string{"date", "processor", "status"} {
		if text(doc, f[field]) == "" {
			faults.Addf("field %q is missing: it holds the %s", f[field], field)
		}
	}
	if word := text(doc, f["status"]); word != "" {
		if m.Status = use.spec.Status[word]; m.GetStatus() == "" && len(use.spec.Status) > 0 {
			faults.Addf("field %q is %q, which the pipeline's status map does not have", f["status"], word)
		} else if m.GetStatus() == "" {
			m.Status = word
		}
	}
	if err := faults.Err(); err != nil {
		return nil, err
	}
	return m, Check(m)
}

// at follows a dotted path.
func at(doc map[string]any, path string) any {
	var v any = doc
	for _, part := range strings.Split(path, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[part]
	}
	return v
}

func text(doc map[string]any, path string) string {
	if path == "" {
		return ""
	}
	switch v := at(doc, path).(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	default:
		return ""
	}
}

func number(faults *fault.List, doc map[string]any, path string) int64 {
	s := text(doc, path)
	if s == "" {
		return 0
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		faults.Addf("field %q is %q, not a whole number", path, s)
	}
	return n
}

func instant(faults *fault.List, doc map[string]any, path string) *timestamppb.Timestamp {
	s := text(doc, path)
	if s == "" {
		return nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		*faults = append(*faults, fmt.Sprintf("field %q is %q, not an RFC 3339 time", path, s))
		return nil
	}
	return timestamppb.New(t)
}
