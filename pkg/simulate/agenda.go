package simulate

import "time"

// kind is what an event of the simulation is about.
type kind uint8

const (
	report kind = iota // a run has ended
	answer             // a call to scrape again has been answered
	admit              // admission may have something to give
	wake               // a timer of a date is due
)

// happening is something that will happen. Those of the same moment happen in the order they were foreseen.
type happening struct {
	at      time.Duration
	seq     int
	kind    kind
	ok      bool
	date    int // position
	proc    int // position in the pipeline
	attempt int
}

type agenda []happening

func (a agenda) Len() int { return len(a) }

func (a agenda) Less(i, j int) bool {
	return a[i].at < a[j].at || (a[i].at == a[j].at && a[i].seq < a[j].seq)
}

func (a agenda) Swap(i, j int) { a[i], a[j] = a[j], a[i] }

func (a *agenda) Push(x any) { *a = append(*a, x.(happening)) }

func (a *agenda) Pop() any {
	old := *a
	h := old[len(old)-1]
	*a = old[:len(old)-1]
	return h
}
