package membus

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"sluice.dev/pkg/event"
	"sluice.dev/pkg/sqlitedb"
)

// SQLiteLog keeps events in a table of a SQLite file.
type SQLiteLog struct {
	db     *sqlitedb.DB
	forget chan int64
	stop   chan struct{}
	done   chan struct{}
}

var _ Log = (*SQLiteLog)(nil)

const logSchema = `
CREATE TABLE IF NOT EXISTS bus_log(number INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, head TEXT NOT NULL, body BLOB);
CREATE TABLE IF NOT EXISTS bus_dead(number INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, subscription TEXT NOT NULL,
	reason TEXT NOT NULL, at TEXT NOT NULL, head TEXT NOT NULL, body BLOB);`

// OpenLog opens or creates a log in a file of its own.
func OpenLog(ctx context.Context, path string) (*SQLiteLog, error) {
	db, err := sqlitedb.Open(ctx, path, logSchema)
	if err != nil {
		return nil, err
	}
	l := &SQLiteLog{db: db, forget: make(chan int64, 4096), stop: make(chan struct{}), done: make(chan struct{})}
	go l.sweep() //nolint:gosec // the log outlives the call that opens it
	return l, nil
}

// head is an event without its payload, as it is stored.
type head struct {
	ID      string    `json:"id"`
	Type    string    `json:"type,omitempty"`
	Source  string    `json:"source,omitempty"`
	Subject string    `json:"subject,omitempty"`
	Time    time.Time `json:"time,omitzero"`
	Trace   string    `json:"trace,omitempty"`
	Raw     bool      `json:"raw,omitempty"`
	Size    int       `json:"size,omitempty"` // of the payload
	Invalid []string  `json:"invalid,omitempty"`
}

// encode writes events as their heads and, one after the other, their payloads.
func encode(events ...*event.Event) (string, []byte, error) {
	heads, bodies := make([]head, len(events)), []byte(nil)
	for i, e := range events {
		before := len(bodies)
		if e.Data == nil {
			bodies = append(bodies, e.Raw...)
		} else {
			var err error
			if bodies, err = (proto.MarshalOptions{}).MarshalAppend(bodies, e.Data); err != nil {
				return "", nil, fmt.Errorf("storing event %s: %w", e.ID, err)
			}
		}
		heads[i] = head{e.ID, e.Type, e.Source, e.Subject, e.Time, e.Trace, e.Data == nil, len(bodies) - before, e.Invalid}
	}
	b, err := json.Marshal(heads)
	if err != nil {
		return "", nil, fmt.Errorf("storing events: %w", err)
	}
	return string(b), bodies, nil
}

func decode(headsJSON string, bodies []byte) ([]*event.Event, error) {
	var heads []head
	if err := json.Unmarshal([]byte(headsJSON), &heads); err != nil {
		return nil, fmt.Errorf("reading stored events: %w", err)
	}
	out := make([]*event.Event, len(heads))
	for i, h := range heads {
		if h.Size > len(bodies) {
			return nil, fmt.Errorf("reading stored event %s: its payload is cut short", h.ID)
		}
		e := &event.Event{
			ID: h.ID, Type: h.Type, Source: h.Source, Subject: h.Subject, Time: h.Time, Trace: h.Trace, Invalid: h.Invalid,
		}
		body := bodies[:h.Size]
		bodies = bodies[h.Size:]
		out[i] = e
		if h.Raw {
			e.Raw = body
			continue
		}
		if e.Data = event.Empty(h.Type); e.Data == nil {
			return nil, fmt.Errorf("reading stored event %s: unknown type %q", h.ID, h.Type)
		}
		if err := proto.Unmarshal(body, e.Data); err != nil {
			return nil, fmt.Errorf("reading stored event %s: %w", h.ID, err)
		}
	}
	return out, nil
}

// Append implements Log.
func (l *SQLiteLog) Append(ctx context.Context, topic string, events []*event.Event) (int64, error) {
	heads, bodies, err := encode(events...)
	if err != nil {
		return 0, err
	}
	var number int64
	err = l.db.Write(ctx, func(tx *sqlitedb.Tx) error {
		res, err := tx.Exec("INSERT INTO bus_log(topic, head, body) VALUES(?,?,?)", topic, heads, bodies)
		if err == nil {
			number, err = res.LastInsertId()
		}
		if err != nil {
			return fmt.Errorf("storing events for %s: %w", topic, err)
		}
		return nil
	})
	return number, err
}

// Forget implements Log: deletions are gathered, as they may come late.
func (l *SQLiteLog) Forget(number int64) {
	select {
	case l.forget <- number:
	case <-l.stop:
	}
}

// forgetEvery is how long acknowledged events may stay in the log.
const forgetEvery = 20 * time.Millisecond

// forgetBatch is how many rows are deleted by one statement.
const forgetBatch = 500

var forgetQuery = "DELETE FROM bus_log WHERE number IN (?" + strings.Repeat(",?", forgetBatch-1) + ")"

func (l *SQLiteLog) sweep() {
	defer close(l.done)
	for {
		batch := make([]any, 0, forgetBatch)
		select {
		case n := <-l.forget:
			batch = append(batch, n)
		case <-l.stop:
			return
		}
		select { // others will follow
		case <-time.After(forgetEvery):
		case <-l.stop:
			return
		}
		for more := true; more && len(batch) < forgetBatch; {
			select {
			case n := <-l.forget:
				batch = append(batch, n)
			default:
				more = false
			}
		}
		for len(batch) < forgetBatch {
			batch = append(batch, 0) // there is no number 0: the statement stays the same whatever the count
		}
		// A failure leaves events that will be delivered once more, which consumers bear.
		_ = l.db.Write(context.Background(), func(tx *sqlitedb.Tx) error {
			_, err := tx.Exec(forgetQuery, batch...)
			return err
		})
	}
}

// Bury implements Log.
func (l *SQLiteLog) Bury(ctx context.Context, topic, subscription, reason string, e *event.Event) error {
	h, body, err := encode(e)
	if err != nil {
		return err
	}
	return l.db.Write(ctx, func(tx *sqlitedb.Tx) error {
		_, err := tx.Exec("INSERT INTO bus_dead(topic, subscription, reason, at, head, body) VALUES(?,?,?,?,?,?)",
			topic, subscription, reason, time.Now().UTC().Format(time.RFC3339Nano), h, body)
		return err
	})
}

// Pending implements Log.
func (l *SQLiteLog) Pending(ctx context.Context, f func(int64, string, []*event.Event)) error {
	rows, err := l.db.QueryContext(ctx, "SELECT number, topic, head, body FROM bus_log ORDER BY number")
	if err != nil {
		return fmt.Errorf("reading the bus log: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var number int64
		var topic, heads string
		var bodies []byte
		if err := rows.Scan(&number, &topic, &heads, &bodies); err != nil {
			return fmt.Errorf("reading the bus log: %w", err)
		}
		events, err := decode(heads, bodies)
		if err != nil {
			return err
		}
		f(number, topic, events)
	}
	return rows.Err()
}

// Close stops the log. Events acknowledged in the last moments may be delivered once more after a restart.
func (l *SQLiteLog) Close() error {
	select {
	case <-l.stop:
		return nil
	default:
	}
	close(l.stop)
	<-l.done
	return l.db.Close()
}
