package object

import (
	"crypto/md5"
	"hash"
	"sync"
	"sync/atomic"

	md5simd "github.com/minio/md5-simd"
)

const (
	// laneBodies is how many long bodies must be read at once before lanes
	// pay: with fewer, most of a vector is empty.
	laneBodies = 4

	// laneBytes is the shortest body that is worth a lane.
	laneBytes = 256 << 10

	// maxLanes is how many hashes share the vectors. Further bodies are
	// hashed one by one, on the other processors.
	maxLanes = md5simd.Lanes
)

// lanes computes the MD5 of several bodies at once. MD5 is the largest cost of
// a PUT, and a single one cannot be computed faster; eight in one vector take
// the time of two. Lanes are kept for ever and used again: package md5-simd
// does not forget a hash that was closed.
type lanes struct {
	bodies atomic.Int64 // long bodies that are being read

	mu     sync.Mutex // guards what follows
	server md5simd.Server
	free   []md5simd.Hasher
	made   int
	closed bool
}

// get returns a lane for a body, or nil if it had better be hashed alone. Every
// long body is counted: release must be called with what get returned.
func (l *lanes) get(bytes int64) md5simd.Hasher {
	if bytes < laneBytes || l.bodies.Add(1) < laneBodies {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.free); n > 0 {
		h := l.free[n-1]
		l.free = l.free[:n-1]
		return h
	}
	if l.made == maxLanes || l.closed {
		return nil
	}
	if l.server == nil {
		l.server = md5simd.NewServer()
	}
	l.made++
	return l.server.NewHash()
}

// release gives back what get returned for a body of that length. The body may
// have been cut off.
func (l *lanes) release(bytes int64, h md5simd.Hasher) {
	if bytes >= laneBytes {
		l.bodies.Add(-1)
	}
	if h == nil {
		return
	}
	h.Reset()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.free = append(l.free, h)
}

// close ends the goroutine behind the lanes. All must have been released.
func (l *lanes) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, h := range l.free {
		h.Close()
	}
	l.free = nil
	if l.server != nil {
		l.server.Close()
		l.server = nil
	}
}

// getMD5 returns a hash of the standard library.
func (p *hashPool) getMD5() hash.Hash {
	if h, ok := p.md5.Get().(hash.Hash); ok {
		h.Reset()
		return h
	}
	return md5.New()
}
