package firestorestate

import (
	"context"
	"errors"
	"time"

	"cloud.google.com/go/firestore"
	"google.golang.org/grpc/codes"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/state"
)

// claimChunk is how many partitions are read or written together.
const claimChunk = 400

// claimFor is how long a claim may take before others may go on; a claim that was cut short is finished when
// its request is delivered again.
const claimFor = time.Minute

func (s *Store) partition(pipeline string, d backfill.Date) *firestore.DocumentRef {
	return s.client.Doc("partitions/" + pipeline + ":" + d.String())
}

// Claim implements state.Partitions. Claims of one pipeline take turns, by a lock that expires, so that a claim
// of any size is all or nothing without one transaction over all of it.
func (s *Store) Claim(ctx context.Context, pipeline, id string, dates []backfill.Date) error {
	if err := s.use(ctx); err != nil {
		return err
	}
	turn := s.client.Doc("claims/" + pipeline)
	if err := s.takeTurn(ctx, turn, id); err != nil {
		return wrap(err, "claiming dates of %s", pipeline)
	}
	defer func() { // an expired turn ends by itself
		s.writes.Add(1)
		_, _ = turn.Delete(context.WithoutCancel(ctx))
	}()
	var missing []*firestore.DocumentRef
	for from := 0; from < len(dates); from += claimChunk {
		part := dates[from:min(len(dates), from+claimChunk)]
		refs := make([]*firestore.DocumentRef, len(part))
		for i, d := range part {
			refs[i] = s.partition(pipeline, d)
		}
		snaps, err := s.client.GetAll(ctx, refs)
		if err != nil {
			return wrap(err, "claiming dates of %s", pipeline)
		}
		s.reads.Add(int64(len(snaps)))
		for i, snap := range snaps {
			if !snap.Exists() {
				missing = append(missing, refs[i])
			} else if owner, _ := snap.Data()["backfill_id"].(string); owner != id {
				return state.Owned(pipeline, part[i], owner)
			}
		}
	}
	return s.bulk(ctx, missing, func(w *firestore.BulkWriter, ref *firestore.DocumentRef) (*firestore.BulkWriterJob, error) {
		return w.Set(ref, map[string]any{"backfill_id": id})
	})
}

func (s *Store) takeTurn(ctx context.Context, turn *firestore.DocumentRef, id string) error {
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		s.writes.Add(1)
		_, err := turn.Create(ctx, map[string]any{"backfill_id": id, "until": time.Now().Add(claimFor)})
		if err == nil || code(err) != codes.AlreadyExists {
			return err
		}
		s.reads.Add(1)
		snap, err := turn.Get(ctx)
		if err == nil {
			if until, _ := snap.Data()["until"].(time.Time); until.Before(time.Now()) {
				s.writes.Add(1)
				_, _ = turn.Delete(ctx, firestore.LastUpdateTime(snap.UpdateTime)) // whoever is first
			}
		} else if code(err) != codes.NotFound {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// bulk writes many documents.
func (s *Store) bulk(
	ctx context.Context, refs []*firestore.DocumentRef, write func(*firestore.BulkWriter, *firestore.DocumentRef) (*firestore.BulkWriterJob, error),
) error {
	w := s.client.BulkWriter(ctx)
	var jobs []*firestore.BulkWriterJob
	var errs []error
	for _, ref := range refs {
		job, err := write(w, ref)
		if err != nil {
			errs = append(errs, err)
			break
		}
		jobs = append(jobs, job)
	}
	w.End()
	for _, job := range jobs {
		s.writes.Add(1)
		if _, err := job.Results(); err != nil {
			errs = append(errs, err)
		}
	}
	return wrap(errors.Join(errs...), "writing %d documents", len(refs))
}

// Unclaim implements state.Partitions.
func (s *Store) Unclaim(ctx context.Context, pipeline, id string) error {
	if err := s.use(ctx); err != nil {
		return err
	}
	snaps, err := s.client.Collection("partitions").Where("backfill_id", "==", id).Select().Documents(ctx).GetAll()
	if err != nil {
		return wrap(err, "freeing the dates of %s", id)
	}
	s.reads.Add(int64(len(snaps)))
	var refs []*firestore.DocumentRef
	for _, snap := range snaps {
		if len(snap.Ref.ID) > len(pipeline) && snap.Ref.ID[:len(pipeline)+1] == pipeline+":" {
			refs = append(refs, snap.Ref)
		}
	}
	return s.bulk(ctx, refs, func(w *firestore.BulkWriter, ref *firestore.DocumentRef) (*firestore.BulkWriterJob, error) {
		return w.Delete(ref)
	})
}

// Owner implements state.Partitions.
func (s *Store) Owner(ctx context.Context, pipeline string, date backfill.Date) (string, error) {
	if err := s.use(ctx); err != nil {
		return "", err
	}
	s.reads.Add(1)
	snap, err := s.partition(pipeline, date).Get(ctx)
	if code(err) == codes.NotFound {
		return "", fault.New(fault.NotFound, "no active backfill owns %s of pipeline %q", date, pipeline)
	}
	if err != nil {
		return "", wrap(err, "looking for the owner of %s", date)
	}
	owner, _ := snap.Data()["backfill_id"].(string)
	return owner, nil
}

func (s *Store) version(name, version string) *firestore.DocumentRef {
	return s.client.Doc("pipelines/" + name + "/versions/" + version)
}

// PutPipeline implements state.Pipelines.
func (s *Store) PutPipeline(ctx context.Context, version string, p *backfill.Pipeline) error {
	if err := s.use(ctx); err != nil {
		return err
	}
	doc, err := toDoc(p)
	if err != nil {
		return wrap(err, "storing pipeline %s", p.Name)
	}
	s.writes.Add(1)
	_, err = s.version(p.Name, version).Create(ctx, doc)
	if code(err) == codes.AlreadyExists {
		return nil
	}
	return wrap(err, "storing pipeline %s", p.Name)
}

// Pipeline implements state.Pipelines.
func (s *Store) Pipeline(ctx context.Context, name, version string) (*backfill.Pipeline, error) {
	if err := s.use(ctx); err != nil {
		return nil, err
	}
	s.reads.Add(1)
	snap, err := s.version(name, version).Get(ctx)
	if code(err) == codes.NotFound {
		return nil, fault.New(fault.NotFound, "no version %s of pipeline %q", version, name)
	}
	if err != nil {
		return nil, wrap(err, "reading pipeline %s", name)
	}
	p := new(backfill.Pipeline)
	return p, wrap(fromDoc(snap.Data(), p), "reading pipeline %s", name)
}
