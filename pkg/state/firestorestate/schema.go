package firestorestate

// TTLField is the field that says when a document may be removed.
const TTLField = expires

// TTLCollections are the collections whose documents expire.
func TTLCollections() []string { return []string{"backfills", "dates", "forgotten"} }

// Unindexed are fields, by collection, that nobody asks for: without indexes a write costs less, and a document may
// hold more. What is asked for are backfills by created, dates by wake_at, and partitions by backfill_id.
func Unindexed() map[string][]string {
	return map[string][]string{
		"dates": {"phases", "triggered", "complete", "checks"}, "backfills": {"request", "calendar", "dates", "progress", "lease", "planned", "rollbacks", "limits"},
		"versions": {"phases", "checks"},
	}
}
