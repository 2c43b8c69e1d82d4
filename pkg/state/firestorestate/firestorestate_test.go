package firestorestate_test

import (
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"sluice.dev/pkg/state"
	"sluice.dev/pkg/state/firestorestate"
	"sluice.dev/pkg/state/statetest"
)

var projects atomic.Int32

func TestStore(t *testing.T) {
	t.Parallel()
	if os.Getenv("FIRESTORE_EMULATOR_HOST") == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("no Firestore emulator: run the tests with make test")
		}
		t.Skip("no Firestore emulator: install gcloud with its emulators and Java 17, and run make test")
	}
	statetest.Run(t, func(t *testing.T) state.Store {
		t.Helper()
		s, err := firestorestate.Open(t.Context(), fmt.Sprintf("sluice-test-%d-%d", os.Getpid(), projects.Add(1)), "")
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}
