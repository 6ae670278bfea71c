package object

import (
	"bytes"
	"slices"
	"sync"

	"github.com/ruche-storage/ruche/metadata/topology"
)

// tasks are goroutines that may outlive the request that started them: writers
// and readers of drives that hang. It knows on which drives calls are running.
type tasks struct {
	sync.WaitGroup

	mu     sync.Mutex // guards drives
	drives map[topology.DriveID]int
}

// on notes that a call on a drive begins. What it returns must be called at its
// end.
func (t *tasks) on(drive topology.DriveID) (end func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.drives == nil {
		t.drives = make(map[topology.DriveID]int)
	}
	t.drives[drive]++
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.drives[drive]--; t.drives[drive] == 0 {
			delete(t.drives, drive)
		}
	}
}

// busy returns the drives on which calls are running, in order.
func (t *tasks) busy() []topology.DriveID {
	t.mu.Lock()
	defer t.mu.Unlock()
	var drives []topology.DriveID
	for drive := range t.drives {
		drives = append(drives, drive)
	}
	slices.SortFunc(drives, func(a, b topology.DriveID) int { return bytes.Compare(a[:], b[:]) })
	return drives
}
