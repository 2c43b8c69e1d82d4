package state

import (
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/fault"
)

// What follows is what every driver does inside its own kind of transaction.

// Apply applies a change unless the epoch is an old one. The lease stays as it is.
func Apply(b *backfill.Backfill, epoch int64, change func(*backfill.Backfill) error) error {
	if epoch != 0 && b.Lease.Epoch != epoch {
		return fault.New(fault.Fenced, "backfill %s is driven by %s in epoch %d, not in %d", b.ID, b.Lease.Holder, b.Lease.Epoch, epoch)
	}
	lease := b.Lease
	err := change(b)
	b.Lease = lease
	return err
}

// Take gives the lease to a holder, or renews it.
func Take(b *backfill.Backfill, holder string, now time.Time, ttl time.Duration) error {
	if b.Lease.Holder != holder {
		if b.Lease.Holder != "" && b.Lease.Expires.After(now) {
			return fault.New(fault.Conflict, "backfill %s is driven by %s until %s", b.ID, b.Lease.Holder, b.Lease.Expires.Format(time.RFC3339))
		}
		b.Lease.Epoch++
	}
	b.Lease.Holder, b.Lease.Expires = holder, now.Add(ttl)
	return nil
}

// GiveUp ends the lease of a holder; somebody else's stays.
func GiveUp(b *backfill.Backfill, holder string) {
	if b.Lease.Holder == holder {
		b.Lease.Holder, b.Lease.Expires = "", time.Time{}
	}
}

// Owned is the conflict of a claim.
func Owned(pipeline string, date backfill.Date, owner string) error {
	return fault.New(fault.Conflict, "%s of pipeline %s belongs to the active backfill %q", date, pipeline, owner)
}
