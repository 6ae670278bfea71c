package replica_test

import (
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata/replica"
)

// TestStateThatIsGone opens a store of which only the log is left, cut long ago:
// an empty state is not what such a log begins with.
func TestStateThatIsGone(t *testing.T) {
	t.Parallel()
	c := prepared(t)
	c.puts(0, 5)
	c.tick(15)
	c.cutAll(2)
	if err := c.stores[2].Close(); err != nil {
		t.Fatal(err)
	}
	delete(c.stores, 2)
	fs, log := vfs.NewMem(), c.fs.PathJoin(storeDir(2), "log")
	if err := fs.MkdirAll(storeDir(2), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := vfs.Clone(c.fs, fs, log, log); err != nil {
		t.Fatal(err)
	}
	_, err := replica.OpenStore(storeDir(2), storeOptions(fs, 2))
	if open, ok := errors.AsType[*replica.OpenError](err); !ok || open.Reason != "the log begins behind the state" || open.State != 0 {
		t.Errorf("OpenStore = %v, want the log behind the state", err)
	}
}
