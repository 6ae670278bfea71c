package object

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ruche-storage/ruche/metadata/topology"
)

// latencies knows how long shard reads take: over all, for the delay of a
// hedge, and for each drive, so that one that is slow is asked last.
type latencies struct {
	now func() time.Time

	buckets [latencyBuckets]atomic.Uint32 // by binary logarithm of microseconds
	samples atomic.Uint32
	high    atomic.Int64 // p95, recomputed every latencySamples reads
	overdue atomic.Int32 // reads that are running and late, of all drives

	drives sync.Map // topology.DriveID -> *driveLatency
}

const (
	latencyBuckets = 32
	latencySamples = 256

	// slowFactor is how much slower than p95 a drive must be on average to
	// be asked last, and slowMemory how long until it is given another chance.
	slowFactor = 4
	slowMemory = 5 * time.Second

	// A drive is asked last, too, while overdueMost reads of it are running that
	// are late, if they are one in overdueShare of all such: when all drives are
	// busy, none is to blame.
	overdueMost  = 2
	overdueShare = 4

	usualWeight  = 8 // a read is this part of the new average
	chanceWeight = 1 // a read that gave a slow drive another chance counts alone
)

// driveLatency is a moving average over about eight reads.
type driveLatency struct {
	average atomic.Int64 // nanoseconds
	last    atomic.Int64 // when the average last changed, nanoseconds since 1970
	overdue atomic.Int32 // reads that are running and late
}

// await notes that n more reads of a drive are running and late: -1 when one of
// them has returned.
func (l *latencies) await(d topology.DriveID, n int32) {
	l.drive(d).overdue.Add(n)
	l.overdue.Add(n)
}

// note records a read, which is one part in weight of the new average. It may
// lose a sample to a concurrent one.
func (l *latencies) note(d topology.DriveID, took time.Duration, weight int64) {
	bucket := min(bits.Len64(uint64(took.Microseconds())), latencyBuckets-1)
	l.buckets[bucket].Add(1)
	if l.samples.Add(1)%latencySamples == 0 {
		l.recompute()
	}
	drive := l.drive(d)
	old := drive.average.Load()
	if old == 0 {
		old = int64(took)
	}
	drive.average.Store(old + (int64(took)-old)/weight)
	drive.last.Store(l.now().UnixNano())
}

func (l *latencies) drive(d topology.DriveID) *driveLatency {
	if known, ok := l.drives.Load(d); ok {
		return known.(*driveLatency)
	}
	known, _ := l.drives.LoadOrStore(d, new(driveLatency))
	return known.(*driveLatency)
}

// recompute finds p95 and halves the counts, so that what was long ago fades.
func (l *latencies) recompute() {
	var total uint32
	var counts [latencyBuckets]uint32
	for i := range counts {
		counts[i] = l.buckets[i].Load()
		total += counts[i]
		l.buckets[i].Store(counts[i] / 2)
	}
	var sum uint32
	for i, n := range counts {
		if sum += n; uint64(sum)*100 >= uint64(total)*95 {
			l.high.Store(int64(time.Microsecond) << i)
			return
		}
	}
}

// p95 is the time within which 95 % of the shard reads of late were done,
// rounded up to a power of two of microseconds; 0 while there are few.
func (l *latencies) p95() time.Duration { return time.Duration(l.high.Load()) }

// slow reports whether a drive is to be asked last: it was slow of late, or
// reads of it hang right now.
func (l *latencies) slow(d topology.DriveID, least time.Duration) bool {
	known, ok := l.drives.Load(d)
	if !ok {
		return false
	}
	drive := known.(*driveLatency)
	if n := drive.overdue.Load(); n >= overdueMost && n*overdueShare >= l.overdue.Load() {
		return true
	}
	return time.Duration(drive.average.Load()) > max(least, slowFactor*l.p95())
}

// chance reports whether a drive that is slow is to be read from once more, by
// one reader that does not wait for it: when nothing was read for a while.
func (l *latencies) chance(d topology.DriveID) bool {
	drive, now := l.drive(d), l.now().UnixNano()
	last := drive.last.Load()
	return drive.overdue.Load() < overdueMost && now-last >= int64(slowMemory) && drive.last.CompareAndSwap(last, now)
}
