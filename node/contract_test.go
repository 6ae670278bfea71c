package node_test

import (
	"crypto/rand"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/gateway/object/shardtest"
	"github.com/ruche-storage/ruche/node"
)

var _ object.Shards = (*node.Node)(nil)

// systemClock is the time of the machine.
type systemClock struct{}

func (systemClock) Now() time.Time                         { return time.Now() }
func (systemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

func openOne(t *testing.T, fs vfs.FS, path string, opts node.Options) shardtest.Subject {
	t.Helper()
	opts.FS, opts.Clock, opts.Cluster = fs, systemClock{}, node.ClusterID{1}
	id, err := node.Format(fs, rand.Reader, path, node.Formatting{Cluster: opts.Cluster, Site: "par1"})
	if err != nil {
		t.Fatal(err)
	}
	n, refused, err := node.Open(t.Context(), opts, []string{path})
	if err != nil || len(refused) > 0 {
		t.Fatal(refused, err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return shardtest.Subject{Shards: n, Drive: id}
}

func TestContractInMemory(t *testing.T) {
	t.Parallel()
	shardtest.Run(t, func(t *testing.T) shardtest.Subject {
		return openOne(t, vfs.NewMem(), "drive", node.Options{})
	})
}

func TestContractOnRealFiles(t *testing.T) {
	t.Parallel()
	shardtest.Run(t, func(t *testing.T) shardtest.Subject {
		return openOne(t, vfs.Default, t.TempDir(), node.Options{BallastBytes: -1})
	})
}

// TestContractTinySegments rolls and compacts all the time, and has no budget
// for most shards to be buffered.
func TestContractTinySegments(t *testing.T) {
	t.Parallel()
	shardtest.Run(t, func(t *testing.T) shardtest.Subject {
		return openOne(t, vfs.NewMem(), "drive", node.Options{
			SegmentBytes: 32 << 10, BufferBytes: 64 << 10, QueueRecords: 2, OpenFiles: 3,
			MaintenanceInterval: time.Millisecond, CompactGrace: time.Microsecond,
		})
	})
}
