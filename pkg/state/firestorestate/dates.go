package firestorestate

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"cloud.google.com/go/firestore"
	"google.golang.org/api/iterator"
	"google.golang.org/grpc/codes"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/fault"
)

// group gathers merges of one date while a write of the date is under way.
type group struct {
	mu      sync.Mutex
	busy    bool
	waiting *batch
}

// batch is merges that share a write.
type batch struct {
	facts map[backfill.Key]backfill.Value
	wake  time.Time
	users int
	done  chan struct{}
	rec   backfill.Record
	err   error
}

func newBatch() *batch {
	return &batch{facts: map[backfill.Key]backfill.Value{}, done: make(chan struct{})}
}

// Merge implements state.Dates.
func (s *Store) Merge(ctx context.Context, id string, date backfill.Date, wake time.Time, facts ...backfill.Fact) (backfill.Record, error) {
	if err := s.use(ctx); err != nil {
		return backfill.Record{}, err
	}
	doc := s.dateDoc(id, date.String())
	s.mu.Lock()
	g := s.dates[doc.Path]
	if g == nil {
		g = &group{}
		s.dates[doc.Path] = g
	}
	g.mu.Lock()
	s.mu.Unlock()
	if g.waiting == nil {
		g.waiting = newBatch()
	}
	b := g.waiting
	b.users++
	b.wake = backfill.Sooner(b.wake, wake)
	for _, f := range facts {
		b.facts[f.Key] = f.Value
	}
	lead := !g.busy
	g.busy = true
	g.mu.Unlock()
	if lead {
		s.drain(context.WithoutCancel(ctx), doc, g)
	}
	select {
	case <-b.done:
		return b.rec, b.err
	case <-ctx.Done():
		return backfill.Record{}, ctx.Err()
	}
}

// drain writes batches until none waits. The caller's own is the first; those that came meanwhile are
// written by a goroutine, so that nobody is kept for others.
func (s *Store) drain(ctx context.Context, doc *firestore.DocumentRef, g *group) {
	next := func() *batch {
		g.mu.Lock()
		defer g.mu.Unlock()
		b := g.waiting
		g.waiting = nil
		if b == nil {
			g.busy = false
		}
		return b
	}
	write := func(b *batch) {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		b.rec, b.err = s.write(ctx, doc, b)
		close(b.done)
	}
	write(next())
	if b := next(); b != nil {
		go func() {
			for ; b != nil; b = next() {
				write(b)
			}
			s.forget(doc.Path, g)
		}()
		return
	}
	s.forget(doc.Path, g)
}

// forget drops a group that nobody uses.
func (s *Store) forget(path string, g *group) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.busy && g.waiting == nil && s.dates[path] == g {
		delete(s.dates, path)
	}
}

// write is the blind merge and the read of what the document has become.
func (s *Store) write(ctx context.Context, doc *firestore.DocumentRef, b *batch) (backfill.Record, error) {
	updates := make([]firestore.Update, 0, len(b.facts)+1)
	for k, v := range b.facts {
		updates = append(updates, firestore.Update{FieldPath: path(k), Value: toFields(v)})
	}
	if !b.wake.IsZero() {
		updates = append(updates, firestore.Update{Path: wakeField, Value: firestore.FieldTransformMinimum(b.wake.UnixNano())})
	}
	if len(updates) > 0 {
		if err := s.update(ctx, doc, updates); err != nil {
			return backfill.Record{}, wrap(err, "adding to %s", doc.Path)
		}
	}
	return s.read(ctx, doc)
}

// update repeats a write that lost against others for the document's lock; a merge may be repeated freely.
func (s *Store) update(ctx context.Context, doc *firestore.DocumentRef, updates []firestore.Update) error {
	for wait := 20 * time.Millisecond; ; wait *= 2 {
		s.writes.Add(1)
		_, err := doc.Update(ctx, updates)
		if c := code(err); (c != codes.Aborted && c != codes.Unavailable) || wait > 5*time.Second {
			return err
		}
		select {
		case <-time.After(wait/2 + rand.N(wait)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *Store) read(ctx context.Context, doc *firestore.DocumentRef) (backfill.Record, error) {
	s.reads.Add(1)
	snap, err := doc.Get(ctx)
	if err != nil {
		return backfill.Record{}, wrap(err, "reading %s", doc.Path)
	}
	return toRecord(snap)
}

// Date implements state.Dates. Like a merge, it shares the next read of the date with all that ask meanwhile.
func (s *Store) Date(ctx context.Context, id string, date backfill.Date) (backfill.Record, error) {
	if rec, err := s.Merge(ctx, id, date, time.Time{}); err == nil {
		return rec, nil
	}
	if err := s.use(ctx); err != nil { // what failed may have been somebody else's merge
		return backfill.Record{}, err
	}
	return s.read(ctx, s.dateDoc(id, date.String()))
}

// CreateDates implements state.Dates.
func (s *Store) CreateDates(ctx context.Context, id string, records []backfill.Record) error {
	if err := s.use(ctx); err != nil {
		return err
	}
	w := s.client.BulkWriter(ctx)
	jobs := make([]*firestore.BulkWriterJob, 0, len(records))
	for i := range records {
		r := &records[i]
		doc := map[string]any{"season": r.Season}
		for _, f := range r.Facts() {
			put(doc, f)
		}
		if !r.WakeAt.IsZero() {
			doc[wakeField] = firestore.FieldTransformMinimum(r.WakeAt.UnixNano())
		}
		job, err := w.Set(s.dateDoc(id, r.Date.String()), doc, firestore.MergeAll)
		if err != nil {
			w.End()
			return wrap(err, "creating %s of %s", r.Date, id)
		}
		jobs = append(jobs, job)
	}
	w.End()
	for i, job := range jobs {
		s.writes.Add(1)
		if _, err := job.Results(); err != nil {
			return wrap(err, "creating %s of %s", records[i].Date, id)
		}
	}
	return nil
}

// scanPage bounds how many dates are in memory during a scan.
const scanPage = 200

// ScanDates implements state.Dates.
func (s *Store) ScanDates(ctx context.Context, id string, from, to backfill.Date, f func(backfill.Record) error) error {
	if err := s.use(ctx); err != nil {
		return err
	}
	for from <= to {
		q := s.client.Collection("backfills/"+id+"/dates").OrderBy(firestore.DocumentID, firestore.Asc).
			StartAt(from.String()).EndAt(to.String()).Limit(scanPage)
		snaps, err := q.Documents(ctx).GetAll()
		if err != nil {
			return wrap(err, "reading dates of %s", id)
		}
		s.reads.Add(int64(len(snaps)))
		for _, snap := range snaps {
			r, err := toRecord(snap)
			if err != nil {
				return err
			}
			if err := f(r); err != nil {
				return err
			}
			from = r.Date + 1
		}
		if len(snaps) < scanPage {
			return nil
		}
	}
	return nil
}

// Due implements state.Dates.
func (s *Store) Due(ctx context.Context, id string, now time.Time, limit int) ([]backfill.Date, error) {
	if err := s.use(ctx); err != nil {
		return nil, err
	}
	q := s.client.Collection("backfills/"+id+"/dates").Where(wakeField, "<=", now.UnixNano()).OrderBy(wakeField, firestore.Asc).Select()
	if limit > 0 {
		q = q.Limit(limit)
	}
	it := q.Documents(ctx)
	defer it.Stop()
	var out []backfill.Date
	for {
		snap, err := it.Next()
		if err == iterator.Done { //nolint:errorlint // the iterator's own way of saying so
			return out, nil
		}
		if err != nil {
			return nil, wrap(err, "looking for due dates of %s", id)
		}
		s.reads.Add(1)
		d, err := backfill.ParseDate(snap.Ref.ID)
		if err != nil {
			return nil, wrap(err, "looking for due dates of %s", id)
		}
		out = append(out, d)
	}
}

// Rearm implements state.Dates.
func (s *Store) Rearm(ctx context.Context, id string, seen backfill.Record, at time.Time) (bool, error) {
	if err := s.use(ctx); err != nil {
		return false, err
	}
	doc := s.dateDoc(id, seen.Date.String())
	s.reads.Add(1)
	snap, err := doc.Get(ctx)
	if err != nil {
		return false, wrap(err, "reading %s", doc.Path)
	}
	now, err := toRecord(snap)
	if err != nil {
		return false, err
	}
	if now.Len() != seen.Len() || !now.WakeAt.Equal(seen.WakeAt) {
		return false, nil
	}
	if now.WakeAt.Equal(at) {
		return true, nil
	}
	var value any = firestore.Delete
	if !at.IsZero() {
		value = at.UnixNano()
	}
	s.writes.Add(1)
	_, err = doc.Update(ctx, []firestore.Update{{Path: wakeField, Value: value}}, firestore.LastUpdateTime(snap.UpdateTime))
	if c := code(err); c == codes.FailedPrecondition || c == codes.Aborted {
		return false, nil
	}
	if err != nil {
		return false, fault.New(fault.Unavailable, "storing the wake-up time of %s: %w", doc.Path, err)
	}
	return true, nil
}
