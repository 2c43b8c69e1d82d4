package firestorestate_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"sluice.dev/pkg/state"
	"sluice.dev/pkg/state/firestorestate"
	"sluice.dev/pkg/state/statetest"
)

var projects atomic.Int32

func emulator(t *testing.T) string {
	t.Helper()
	host := os.Getenv("FIRESTORE_EMULATOR_HOST")
	if host == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("no Firestore emulator: run the tests with make test")
		}
		t.Skip("no Firestore emulator: install gcloud with its emulators and Java 17, and run make test")
	}
	return host
}

// A listener whose connection breaks is made again, and misses nothing.
func TestInterruption(t *testing.T) {
	host := emulator(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var open []net.Conn
	cut := func() {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range open {
			_ = c.Close()
		}
		open = nil
	}
	t.Cleanup(func() { _ = listener.Close(); cut() })
	go func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("tcp", host)
			if err != nil {
				_ = from.Close()
				continue
			}
			mu.Lock()
			open = append(open, from, to)
			mu.Unlock()
			go func() { _, _ = io.Copy(to, from); _ = to.Close() }()
			go func() { _, _ = io.Copy(from, to); _ = from.Close() }()
		}
	}()
	t.Setenv("FIRESTORE_EMULATOR_HOST", listener.Addr().String()) // the client takes no other word for it
	s, err := firestorestate.Open(t.Context(), fmt.Sprintf("sluice-test-%d-%d", os.Getpid(), projects.Add(1)), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	used := 0
	statetest.Interruption(t, s, func() {
		mu.Lock()
		used = len(open)
		mu.Unlock()
		cut()
	})
	if used == 0 {
		t.Error("nothing was cut")
	}
}

func TestStore(t *testing.T) {
	t.Parallel()
	emulator(t)
	statetest.Run(t, func(t *testing.T) state.Store {
		t.Helper()
		s, err := firestorestate.Open(t.Context(), fmt.Sprintf("sluice-test-%d-%d", os.Getpid(), projects.Add(1)), "")
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}
