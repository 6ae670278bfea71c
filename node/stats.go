package node

import (
	"math/bits"
	"sync"
	"time"
)

// Latency says how long operations of a kind took lately.
type Latency struct {
	Mean  time.Duration // moving average over about the last 16 operations
	P95   time.Duration // over the last few thousand, within a quarter
	Count uint64        // since the drive was opened
}

// latency keeps what Latency reports. There are four buckets to every power of
// two of microseconds; all are halved every few thousand samples, so that the
// past fades.
type latency struct {
	mu      sync.Mutex
	mean    float64 // nanoseconds
	count   uint64
	weight  uint32
	buckets [128]uint32
}

const latencyWindow = 4096

func (l *latency) add(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.count == 0 {
		l.mean = float64(d)
	}
	l.mean += (float64(d) - l.mean) / 16
	l.count++
	l.buckets[latencyBucket(d)]++
	if l.weight++; l.weight >= latencyWindow {
		l.weight = 0
		for i := range l.buckets {
			l.buckets[i] /= 2
			l.weight += l.buckets[i]
		}
	}
}

// latencyBucket returns the bucket of d: four to every power of two of
// microseconds.
func latencyBucket(d time.Duration) int {
	us := uint64(max(d.Microseconds(), 1)) << 2 // two more bits of fraction
	log := bits.Len64(us) - 1                   // at least 2
	return min((log-2)<<2|int(us>>(log-2)&3), 127)
}

// bucketTop returns the longest duration of a bucket.
func bucketTop(i int) time.Duration {
	return time.Duration(float64(uint64(4+i&3+1)<<(i>>2)) / 4 * float64(time.Microsecond))
}

func (l *latency) snapshot() Latency {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Latency{Mean: time.Duration(l.mean), Count: l.count}
	var total, seen uint64
	for _, n := range l.buckets {
		total += uint64(n)
	}
	for i, n := range l.buckets {
		if seen += uint64(n); total > 0 && seen*100 >= total*95 {
			s.P95 = bucketTop(i)
			break
		}
	}
	return s
}
