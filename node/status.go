package node

import (
	"github.com/ruche-storage/ruche/metadata/topology"
)

// DriveState says what a drive can do.
type DriveState string

const (
	StateOnline DriveState = "online" // reads and writes
	StateFull   DriveState = "full"   // reads and deletes
	StateFenced DriveState = "fenced" // nothing
)

// DriveStatus is all there is to tell of one drive. Bytes are those of
// records, with headers and footers, unless said otherwise.
type DriveStatus struct {
	ID          topology.DriveID
	Path        string
	State       DriveState
	Incarnation uint64

	CapacityBytes int64 // of the device's share, 0 if unknown
	FreeBytes     int64 // that shards may still take, 0 if unknown or full
	UsedBytes     int64 // of all records and dead space

	Shards        int64 // records of shards
	LiveBytes     int64 // neither pending nor dead
	PendingShards int64
	PendingBytes  int64
	DeadBytes     int64 // in shared segments, waiting for compaction
	Segments      int   // shared segments

	QueueRecords int // records that wait for the writer
	Reads        Latency
	Writes       Latency // from the first byte written to the row in the index
	Scrub        ScrubStatus
	Recovery     RecoveryStats // of the last start
	LastError    string
}

// Status returns the state of the drive.
func (d *Drive) Status() DriveStatus {
	t := d.index.snapshotTotals()
	_, dead := d.segmentBytes()
	capacity, free := d.space.capacity()
	d.segMu.Lock()
	segments := len(d.segments)
	d.segMu.Unlock()
	s := DriveStatus{
		ID: d.ID(), Path: d.path, State: StateOnline, Incarnation: d.Superblock().Incarnation,
		CapacityBytes: capacity, FreeBytes: free, UsedBytes: t.Bytes + dead,
		Shards: t.Shards, LiveBytes: t.Bytes - t.PendingBytes, PendingShards: t.PendingShards,
		PendingBytes: t.PendingBytes, DeadBytes: dead, Segments: segments,
		QueueRecords: len(d.queue), Reads: d.reads.snapshot(), Writes: d.writes.snapshot(),
		Scrub: d.scrubber.snapshot(), Recovery: d.recovered, LastError: d.errs.get(),
	}
	switch {
	case d.isFenced():
		s.State, s.FreeBytes = StateFenced, 0
	case d.space.isFull():
		s.State, s.FreeBytes = StateFull, 0
	}
	return s
}

// ReadLatency says how long reads of the drive took lately: when to ask
// another.
func (d *Drive) ReadLatency() Latency { return d.reads.snapshot() }

// ReadLatency says how long reads of a drive took lately, and nothing of one
// that is absent.
func (n *Node) ReadLatency(drive topology.DriveID) Latency {
	d, err := n.Drive(drive)
	if err != nil {
		return Latency{}
	}
	return d.ReadLatency()
}

// Status returns the state of every open drive, in order of their ids.
func (n *Node) Status() []DriveStatus {
	var all []DriveStatus
	for _, d := range n.Drives() {
		all = append(all, d.Status())
	}
	return all
}

// Metrics is what the drives of a node have in common.
type Metrics struct {
	BufferBytes      int64 // in use for shards on their way to a drive
	BufferLimitBytes int64
	OpenFiles        int   // open for reading
	IndexCacheBytes  int64 // in use by the indexes
	Drives           []DriveStatus
}

// Metrics returns everything there is to measure.
func (n *Node) Metrics() Metrics {
	m := Metrics{
		BufferBytes: n.shared.budget.used.Load(), BufferLimitBytes: n.opts.BufferBytes,
		OpenFiles: n.shared.files.count(), Drives: n.Status(),
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	if !n.closed {
		m.IndexCacheBytes = n.shared.cache.Size()
	}
	return m
}
