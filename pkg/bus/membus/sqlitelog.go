package membus

import (
	"context"
	"database/sql"
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
	go l.sweep()
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
	Invalid []string  `json:"invalid,omitempty"`
}

func encode(e *event.Event) (string, []byte, error) {
	h := head{e.ID, e.Type, e.Source, e.Subject, e.Time, e.Trace, e.Data == nil, e.Invalid}
	b, err := json.Marshal(h)
	if err != nil {
		return "", nil, fmt.Errorf("storing event %s: %w", e.ID, err)
	}
	if e.Data == nil {
		return string(b), e.Raw, nil
	}
	body, err := proto.Marshal(e.Data)
	if err != nil {
		return "", nil, fmt.Errorf("storing event %s: %w", e.ID, err)
	}
	return string(b), body, nil
}

func decode(headJSON string, body []byte) (*event.Event, error) {
	var h head
	if err := json.Unmarshal([]byte(headJSON), &h); err != nil {
		return nil, fmt.Errorf("reading a stored event: %w", err)
	}
	e := &event.Event{
		ID: h.ID, Type: h.Type, Source: h.Source, Subject: h.Subject, Time: h.Time, Trace: h.Trace, Invalid: h.Invalid,
	}
	if h.Raw {
		e.Raw = body
		return e, nil
	}
	if e.Data = event.Empty(h.Type); e.Data == nil {
		return nil, fmt.Errorf("reading stored event %s: unknown type %q", h.ID, h.Type)
	}
	if err := proto.Unmarshal(body, e.Data); err != nil {
		return nil, fmt.Errorf("reading stored event %s: %w", h.ID, err)
	}
	return e, nil
}

// Append implements Log.
func (l *SQLiteLog) Append(ctx context.Context, topic string, events []*event.Event) ([]int64, error) {
	args := make([]any, 0, 3*len(events))
	for _, e := range events {
		h, body, err := encode(e)
		if err != nil {
			return nil, err
		}
		args = append(args, topic, h, body)
	}
	numbers := make([]int64, len(events))
	err := l.db.Write(ctx, func(tx *sql.Tx) error {
		for i := range events {
			res, err := tx.Exec("INSERT INTO bus_log(topic, head, body) VALUES(?,?,?)", args[3*i:3*i+3]...)
			if err != nil {
				return fmt.Errorf("storing an event for %s: %w", topic, err)
			}
			if numbers[i], err = res.LastInsertId(); err != nil {
				return fmt.Errorf("storing an event for %s: %w", topic, err)
			}
		}
		return nil
	})
	return numbers, err
}

// Forget implements Log: deletions are gathered, as they may come late.
func (l *SQLiteLog) Forget(number int64) {
	select {
	case l.forget <- number:
	case <-l.stop:
	}
}

func (l *SQLiteLog) sweep() {
	defer close(l.done)
	for {
		var batch []any
		select {
		case n := <-l.forget:
			batch = append(batch, n)
		case <-l.stop:
			return
		}
		for more := true; more && len(batch) < 500; {
			select {
			case n := <-l.forget:
				batch = append(batch, n)
			default:
				more = false
			}
		}
		query := "DELETE FROM bus_log WHERE number IN (?" + strings.Repeat(",?", len(batch)-1) + ")"
		// A failure leaves events that will be delivered once more, which consumers bear.
		_ = l.db.Write(context.Background(), func(tx *sql.Tx) error {
			_, err := tx.Exec(query, batch...)
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
	return l.db.Write(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec("INSERT INTO bus_dead(topic, subscription, reason, at, head, body) VALUES(?,?,?,?,?,?)",
			topic, subscription, reason, time.Now().UTC().Format(time.RFC3339Nano), h, body)
		return err
	})
}

// Pending implements Log.
func (l *SQLiteLog) Pending(ctx context.Context, f func(int64, string, *event.Event)) error {
	rows, err := l.db.QueryContext(ctx, "SELECT number, topic, head, body FROM bus_log ORDER BY number")
	if err != nil {
		return fmt.Errorf("reading the bus log: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var number int64
		var topic, h string
		var body []byte
		if err := rows.Scan(&number, &topic, &h, &body); err != nil {
			return fmt.Errorf("reading the bus log: %w", err)
		}
		e, err := decode(h, body)
		if err != nil {
			return err
		}
		f(number, topic, e)
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
