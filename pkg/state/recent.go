package state

import (
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"

	"sluice.dev/pkg/backfill"
)

// Recent remembers the newest version that was seen of the records used last. It may be behind the store, but
// never holds what is not so: facts are only added. What is decided from it must hold with more facts too, or be
// checked again with a record that was read.
type Recent struct {
	mu      sync.Mutex // of Saw: what is older must not come in between its look and its change
	records *lru.Cache[recentKey, backfill.Record]
}

type recentKey struct {
	scope string // its Key: an id may be used again
	date  backfill.Date
}

// recentRecords bounds how many are remembered; an NBA date takes about 30 KB.
const recentRecords = 512

// NewRecent makes an empty one.
func NewRecent() *Recent {
	records, err := lru.New[recentKey, backfill.Record](recentRecords)
	if err != nil {
		panic(err) // only a size below one is refused
	}
	return &Recent{records: records}
}

// Saw remembers a record unless a newer version is known.
func (r *Recent) Saw(scope *backfill.Scope, rec *backfill.Record) {
	k := recentKey{scope.Key, rec.Date}
	r.mu.Lock()
	defer r.mu.Unlock()
	if old, ok := r.records.Peek(k); ok && old.Len() > rec.Len() {
		return
	}
	r.records.Add(k, *rec)
}

// Get returns the newest version seen.
func (r *Recent) Get(scope *backfill.Scope, date backfill.Date) (backfill.Record, bool) {
	return r.records.Get(recentKey{scope.Key, date})
}
