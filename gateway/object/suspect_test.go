package object

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// TestSuspects steps through what makes a drive suspect and what ends it.
func TestSuspects(t *testing.T) {
	t.Parallel()
	now := time.Unix(0, 0)
	var told []bool
	s := newSuspects(func() time.Time { return now }, func(_ topology.DriveID, suspect bool) { told = append(told, suspect) })
	d, other := topology.DriveID{1}, topology.DriveID{2}

	for range 1000 { // every third call is late: that is no pattern
		s.late(d, lateWeight)
		s.inTime(d)
		s.inTime(d)
	}
	if s.has(d) {
		t.Error("suspect after a third of its calls was late")
	}
	for range 11 {
		s.late(d, lateWeight)
	}
	if !s.has(d) || s.has(other) || !slices.Equal(s.list(), []topology.DriveID{d}) {
		t.Errorf("after 11 late calls in a row: %v", s.list())
	}
	for range 3 {
		s.late(other, lostWeight)
	}
	if !s.has(other) {
		t.Error("not suspect after 3 calls that nobody waited for")
	}
	heal := func(probes int) {
		t.Helper()
		for i := range probes {
			if !s.has(d) || !s.beginProbe(d) || s.beginProbe(d) {
				t.Fatalf("probe %d of %d: %v", i, probes, s.list())
			}
			s.probed(d, true)
		}
		if s.has(d) || s.beginProbe(d) {
			t.Fatalf("suspect after %d probes", probes)
		}
	}
	if !s.beginProbe(d) {
		t.Fatal("no probe")
	}
	s.probed(d, true)
	s.beginProbe(d)
	s.probed(d, false) // begins anew
	heal(probesNeeded)
	for _, want := range []int{6, 12, 24, 48, 48} {
		now = now.Add(relapseTime / 2)
		s.accuse(d)
		s.accuse(d)
		heal(want)
	}
	now = now.Add(2 * relapseTime)
	s.accuse(d)
	heal(probesNeeded)
	if len(told) != 1+1+1+2*6 || told[len(told)-1] {
		t.Errorf("told %v", told)
	}
}

// pace makes calls on drives take time: the same on each, and another on one.
type pace struct {
	mu    sync.Mutex
	usual time.Duration
	slow  time.Duration // 0: for ever
	drive topology.DriveID
	stuck chan struct{}
	calls int // on that drive
}

func (p *pace) fault(_ string, d topology.DriveID, _ metadata.ShardRef) fault {
	p.mu.Lock()
	took, stuck := p.usual, p.stuck
	if d == p.drive {
		p.calls++
		if took = p.slow; took != 0 {
			stuck = nil
		}
	} else {
		stuck = nil
	}
	p.mu.Unlock()
	if stuck != nil {
		return fault{wait: stuck}
	}
	time.Sleep(took)
	return fault{}
}

// TestOneSlowDrive is T-SLOW: a drive that is a hundred times slower than the
// others, or hangs, costs neither errors nor, ten seconds later, the 99th
// percentile of writes and reads more than twice what it was.
func TestOneSlowDrive(t *testing.T) {
	t.Parallel()
	for _, size := range []int{40_000, 400_000} {
		for _, slow := range []time.Duration{0, 200 * time.Millisecond} {
			for _, clients := range []int{1, laneBodies - 1} { // lanes are goroutines of no bubble
				t.Run(fmt.Sprintf("%d/%v/%d", size, slow, clients), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) { oneSlowDrive(t, size, slow, clients) })
				})
			}
		}
	}
}

func oneSlowDrive(t *testing.T, size int, slow time.Duration, clients int) {
	w := newWorld(t, setup{scheme: metadata.NewScheme(4, 2), options: func(o *Options) { o.HedgeAfter = 0 }})
	p := &pace{usual: 2 * time.Millisecond, slow: slow, stuck: make(chan struct{})}
	w.shards.set(p.fault)
	body := payload(size, 1)
	w.mustPut("old", body)

	puts, gets := w.clients(body, clients, 3*time.Second)
	p.mu.Lock()
	p.drive = w.drives[2]
	p.mu.Unlock()
	w.clients(body, clients, 10*time.Second)
	if got := w.State().Suspects; !slices.Equal(got, w.drives[2:3]) {
		t.Errorf("suspects %v after 10 s", got)
	}
	hanging := w.State().HangingTasks
	slowPuts, slowGets := w.clients(body, clients, 5*time.Second)
	if slowPuts > 2*puts || slowGets > 2*gets {
		t.Errorf("99th percentile: PUT %v, before %v; GET %v, before %v", slowPuts, puts, slowGets, gets)
	}
	s := w.State()
	if s.HangingTasks > max(hanging, maxHanging)+1 || s.ShortWrites == 0 {
		t.Errorf("state %+v, %d hung before", s, hanging)
	}

	// The drive is well again: so it is known within some probes.
	p.mu.Lock()
	p.drive = topology.DriveID{}
	close(p.stuck)
	p.mu.Unlock()
	time.Sleep(time.Duration(probesMost+2) * (w.options.LagTimeout + 200*time.Millisecond))
	if got := w.State().Suspects; len(got) != 0 {
		t.Errorf("suspects %v in the end", got)
	}
	passed := w.State().ShardsPassed
	w.clients(body, clients, time.Second)
	if s := w.State(); s.ShardsPassed != passed || s.HangingTasks != 0 {
		t.Errorf("state in the end %+v", s)
	}
	w.shards.set(nil)
	synctest.Wait()
}

// clients put and get an object for a while; it returns the 99th percentiles of
// how long that took.
func (w *world) clients(body []byte, clients int, d time.Duration) (put, get time.Duration) {
	w.t.Helper()
	var mu sync.Mutex
	var puts, gets []time.Duration
	end := time.Now().Add(d)
	var group sync.WaitGroup
	for i := range clients {
		group.Go(func() {
			for n := 0; time.Now().Before(end); n++ {
				began := time.Now()
				if _, err := w.put(fmt.Sprintf("c%d-%d", i, n%4), body); err != nil {
					w.t.Errorf("put: %v", err)
					return
				}
				took := time.Since(began)
				began = time.Now()
				got, err := w.read("old", Range{})
				if err != nil || !bytes.Equal(got, body) {
					w.t.Errorf("get: %d bytes, %v", len(got), err)
					return
				}
				mu.Lock()
				puts, gets = append(puts, took), append(gets, time.Since(began))
				mu.Unlock()
				time.Sleep(100 * time.Millisecond)
			}
		})
	}
	group.Wait()
	return percentile99(puts), percentile99(gets)
}

func percentile99(times []time.Duration) time.Duration {
	if len(times) == 0 {
		return 0
	}
	slices.Sort(times)
	return times[(len(times)-1)*99/100]
}

// readers read an object for a while, all at the same time; it returns how long
// each read took.
func (w *world) readers(key string, body []byte, clients int, d time.Duration) (took []time.Duration) {
	w.t.Helper()
	var mu sync.Mutex
	end := time.Now().Add(d)
	var group sync.WaitGroup
	for i := range clients {
		group.Go(func() {
			time.Sleep(time.Duration(i) * 700 * time.Microsecond) // not in step
			for time.Now().Before(end) {
				began := time.Now()
				if got, err := w.read(key, Range{}); err != nil || !bytes.Equal(got, body) {
					w.t.Errorf("get: %d bytes, %v", len(got), err)
					return
				}
				mu.Lock()
				took = append(took, time.Since(began))
				mu.Unlock()
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	group.Wait()
	return took
}

// TestReadsOfDriveThatHangs: from the first second on a drive that hangs costs
// no more than one late read a client, and no more than the hedges may; once it
// goes on it is read from again.
func TestReadsOfDriveThatHangs(t *testing.T) {
	t.Parallel()
	for _, slow := range []time.Duration{0, 200 * time.Millisecond} {
		t.Run(slow.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, setup{scheme: metadata.NewScheme(4, 2), options: func(o *Options) { o.HedgeAfter = 0 }})
				body := payload(100_000, 1)
				w.mustPut("old", body)
				_, _, chunks := w.chunksOf("old")
				drive := w.topology.pgs.Load().Groups[chunks[0].PG].Newest().Members[0]
				p := &pace{usual: 2 * time.Millisecond, slow: slow, stuck: make(chan struct{})}
				w.shards.set(p.fault)
				const clients = 8
				usual := percentile99(w.readers("old", body, clients, time.Second))
				p.mu.Lock()
				p.drive, p.calls = drive, 0
				p.mu.Unlock()
				took := w.readers("old", body, clients, 12*time.Second)
				late := 0
				for _, d := range took {
					if d > 2*usual {
						late++
					}
				}
				// A drive that is slow answers in the end, and is given another chance
				// every few seconds, which nobody waits for.
				if late > 2*clients || percentile99(took) > 2*usual {
					t.Errorf("%d of %d reads took more than twice the %v of before, 99th percentile %v", late, len(took), usual, percentile99(took))
				}
				p.mu.Lock()
				if p.calls > 4*clients {
					t.Errorf("%d reads of the drive", p.calls)
				}
				p.drive = topology.DriveID{}
				close(p.stuck)
				p.mu.Unlock()
				w.readers("old", body, 1, 20*time.Second)
				if w.latency.slow(drive, w.options.HedgeAfter) || w.latency.overdue.Load() != 0 {
					t.Errorf("the drive is still asked last: average %v, %d reads are late", time.Duration(w.latency.drive(drive).average.Load()), w.latency.overdue.Load())
				}
				w.shards.set(nil)
				synctest.Wait()
			})
		})
	}
}

// TestSuspectIsNeeded: a drive is written to, however slow, if there are not
// enough others.
func TestSuspectIsNeeded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{scheme: metadata.NewScheme(2, 1)})
		w.suspects.accuse(w.drives[0])
		body := payload(100_000, 1)
		w.shards.set((&pace{usual: time.Millisecond, slow: 3 * time.Second, drive: w.drives[0]}).fault)
		for i := range 3 {
			w.mustPut(fmt.Sprint(i), body)
		}
		w.shards.set(nil)
		if s := w.State(); s.ShardsPassed != 0 || s.ShortWrites != 0 {
			t.Errorf("state %+v", s)
		}
		for i := range 3 {
			w.expect(fmt.Sprint(i), body)
		}
	})
}

// TestBestSuspects: if some suspect drives are needed, it is those that answer.
func TestBestSuspects(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	pg := &w.topology.pgs.Load().Groups[0]
	members := pg.Newest().Members
	for _, i := range []int{1, 3, 4} {
		w.suspects.accuse(members[i])
	}
	w.suspects.beginProbe(members[1]) // does not return
	for range 2 {
		w.suspects.beginProbe(members[4])
		w.suspects.probed(members[4], true)
	}
	for need, want := range map[int]uint32{2: 1<<1 | 1<<3 | 1<<4, 3: 1<<1 | 1<<3, 4: 1 << 1, 5: 0, 6: 0} {
		if got := w.passed(pg, need); got != want {
			t.Errorf("passed %b with %d needed, want %b", got, need, want)
		}
	}
	w.suspects.drive(members[1]).lost.Add(maxHanging)
	w.suspects.drive(members[4]).lost.Add(maxHanging)
	if got := w.passed(pg, 6); got != 1<<1|1<<4 {
		t.Errorf("passed %b of drives that hang", got)
	}
	if _, err := w.put("object", payload(100_000, 1)); !errors.Is(err, ErrUnwritable) || !errors.Is(err, metadata.ErrSlow) {
		t.Errorf("put with two of six drives hanging: %v", err)
	}
	w.suspects.drive(members[1]).lost.Add(-maxHanging)
	w.suspects.drive(members[4]).lost.Add(-maxHanging)
	for i := range members {
		w.suspects.accuse(members[i])
	}
	w.mustPut("object", payload(100_000, 1)) // somewhere
	w.expect("object", payload(100_000, 1))
}

// TestSuspectGroupsAreAvoided: with drives to spare no write is short.
func TestSuspectGroupsAreAvoided(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{drives: 12, groups: 60})
		hang := make(chan struct{})
		p := &pace{drive: w.drives[5], stuck: hang}
		w.suspects.accuse(w.drives[5])
		w.shards.set(p.fault)
		for i := range 30 {
			w.mustPut(fmt.Sprint(i), payload(60_000, uint64(i)))
		}
		if s := w.State(); s.ShortWrites != 0 || s.ShardsPassed != 0 {
			t.Errorf("state %+v", s)
		}
		close(hang)
		w.shards.set(nil)
		synctest.Wait()
	})
}

// TestAllSlow: when all drives are slow none is suspect.
func TestAllSlow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{})
		w.shards.set((&pace{usual: 3 * time.Second}).fault)
		for i := range 5 {
			w.mustPut(fmt.Sprint(i), payload(300_000, 1))
		}
		if s := w.State(); len(s.Suspects) != 0 || s.ShortWrites != 0 {
			t.Errorf("state %+v", s)
		}
		w.shards.set(nil)
	})
}

// TestFrozenDevice freezes the file system of one drive, below the production
// code, while clients write and read: every call succeeds, few of those on the
// drive hang, and when the device wakes up the drive is trusted again and repair
// completes what is short. A busy machine may make other drives late, too: that
// changes nothing.
func TestFrozenDevice(t *testing.T) {
	t.Parallel()
	var frozen sync.RWMutex
	var held atomic.Int32 // operations that the frozen device has not ended
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if !strings.HasPrefix(op.Path, "d3/") {
			return nil
		}
		if !frozen.TryRLock() {
			held.Add(1)
			frozen.RLock()
		}
		frozen.RUnlock()
		return nil
	}))
	w := newWorld(t, setup{fs: fs, options: func(o *Options) {
		o.LagTimeout, o.HedgeAfter = 100*time.Millisecond, 20*time.Millisecond
		o.ReadTimeout, o.StallTimeout = time.Minute, time.Minute // nothing but d3 is given up
		o.Background = &BackgroundOptions{RetryDelay: 20 * time.Millisecond, ShortPeriod: 50 * time.Millisecond}
	}})
	w.mustPut("old", payload(300_000, 9))

	frozen.Lock()
	const clients, each = 4, 10
	var group sync.WaitGroup
	for i := range clients {
		group.Go(func() {
			for n := range each {
				body := payload(40_000*(1+n%4*5), uint64(n))
				if _, err := w.put(fmt.Sprintf("c%d-%d", i, n), body); err != nil {
					t.Errorf("put: %v", err)
				}
				if got, err := w.read("old", Range{}); err != nil || len(got) != 300_000 {
					t.Errorf("get: %d bytes, %v", len(got), err)
				}
			}
		})
	}
	group.Wait()
	// Of each client one write, and some reads while others were late, too; then no
	// more.
	if s, n := w.State(), held.Load(); n == 0 || n > clients*each/2 || s.ShortWrites == 0 || !slices.Contains(s.Suspects, w.drives[2]) {
		t.Errorf("%d operations hang, state %+v", n, s)
	}
	frozen.Unlock()

	for {
		row, err := w.bucket(t.Context(), "b")
		if err != nil {
			t.Fatal(err)
		}
		short, err := w.meta.Short(t.Context(), row.row.Group, nil, 10)
		if err != nil {
			t.Fatal(err)
		}
		if len(short) == 0 && len(w.State().Suspects) == 0 {
			break
		}
		time.Sleep(5 * time.Millisecond) // however long it takes
	}
	for i := range clients {
		for n := range each {
			w.expect(fmt.Sprintf("c%d-%d", i, n), payload(40_000*(1+n%4*5), uint64(n)))
		}
	}
}

// TestProbeFindsOtherBytes: a drive that does not return what was written fails
// its probes, and nothing of a probe is left.
func TestProbeFindsOtherBytes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	if _, err := w.probe(t.Context(), w.drives[0]); err != nil {
		t.Fatal(err)
	}
	w.shards.set(func(op string, _ topology.DriveID, _ metadata.ShardRef) fault {
		if op == "read" {
			return fault{spoil: flip}
		}
		return fault{}
	})
	if _, err := w.probe(t.Context(), w.drives[0]); !errors.Is(err, metadata.ErrCorrupt) {
		t.Errorf("probe: %v", err)
	}
	w.shards.set(nil)
	if _, err := w.probe(t.Context(), topology.DriveID{9}); !errors.Is(err, metadata.ErrDriveAbsent) {
		t.Errorf("probe of another drive: %v", err)
	}
	if n := w.stored(); n != 0 {
		t.Errorf("%d shards are left", n)
	}
}
