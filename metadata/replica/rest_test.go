package replica_test

import (
	"errors"
	"testing"
	"time"

	"github.com/ruche-storage/ruche/metadata/replica"
)

// TestRestingStoreLeadsNothing: it gives groups away, in use or not, and is given
// none to spread them, until it has rested.
func TestRestingStoreLeadsNothing(t *testing.T) {
	t.Parallel()
	c := balanced(t)
	c.tick(60)
	if n := leading(c.stores); n[1] == 0 {
		t.Fatalf("store 1 leads nothing: %v", n)
	}
	c.stores[1].Rest(200)
	c.tick(60)
	if n := leading(c.stores); n[1] != 0 || n[2]+n[3] != 17 {
		t.Errorf("groups led while store 1 rests: %v", n)
	}
	c.writing(100)
	if n := leading(c.stores); n[1] != 0 {
		t.Errorf("groups led after writes: %v", n)
	}
	c.tick(2000)
	if n := leading(c.stores); n[1] == 0 {
		t.Errorf("groups led after a rest: %v", n)
	}
}

func TestRestOfNobody(t *testing.T) {
	t.Parallel()
	e := openReplicated(t, places(t, 1), engineOptions())
	if err := e.Rest(t.Context(), 7, time.Minute); !errors.Is(err, replica.ErrNoStore) {
		t.Errorf("Rest of a store that is not there: %v", err)
	}
	if err := e.Rest(t.Context(), 1, time.Minute); err != nil {
		t.Errorf("Rest: %v", err)
	}
}
