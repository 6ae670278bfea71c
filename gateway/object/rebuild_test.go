package object

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
	"github.com/ruche-storage/ruche/node"
)

// newDrive adds an empty drive to the machine.
func (w *world) newDrive() topology.Drive {
	w.t.Helper()
	path := fmt.Sprintf("d%d", len(w.drives)+1)
	id, err := node.Format(w.fs, rand.Reader, path, node.Formatting{Cluster: node.ClusterID{9}, Site: "par1"})
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.node.AddDrive(context.Background(), path); err != nil {
		w.t.Fatal(err)
	}
	w.drives = append(w.drives, id)
	return topology.Drive{ID: id, Site: "par1", CapacityBytes: 1 << 40}
}

// restart starts another engine in place of the one of w, which is closed.
func (w *world) restart() {
	w.t.Helper()
	o := w.options
	w.stop()
	var err error
	if w.Engine, err = New(o); err != nil {
		w.t.Fatal(err)
	}
	w.start()
}

// generations returns how many generations the groups have, and how many are
// moving.
func (w *world) generations() (all, moving int) {
	w.t.Helper()
	table, err := w.meta.PGs(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for i := range table.Groups {
		for _, g := range table.Groups[i].Generations {
			all++
			if g.Moving {
				moving++
			}
		}
	}
	return all, moving
}

func (w *world) driveState(id topology.DriveID) topology.DriveState {
	w.t.Helper()
	table, err := w.meta.Drives(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, d := range table.Drives {
		if d.ID == id {
			return d.State
		}
	}
	return 0
}

// load puts some objects.
func (w *world) load(n int) map[string][]byte {
	bodies := map[string][]byte{}
	for i := range n {
		key := fmt.Sprintf("object%03d", i)
		bodies[key] = payload(20_000+i*7001, uint64(i))
		w.mustPut(key, bodies[key])
	}
	return bodies
}

func (w *world) expectWhole(bodies map[string][]byte) {
	w.t.Helper()
	for key, body := range bodies {
		if bad := w.whole(key); bad != 0 {
			w.t.Errorf("%s: %d shards are not where the newest generation wants them", key, bad)
		}
		w.expect(key, body)
	}
}

// TestRebuild: a drive is lost and replaced; every chunk gets its shard on the
// new one, from the others or from the old one if it still answers; then, and
// only then, the generations close and the old drive is retired.
func TestRebuild(t *testing.T) {
	t.Parallel()
	for _, alive := range []bool{false, true} {
		t.Run(fmt.Sprintf("old drive alive %t", alive), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{groups: 8})
			bodies := w.load(40)
			old, fresh := w.drives[1], w.newDrive()
			if !alive {
				w.shards.lose(old)
			}
			check(t, w.ReplaceDrive(t.Context(), old, fresh))
			if all, moving := w.generations(); all != 16 || moving != 8 {
				t.Fatalf("%d generations, %d moving", all, moving)
			}
			if s := w.driveState(old); s != topology.DriveDraining {
				t.Errorf("the old drive is %s", s)
			}
			check(t, w.ReplaceDrive(t.Context(), old, fresh)) // repeated: nothing more
			if all, _ := w.generations(); all != 16 {
				t.Errorf("%d generations after a repeated call", all)
			}
			check(t, w.bg.rebuild.round(t.Context()))
			w.expectWhole(bodies)
			if all, moving := w.generations(); all != 8 || moving != 0 {
				t.Errorf("afterwards %d generations, %d moving", all, moving)
			}
			if s := w.driveState(old); s != topology.DriveRetired {
				t.Errorf("the old drive is %s", s)
			}
			if s := w.RebuildState(); s.Closed != 8 || len(s.Drives) != 0 || len(s.LastErrors) != 0 {
				t.Errorf("state %+v", s)
			}
			for group := range dataGroups {
				known, err := w.meta.Lookup(t.Context(), group, nil)
				check(t, err)
				table, err := w.meta.PGs(t.Context())
				check(t, err)
				if known.PGVersion != table.Version {
					t.Errorf("group %d has version %d of %d", group, known.PGVersion, table.Version)
				}
			}
			if err := w.ReplaceDrive(t.Context(), old, w.newDrive()); !errors.Is(err, ErrNoSuchDrive) {
				t.Errorf("replacing a retired drive: %v", err)
			}
		})
	}
}

// TestRebuildResumes: a rebuild is cut off again and again and goes on in
// another process without doing what is done.
func TestRebuildResumes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{groups: 8})
	bodies := w.load(40)
	old, fresh := w.drives[3], w.newDrive()
	w.shards.lose(old)
	check(t, w.ReplaceDrive(t.Context(), old, fresh))
	var created atomic.Int64
	for life := range 50 {
		ctx, cancel := context.WithCancel(t.Context())
		n := created.Load()
		w.shards.set(func(op string, d topology.DriveID, _ metadata.ShardRef) fault {
			if op == "close" && created.Add(1) == n+4 {
				cancel()
			}
			return fault{}
		})
		err := w.bg.rebuild.round(ctx)
		cancel()
		if err == nil {
			if life < 5 {
				t.Errorf("done in life %d", life)
			}
			break
		}
		if _, moving := w.generations(); moving == 0 {
			t.Fatal("closed by a rebuild that was cut off")
		}
		w.restart()
		w.shards.lose(old)
	}
	if n := created.Load(); n > 40+20 {
		t.Errorf("%d shards were written for 40", n)
	}
	w.shards.set(nil)
	check(t, w.bg.rebuild.round(t.Context()))
	w.expectWhole(bodies)
	if all, moving := w.generations(); all != 8 || moving != 0 {
		t.Errorf("%d generations, %d moving", all, moving)
	}
}

// TestRebuildBlocked: as long as something cannot be made the generation stays
// open and the old drive is asked; nothing is closed on hope.
func TestRebuildBlocked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{groups: 2})
	w.bg.o.RetryDelay = 0 // rounds follow one another
	bodies := w.load(6)
	old, fresh := w.drives[0], w.newDrive()
	// Too few others have one object: only the old drive still has enough.
	_, _, chunks := w.chunksOf("object002")
	table := w.topology.pgs.Load()
	freed := 0
	for i, d := range table.Groups[chunks[0].PG].Newest().Members {
		if d != old && freed < 2 {
			check(t, w.node.Free(t.Context(), d, refsOf(&chunks[0], i)))
			freed++
		}
	}
	w.shards.lose(old)
	check(t, w.ReplaceDrive(t.Context(), old, fresh))
	check(t, w.bg.rebuild.round(t.Context()))
	if all, moving := w.generations(); all != 3 || moving != 1 {
		t.Errorf("%d generations, %d moving", all, moving)
	}
	s := w.RebuildState()
	if len(s.Drives) != 1 || s.Drives[0].Drive != fresh.ID || s.Drives[0].Failed != 1 || len(s.LastErrors) == 0 {
		t.Errorf("state %+v", s)
	}
	if s := w.driveState(old); s != topology.DriveDraining {
		t.Errorf("the old drive is %s", s)
	}
	w.shards.reset() // the old drive returns
	w.expect("object002", bodies["object002"])
	check(t, w.bg.rebuild.round(t.Context()))
	if all, moving := w.generations(); all != 2 || moving != 0 {
		t.Errorf("with the old drive back: %d generations, %d moving", all, moving)
	}
	w.scrub()
	for _, c := range chunks {
		ref, v, _ := w.chunksOf("object002")
		w.queueRepair(Damage{Bucket: ref, Part: v.Part.ID, Chunk: c, Missing: 1})
	}
	w.drain(t.Context())
	w.expectWhole(bodies)
}

// TestRebuildDistrusts: shards that lie and shards that rot, found on the way,
// neither spoil what is rebuilt nor stay unnoticed.
func TestRebuildDistrusts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{groups: 4, scheme: metadata.NewScheme(3, 3)})
	w.bg.o.RetryDelay = 0 // rounds follow one another
	bodies := w.load(20)
	old, fresh := w.drives[0], w.newDrive()
	for i := range 20 {
		w.plant(fmt.Sprintf("object%03d", i), 1+i%5)
	}
	w.rot(w.drives[5])
	w.shards.lose(old)
	check(t, w.ReplaceDrive(t.Context(), old, fresh))
	for range 3 {
		check(t, w.bg.rebuild.round(t.Context()))
		w.drain(t.Context())
	}
	for i := range 20 { // what no read has met
		ref, v, chunks := w.chunksOf(fmt.Sprintf("object%03d", i))
		w.queueRepair(Damage{Bucket: ref, Part: v.Part.ID, Chunk: chunks[0], Missing: 1<<6 - 1})
	}
	w.drain(t.Context())
	if _, moving := w.generations(); moving != 0 {
		t.Errorf("%d generations are moving: %+v", moving, w.RebuildState())
	}
	w.expectWhole(bodies)
}

// TestRebuildProves: that the new drive lists a shard is not enough to close.
func TestRebuildProves(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{groups: 1})
	w.bg.o.RetryDelay = 0 // rounds follow one another
	bodies := w.load(5)
	old, fresh := w.drives[2], w.newDrive()
	check(t, w.ReplaceDrive(t.Context(), old, fresh))
	table, err := w.meta.PGs(t.Context())
	check(t, err)
	moving := w.bg.rebuild.note(table)
	_, err = w.bg.rebuild.scan(t.Context(), moving[0], scanAll)
	check(t, err)
	w.expectWhole(bodies)
	w.plant("object003", slices.Index(moving[0].Newest().Members, fresh.ID))
	w.shards.lose(old)
	check(t, w.bg.rebuild.complete(t.Context(), moving[0]))
	if _, left := w.generations(); left != 1 {
		t.Error("closed by the scan that found a shard missing")
	}
	w.expectWhole(bodies)
	check(t, w.bg.rebuild.round(t.Context()))
	if _, left := w.generations(); left != 0 {
		t.Errorf("not closed by the next: %+v", w.RebuildState())
	}
}

// TestRebuildTells: operators read one line for a drive, not one for each of
// its placement groups.
func TestRebuildTells(t *testing.T) {
	t.Parallel()
	var lines bytes.Buffer
	w := newWorld(t, setup{groups: 8, options: func(o *Options) {
		o.Logger = slog.New(slog.NewTextHandler(&lines, nil))
		o.Background = nil
	}})
	w.bg.o.RebuildWorkers = 1
	w.load(10)
	w.shards.lose(w.drives[1])
	fresh := w.newDrive()
	check(t, w.ReplaceDrive(t.Context(), w.drives[1], fresh))
	check(t, w.bg.rebuild.round(t.Context()))
	if n := strings.Count(lines.String(), "rebuilt"); n != 1 || !strings.Contains(lines.String(), "placement_groups=8 chunks=10") {
		t.Errorf("%d lines:\n%s", n, lines.String())
	}
}

// TestRebuildSilent: while too many members cannot be asked what they hold,
// nothing is closed over a chunk that the others may never have had.
func TestRebuildSilent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{groups: 1, scheme: metadata.NewScheme(2, 2)})
	w.bg.o.RetryDelay = 0 // rounds follow one another
	bodies := w.load(3)
	w.shards.lose(w.drives[2])
	bodies["short"] = payload(40_000, 1)
	w.mustPut("short", bodies["short"])
	_, _, chunks := w.chunksOf("short")
	members := w.topology.pgs.Load().Groups[0].Newest().Members
	check(t, w.node.Free(t.Context(), w.drives[3], refsOf(&chunks[0], slices.Index(members, w.drives[3]))))
	w.shards.reset()
	old, fresh := w.drives[0], w.newDrive()
	w.shards.lose(old, w.drives[1]) // all that have it
	check(t, w.ReplaceDrive(t.Context(), old, fresh))
	check(t, w.bg.rebuild.round(t.Context()))
	if _, moving := w.generations(); moving != 1 {
		t.Error("closed while all drives that have a chunk were silent")
	}
	w.shards.reset()
	check(t, w.bg.repair.scanShort(t.Context()))
	w.drain(t.Context())
	check(t, w.bg.rebuild.round(t.Context()))
	if _, moving := w.generations(); moving != 0 {
		t.Error("not closed afterwards")
	}
	w.expectWhole(bodies)
}

// TestRebuildOfMirror: with 1+1 the one other drive is proof enough.
func TestRebuildOfMirror(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{groups: 3, scheme: metadata.NewScheme(1, 1)})
	bodies := w.load(5)
	old, fresh := w.drives[0], w.newDrive()
	w.shards.lose(old)
	check(t, w.ReplaceDrive(t.Context(), old, fresh))
	check(t, w.bg.rebuild.round(t.Context()))
	if _, moving := w.generations(); moving != 0 {
		t.Errorf("not closed: %+v", w.RebuildState())
	}
	w.expectWhole(bodies)
}

// TestRebuildOfMirrorSilent: the one other drive of 1+1 is healthy by all that
// is known, but does not list what it holds. It vouches for nothing.
func TestRebuildOfMirrorSilent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{groups: 3, scheme: metadata.NewScheme(1, 1)})
	w.bg.o.RetryDelay = 0 // rounds follow one another
	bodies := w.load(5)
	old, other, fresh := w.drives[0], w.drives[1], w.newDrive()
	w.shards.lose(old)
	check(t, w.ReplaceDrive(t.Context(), old, fresh))
	w.shards.set(func(op string, d topology.DriveID, _ metadata.ShardRef) fault {
		if op == "list" && d == other {
			return fault{err: metadata.ErrSlow}
		}
		return fault{}
	})
	check(t, w.bg.rebuild.round(t.Context()))
	if _, moving := w.generations(); moving != 3 {
		t.Fatalf("%d generations are moving, want all 3", moving)
	}
	if s := w.driveState(old); s != topology.DriveDraining {
		t.Errorf("the old drive is %s", s)
	}
	if s := w.RebuildState(); len(s.LastErrors) == 0 {
		t.Error("nobody is told why")
	}
	w.shards.set(nil)
	check(t, w.bg.rebuild.round(t.Context()))
	if _, moving := w.generations(); moving != 0 {
		t.Errorf("not closed once it lists: %+v", w.RebuildState())
	}
	w.expectWhole(bodies)
}

// TestRebuildWaitsForWriters: a body that began to arrive before the drive was
// replaced is written to the old one; the generation does not close before it
// is committed and moved.
func TestRebuildWaitsForWriters(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{groups: 1})
		bodies := w.load(3)
		late := payload(800_000, 9)
		slow := &slowReader{data: late, stopAt: 600_000, goOn: make(chan struct{})}
		done := make(chan error, 1)
		go func() {
			_, err := w.Put(context.Background(), &PutRequest{Bucket: "b", Key: "late", Body: Body{Reader: slow, Bytes: int64(len(late))}})
			done <- err
		}()
		synctest.Wait()
		old, fresh := w.drives[0], w.newDrive()
		check(t, w.ReplaceDrive(t.Context(), old, fresh))
		check(t, w.bg.rebuild.round(t.Context()))
		w.expectWhole(bodies)
		if _, moving := w.generations(); moving != 1 {
			t.Error("closed while a writer of the generation before is at work")
		}
		check(t, w.nextEpoch(t.Context()))
		w.mustPut("new", late) // of the next epoch, and of the new generation
		close(slow.goOn)
		check(t, <-done)
		check(t, w.bg.rebuild.round(t.Context()))
		if _, moving := w.generations(); moving != 0 {
			t.Error("not closed")
		}
		bodies["late"], bodies["new"] = late, late
		w.expectWhole(bodies)
	})
}

// slowReader yields data up to a place and then waits.
type slowReader struct {
	data   []byte
	at     int
	stopAt int
	goOn   chan struct{}

	reached chan struct{} // closed when data up to the place was read; may be nil
}

func (r *slowReader) Read(p []byte) (int, error) {
	if r.at >= r.stopAt {
		if r.reached != nil {
			close(r.reached)
			r.reached = nil
		}
		<-r.goOn
	}
	limit := len(r.data)
	if r.at < r.stopAt {
		limit = r.stopAt
	}
	n := copy(p, r.data[r.at:limit])
	if r.at += n; n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// TestRebuildUnderLoad runs the loops themselves: a drive is replaced while
// clients write, and replaced again before it has everything.
func TestRebuildUnderLoad(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{groups: 4, options: func(o *Options) {
			o.Background = &BackgroundOptions{RebuildPeriod: 5 * time.Second, RepairBytesPerSecond: 4 << 20}
			o.TrashGrace = time.Minute
		}})
		bodies := w.load(20)
		first, second, third := w.drives[2], w.newDrive(), w.newDrive()
		w.shards.lose(first)
		check(t, w.ReplaceDrive(t.Context(), first, second))
		for i := range 30 {
			key := fmt.Sprintf("during%d", i%7)
			bodies[key] = payload(100_000+i, uint64(i))
			w.mustPut(key, bodies[key])
			time.Sleep(50 * time.Millisecond)
			if i == 10 {
				w.shards.lose(second.ID)
				check(t, w.ReplaceDrive(t.Context(), second.ID, third))
			}
		}
		time.Sleep(20 * time.Minute)
		if all, moving := w.generations(); all != 4 || moving != 0 {
			t.Errorf("%d generations, %d moving: %+v", all, moving, w.RebuildState())
		}
		if a, b := w.driveState(first), w.driveState(second.ID); a != topology.DriveRetired || b != topology.DriveRetired {
			t.Errorf("the old drives are %s and %s", a, b)
		}
		if rows := w.short(); len(rows) != 0 {
			t.Errorf("short index: %+v", rows)
		}
		w.expectWhole(bodies)
	})
}

// TestRebuildPutsOff: a group that cannot be closed is not scanned all the
// time.
func TestRebuildPutsOff(t *testing.T) {
	t.Parallel()
	w := newAged(t, setup{groups: 1})
	w.mustPut("object", payload(100_000, 1))
	_, _, chunks := w.chunksOf("object")
	old, fresh := w.drives[0], w.newDrive()
	freed := 0
	for i, d := range w.topology.pgs.Load().Groups[0].Newest().Members {
		if d != old && freed < 2 {
			freed++
			check(t, w.node.Free(t.Context(), d, refsOf(&chunks[0], i)))
		}
	}
	w.shards.lose(old)
	check(t, w.ReplaceDrive(t.Context(), old, fresh))
	rounds := func(n int, every time.Duration) (failures int) {
		w.bg.rebuild.lastErrors = nil
		for range n {
			check(t, w.bg.rebuild.round(t.Context()))
			w.sleep(every)
		}
		return len(w.RebuildState().LastErrors)
	}
	if n := rounds(30, time.Second); n == 0 || n > 2 {
		t.Errorf("%d failures in half a minute", n)
	}
	if n := rounds(60, time.Minute); n < 6 || n > 16 {
		t.Errorf("%d failures in an hour", n)
	}
	w.shards.reset()
	w.sleep(w.bg.o.TransientDelay)
	rounds(1, 0)
	if _, moving := w.generations(); moving != 0 {
		t.Error("not closed when the old drive was back")
	}
}

// TestChooserOfOldTable: a choice that was prepared while the tables were
// replaced, and stored after that, is not used.
func TestChooserOfOldTable(t *testing.T) {
	t.Parallel()
	w := newAged(t, setup{groups: 4})
	_, err := w.choosePG()
	check(t, err)
	late := w.topology.chooser.Load()
	old, fresh := w.drives[0], w.newDrive()
	check(t, w.ReplaceDrive(t.Context(), old, fresh))
	w.topology.chooser.Store(late)
	for range 20 {
		pg, err := w.choosePG()
		if err != nil || slices.Contains(pg.Newest().Members, old) {
			t.Fatalf("chose members that were replaced: %v", err)
		}
	}
}

// TestClosable: generations close oldest first, and only with everything that
// they brought in.
func TestClosable(t *testing.T) {
	t.Parallel()
	d := func(text string) (ids []topology.DriveID) {
		for _, c := range text {
			ids = append(ids, topology.DriveID{byte(c)})
		}
		return ids
	}
	tests := []struct {
		name    string
		members []string // of the generations, oldest first
		whole   uint32
		moved   uint32
		want    []uint32
	}{
		{"nothing moves", []string{"abc"}, 0b111, 0, nil},
		{"complete", []string{"abc", "axc"}, 0b010, 0b010, []uint32{2}},
		{"not complete", []string{"abc", "axc"}, 0b101, 0b010, nil},
		{"two moves, both complete", []string{"abc", "axc", "axy"}, 0b110, 0b110, []uint32{2, 3}},
		{"two moves, the first complete", []string{"abc", "axc", "axy"}, 0b010, 0b110, []uint32{2}},
		{"two moves, the second complete", []string{"abc", "axc", "axy"}, 0b100, 0b110, nil},
		{"replaced again, complete", []string{"abc", "axc", "ayc"}, 0b010, 0b010, []uint32{3}},
		{"replaced again, not complete", []string{"abc", "axc", "ayc"}, 0, 0b010, nil},
	}
	for _, test := range tests {
		pg := &metadata.PG{}
		for i, m := range test.members {
			pg.Generations = append(pg.Generations, metadata.Generation{Number: uint32(i + 1), Members: d(m), Moving: i > 0})
		}
		if got := moved(pg); got != test.moved {
			t.Errorf("%s: moved %b, want %b", test.name, got, test.moved)
		}
		if got := closable(pg, test.whole); !slices.Equal(got, test.want) {
			t.Errorf("%s: closable %v, want %v", test.name, got, test.want)
		}
	}
}

// TestReplaceInTable compares the tables of drives.
func TestReplaceInTable(t *testing.T) {
	t.Parallel()
	a, b, c := topology.DriveID{1}, topology.DriveID{2}, topology.DriveID{3}
	table := &metadata.DriveTable{Version: 4, Drives: []topology.Drive{{ID: a, State: topology.DriveActive}, {ID: c, State: topology.DriveActive}}, Unknown: "u"}
	got, err := replaceInTable(table, c, topology.Drive{ID: b, Site: "par1"})
	want := &metadata.DriveTable{Version: 5, Drives: []topology.Drive{
		{ID: a, State: topology.DriveActive}, {ID: b, Site: "par1", State: topology.DriveActive}, {ID: c, State: topology.DriveDraining}}, Unknown: "u"}
	if err != nil || !cmp.Equal(got, want) {
		t.Errorf("%v %s", err, cmp.Diff(want, got))
	}
	if again, err := replaceInTable(got, c, topology.Drive{ID: b}); again != got || err != nil {
		t.Errorf("repeated: %v", err)
	}
	if _, err := replaceInTable(table, b, topology.Drive{ID: topology.DriveID{9}}); !errors.Is(err, ErrNoSuchDrive) {
		t.Errorf("unknown drive: %v", err)
	}
	if _, err := replaceInTable(got, a, topology.Drive{ID: c}); !errors.Is(err, ErrNoSuchDrive) {
		t.Errorf("replaced by a draining drive: %v", err)
	}
}
