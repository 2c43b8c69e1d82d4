package fault_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"sluice.dev/pkg/fault"
)

func TestKinds(t *testing.T) {
	t.Parallel()
	cause := errors.New("cause")
	for _, c := range []struct {
		err       error
		kind      fault.Kind
		retryable bool
	}{
		{errors.New("who knows"), fault.Unknown, true},
		{fault.New(fault.Invalid, "bad: %w", cause), fault.Invalid, false},
		{fmt.Errorf("doing it: %w", fault.New(fault.NotFound, "no")), fault.NotFound, false},
		{fault.New(fault.Unavailable, "later"), fault.Unavailable, true},
		{fmt.Errorf("reading: %w", context.DeadlineExceeded), fault.Unavailable, true},
		{context.Canceled, fault.Unavailable, true},
		{fault.New(fault.Conflict, "outer: %w", fault.New(fault.NotFound, "inner")), fault.Conflict, false},
	} {
		if fault.KindOf(c.err) != c.kind || fault.Retryable(c.err) != c.retryable || !fault.Is(c.err, c.kind) {
			t.Errorf("%v: kind %v, retryable %t", c.err, fault.KindOf(c.err), fault.Retryable(c.err))
		}
	}
	if fault.Is(nil, fault.Unknown) || fault.Retryable(nil) {
		t.Error("no error has no kind and is not retried")
	}
	if !errors.Is(fault.New(fault.Invalid, "bad: %w", cause), cause) {
		t.Error("the cause is lost")
	}
}

func TestLists(t *testing.T) {
	t.Parallel()
	var l fault.List
	if l.Err() != nil {
		t.Error("an empty list is an error")
	}
	l.Addf("a is %d", 1)
	l.Addf("b")
	err := fmt.Errorf("checking: %w", l.Err())
	if !slices.Equal(fault.Faults(err), []string{"a is 1", "b"}) || !fault.Is(err, fault.Invalid) || err.Error() != "checking: a is 1; b" {
		t.Errorf("%v: %q", err, fault.Faults(err))
	}
	if got := fault.Faults(errors.New("alone")); !slices.Equal(got, []string{"alone"}) || fault.Faults(nil) != nil {
		t.Errorf("%q", got)
	}
}
