package firestorestate

import (
	"fmt"
	"strconv"
	"time"

	"cloud.google.com/go/firestore"

	"sluice.dev/pkg/backfill"
)

// everyProcessor is the name under which a mark without a processor is kept.
const everyProcessor = "*"

// wakeField holds nanoseconds since 1970, because only numbers can be lowered without a read.
const wakeField = "wake_at"

// path is where a fact is kept in its date's document.
func path(k backfill.Key) firestore.FieldPath {
	check, isCheck := backfill.CheckName(k.Processor)
	switch {
	case isCheck && k.Attempt == 0:
		return firestore.FieldPath{"checks", k.Phase, check, string(k.Kind)}
	case isCheck:
		return firestore.FieldPath{"checks", k.Phase, check, strconv.Itoa(k.Attempt), string(k.Kind)}
	case k.Kind == backfill.Complete:
		return firestore.FieldPath{"complete", k.Phase}
	case k.Kind == backfill.Triggered && k.Processor == "":
		return firestore.FieldPath{"triggered", k.Phase, everyProcessor}
	case k.Kind == backfill.Triggered:
		return firestore.FieldPath{"triggered", k.Phase, k.Processor}
	case k.Attempt == 0:
		return firestore.FieldPath{"phases", k.Phase, k.Processor, string(k.Kind)}
	default:
		return firestore.FieldPath{"phases", k.Phase, k.Processor, strconv.Itoa(k.Attempt), string(k.Kind)}
	}
}

// toFields writes a value without what is empty.
func toFields(v backfill.Value) map[string]any {
	m := map[string]any{"at": v.At}
	for name, s := range map[string]string{"message": v.Message, "by": v.By, "correlation_id": v.CorrelationID, "event_id": v.EventID} {
		if s != "" {
			m[name] = s
		}
	}
	for name, n := range map[string]int64{"records": v.Records, "bytes_billed": v.BytesBilled, "within": int64(v.Within)} {
		if n != 0 {
			m[name] = n
		}
	}
	for name, t := range map[string]time.Time{"started_at": v.StartedAt, "finished_at": v.FinishedAt} {
		if !t.IsZero() {
			m[name] = t
		}
	}
	return m
}

func fromFields(m map[string]any) backfill.Value {
	text := func(name string) string { s, _ := m[name].(string); return s }
	number := func(name string) int64 { n, _ := m[name].(int64); return n }
	at := func(name string) time.Time {
		t, _ := m[name].(time.Time)
		if t.IsZero() {
			return time.Time{}
		}
		return t.UTC()
	}
	return backfill.Value{
		At: at("at"), Message: text("message"), By: text("by"), Records: number("records"), BytesBilled: number("bytes_billed"), Within: time.Duration(number("within")),
		StartedAt: at("started_at"), FinishedAt: at("finished_at"), CorrelationID: text("correlation_id"), EventID: text("event_id"),
	}
}

// put sets a fact in a tree of maps, for documents that are written whole.
func put(doc map[string]any, f backfill.Fact) {
	p := path(f.Key)
	for _, name := range p[:len(p)-1] {
		next, ok := doc[name].(map[string]any)
		if !ok {
			next = map[string]any{}
			doc[name] = next
		}
		doc = next
	}
	doc[p[len(p)-1]] = toFields(f.Value)
}

// toRecord reads a date's document.
func toRecord(snap *firestore.DocumentSnapshot) (backfill.Record, error) {
	date, err := backfill.ParseDate(snap.Ref.ID)
	if err != nil {
		return backfill.Record{}, fmt.Errorf("reading %s: %w", snap.Ref.Path, err)
	}
	doc := snap.Data()
	season, _ := doc["season"].(string)
	var facts []backfill.Fact
	add := func(k backfill.Key, v any) {
		if m, ok := v.(map[string]any); ok {
			facts = append(facts, backfill.Fact{Key: k, Value: fromFields(m)})
		}
	}
	for phase, v := range fields(doc["complete"]) {
		add(backfill.Key{Phase: phase, Kind: backfill.Complete}, v)
	}
	for phase, v := range fields(doc["triggered"]) {
		for processor, v := range fields(v) {
			if processor == everyProcessor {
				processor = ""
			}
			add(backfill.Key{Phase: phase, Processor: processor, Kind: backfill.Triggered}, v)
		}
	}
	runs := func(root string, name func(string) string) {
		for phase, v := range fields(doc[root]) {
			for processor, v := range fields(v) {
				for field, v := range fields(v) {
					attempt, err := strconv.Atoi(field)
					if err != nil {
						add(backfill.Key{Phase: phase, Processor: name(processor), Kind: backfill.Kind(field)}, v)
						continue
					}
					for kind, v := range fields(v) {
						add(backfill.Key{Phase: phase, Processor: name(processor), Attempt: attempt, Kind: backfill.Kind(kind)}, v)
					}
				}
			}
		}
	}
	runs("phases", func(name string) string { return name })
	runs("checks", func(name string) string { return (&backfill.Check{Name: name}).Ref().Processor })
	r := backfill.NewRecord(date, season, facts...)
	if ns, ok := doc[wakeField].(int64); ok {
		r.WakeAt = time.Unix(0, ns).UTC()
	}
	return r, nil
}

func fields(v any) map[string]any { m, _ := v.(map[string]any); return m }
