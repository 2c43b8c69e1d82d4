// Package fault is the small vocabulary of error kinds that drivers map into and edges map out of: an HTTP
// status, an ack or a nack, an exit code. It also carries lists of faults, so that bad input is answered
// with everything that is wrong with it.
package fault

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Kind says what an error means to whoever must act on it.
type Kind int

// The kinds. Unknown is retryable, because giving up on what nobody understands loses data.
const (
	Unknown     Kind = iota
	Invalid          // the input is wrong and will stay wrong
	NotFound         // there is no such thing
	Conflict         // somebody else has it, or it is there with other content
	Refused          // not in the state that things are in
	Fenced           // a newer lease holder exists: stop writing
	Unavailable      // try again later
	Unsupported      // this build or placement cannot do it
)

type kinded struct {
	kind Kind
	err  error
}

func (e *kinded) Error() string { return e.err.Error() }
func (e *kinded) Unwrap() error { return e.err }

// New makes an error of a kind; the format may wrap another with %w.
func New(k Kind, format string, args ...any) error {
	return &kinded{k, fmt.Errorf(format, args...)}
}

// KindOf finds the outermost kind in the chain of an error.
func KindOf(err error) Kind {
	var k *kinded
	if errors.As(err, &k) {
		return k.kind
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return Unavailable
	}
	return Unknown
}

// Is says whether an error is of a kind.
func Is(err error, k Kind) bool { return err != nil && KindOf(err) == k }

// Retryable says whether doing the same again may help.
func Retryable(err error) bool {
	switch KindOf(err) {
	case Unknown, Unavailable:
		return err != nil
	default:
		return false
	}
}

// List collects everything that is wrong with one input.
type List []string

// Addf adds a fault.
func (l *List) Addf(format string, args ...any) { *l = append(*l, fmt.Sprintf(format, args...)) }

// Err is nil for an empty list, otherwise an Invalid error that holds all faults.
func (l List) Err() error {
	if len(l) == 0 {
		return nil
	}
	return &kinded{Invalid, faults(l)}
}

type faults []string

func (f faults) Error() string { return strings.Join(f, "; ") }

// Faults lists the single faults of an error, or its text when it is no list.
func Faults(err error) []string {
	var f faults
	if errors.As(err, &f) {
		return f
	}
	if err == nil {
		return nil
	}
	return []string{err.Error()}
}
