package replica_test

import (
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
)

// dying lets all writes fail after some.
type dying struct{ left atomic.Int32 }

func (d *dying) String() string { return "dying" }

func (d *dying) MaybeError(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && d.left.Add(-1) < 0 {
		return errorfs.ErrInjected
	}
	return nil
}

// TestEndOnAFailingDevice lets a device fail when a store is closed or given up,
// after each possible number of writes: the error is returned, and the process
// lives.
func TestEndOnAFailingDevice(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		end  func(s *replica.Store) error
	}{
		{"closed", (*replica.Store).Close},
		{"given up", (*replica.Store).Abandon},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			failed := 0
			for skip := int32(0); ; skip++ {
				var device dying
				device.left.Store(1 << 30)
				o := storeOptions(errorfs.Wrap(vfs.NewMem(), &device), 1)
				must(t, replica.CreateStore("s", identity(1), []uint64{1}, o))
				s, err := replica.OpenStore("s", o)
				must(t, err)
				c := &cluster{t: t, stores: map[uint64]*replica.Store{1: s}, leaders: map[uint64]map[uint32]uint64{1: {}},
					compares: make(map[uint64][]*replica.Comparison), outcomes: make(map[uint64]*metadata.Result)}
				c.lead(1)
				device.left.Store(skip)
				if err := test.end(s); err != nil {
					failed++
					continue
				}
				break
			}
			if failed == 0 {
				t.Error("nothing is written at the end")
			}
		})
	}
}

// TestLocalCloseOnAFailingDevice is that of one copy.
func TestLocalCloseOnAFailingDevice(t *testing.T) {
	t.Parallel()
	for skip := int32(0); ; skip++ {
		var device dying
		device.left.Store(1 << 30)
		o := storeOptions(errorfs.Wrap(vfs.NewMem(), &device), 1).Options
		l, err := replica.Open("local", o)
		must(t, err)
		prepare(t, l)
		device.left.Store(skip)
		if l.Close() == nil {
			if skip == 0 {
				t.Error("nothing is written at the end")
			}
			return
		}
	}
}
