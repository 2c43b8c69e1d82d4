// Package firestorestate keeps state in Firestore. A fact is a field of its date's document, and adding facts
// is a blind merge of field paths, so that any number of clients can add to one date without a transaction.
// Concurrent merges of one date inside one process share a write and the read that follows it.
//
// The maps phases, triggered and complete of dates/{date} must be exempt from indexing (single-field index
// exemptions), or every fact costs two index entries and a document soon has more than the 40,000 it may
// have. wake_at, created and holder need their automatic indexes.
package firestorestate

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"cloud.google.com/go/firestore"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/state"
)

// Store is Firestore in one project.
type Store struct {
	client *firestore.Client
	closed atomic.Bool

	mu    sync.Mutex
	dates map[string]*group      // by document path
	locks map[string]*sync.Mutex // of backfills, so that transactions of one process do not fight

	reads, writes atomic.Int64
}

var _ state.Store = (*Store)(nil)

// After an outage work goes on within seconds; the client's own waits grow up to two minutes.
var reconnect = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second},
	MinConnectTimeout: 5 * time.Second,
}

// Open connects to a database, or to the emulator that FIRESTORE_EMULATOR_HOST names. An empty database is
// the default one.
func Open(ctx context.Context, project, database string, options ...option.ClientOption) (*Store, error) {
	if database == "" {
		database = firestore.DefaultDatabaseID
	}
	options = append([]option.ClientOption{option.WithGRPCDialOption(grpc.WithConnectParams(reconnect))}, options...)
	client, err := firestore.NewClientWithDatabase(ctx, project, database, options...)
	if err != nil {
		return nil, fmt.Errorf("connecting to Firestore: %w", err)
	}
	return &Store{client: client, dates: map[string]*group{}, locks: map[string]*sync.Mutex{}}, nil
}

// Counts tells how many documents were read and written since Open.
func (s *Store) Counts() (reads, writes int64) { return s.reads.Load(), s.writes.Load() }

// Close implements state.Store.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	if err := s.client.Close(); err != nil {
		return fmt.Errorf("disconnecting from Firestore: %w", err)
	}
	return nil
}

// use is called before every operation.
func (s *Store) use(ctx context.Context) error {
	if s.closed.Load() {
		return fault.New(fault.Unavailable, "the store is closed")
	}
	return ctx.Err()
}

func (s *Store) backfillDoc(id string) *firestore.DocumentRef { return s.client.Doc("backfills/" + id) }

func (s *Store) dateDoc(id, date string) *firestore.DocumentRef {
	return s.client.Doc("backfills/" + id + "/dates/" + date)
}

// lock serializes the transactions of this process on one backfill.
func (s *Store) lock(id string) func() {
	s.mu.Lock()
	l := s.locks[id]
	if l == nil {
		l = &sync.Mutex{}
		s.locks[id] = l
	}
	s.mu.Unlock()
	l.Lock()
	return l.Unlock
}

// wrap gives an error of Firestore the kind that callers act on; errors that have one keep it.
func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf(format+": %w", append(args, err)...)
	if fault.KindOf(err) != fault.Unknown {
		return err
	}
	kind := fault.Unavailable
	switch code(err) {
	case codes.NotFound:
		kind = fault.NotFound
	case codes.InvalidArgument:
		kind = fault.Invalid
	case codes.PermissionDenied, codes.Unauthenticated, codes.FailedPrecondition:
		kind = fault.Refused
	default:
	}
	return fault.New(kind, "%w", err)
}

func code(err error) codes.Code {
	var s interface{ GRPCStatus() *status.Status }
	if errors.As(err, &s) {
		return s.GRPCStatus().Code()
	}
	return codes.Unknown
}
