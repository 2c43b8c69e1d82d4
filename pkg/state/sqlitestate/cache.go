package sqlitestate

import (
	"container/list"
	"sync"

	"sluice.dev/pkg/backfill"
)

// cachedRecords bounds the memory of the cache: a record of 52 finished processors takes about 20 kB.
const cachedRecords = 1024

// cache keeps the records used last. Only the writer's goroutine puts, so versions never go backwards.
type cache struct {
	mu    sync.Mutex
	max   int
	items map[dateKey]*list.Element
	order *list.List // most recently used first
}

type cached struct {
	key dateKey
	rec backfill.Record
}

func newCache(size int) *cache {
	return &cache{max: size, items: map[dateKey]*list.Element{}, order: list.New()}
}

func (c *cache) get(k dateKey) (backfill.Record, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.items[k]
	if !ok {
		return backfill.Record{}, false
	}
	c.order.MoveToFront(e)
	return e.Value.(*cached).rec, true
}

func (c *cache) put(k dateKey, r backfill.Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.items[k]; ok {
		e.Value.(*cached).rec = r
		c.order.MoveToFront(e)
		return
	}
	c.items[k] = c.order.PushFront(&cached{k, r})
	if c.order.Len() > c.max {
		last := c.order.Back()
		delete(c.items, last.Value.(*cached).key)
		c.order.Remove(last)
	}
}

// drop takes out all records of a backfill.
func (c *cache) drop(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, e := range c.items {
		if k.id == id {
			delete(c.items, k)
			c.order.Remove(e)
		}
	}
}
