package server

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ruche-storage/ruche/gateway/admin"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
)

// TestReachedSlots damages the file in every way a cut-off write could.
func TestReachedSlots(t *testing.T) {
	t.Parallel()
	most := reached{
		Format: reachedFormat, Sequence: 1<<64 - 1, Cluster: newID(), Store: newID(), Replica: 1<<64 - 1, Incarnation: 1<<64 - 1,
		Positions: slices.Repeat([]uint64{1<<64 - 1}, metadata.DataGroups+1),
	}
	if slot, err := most.slot(); err != nil || len(slot) != slotBytes {
		t.Fatalf("the largest slot has %d bytes: %v", len(slot), err)
	}
	slot := func(sequence, position uint64) []byte {
		r := most
		r.Sequence, r.Positions = sequence, []uint64{position}
		text, err := r.slot()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	torn := append(slot(8, 80)[:500], slot(6, 60)[500:]...)
	for name, c := range map[string]struct {
		text []byte
		want uint64 // position, 0 for nothing
	}{
		"nothing":           {nil, 0},
		"one":               {slot(1, 10), 10},
		"only the second":   {append(make([]byte, slotBytes), slot(1, 10)...), 10},
		"both":              {append(slot(8, 80), slot(7, 70)...), 80},
		"the other way":     {append(slot(8, 80), slot(9, 90)...), 90},
		"the newest torn":   {append(torn, slot(7, 70)...), 70},
		"the second short":  {append(slot(8, 80), slot(9, 90)[:slotBytes-1]...), 80},
		"zeros":             {make([]byte, 2*slotBytes), 0},
		"of a later format": {bytes.Replace(slot(1, 10), []byte(`"format":1`), []byte(`"format":2`), 1), 0},
	} {
		got := uint64(0)
		if r := parseReached(c.text); r != nil {
			got = r.Positions[0]
		}
		if got != c.want {
			t.Errorf("%s: position %d, want %d", name, got, c.want)
		}
	}
}

// FuzzReached reads anything.
func FuzzReached(f *testing.F) {
	r := reached{Format: reachedFormat, Sequence: 3, Positions: []uint64{1, 2, 3}}
	slot, err := r.slot()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(slot)
	f.Add(append(make([]byte, slotBytes), slot...))
	f.Fuzz(func(t *testing.T, text []byte) {
		r := parseReached(text)
		if r == nil {
			return
		}
		again, err := r.slot()
		if err != nil {
			return // it had more groups than there are
		}
		if back := parseReached(again); back == nil || !back.same(r) {
			t.Errorf("%+v came back as %+v", r, back)
		}
	})
}

// reachedAll waits until the files tell of all that was committed.
func reachedAll(t *testing.T, p *process, names ...string) {
	t.Helper()
	eventually(t, "the files tell of all changes", func() bool {
		for _, name := range names {
			r := p.readReached(name)
			if r == nil {
				return false
			}
			var positions []uint64
			if local := p.copies.replicated() == nil; local {
				positions = p.meta.Engine().(interface{ Positions() []uint64 }).Positions()
			} else {
				for _, s := range p.copies.replicated().Positions() {
					if reachedPath(s.Dir) == name {
						positions = s.Positions
					}
				}
			}
			if !slices.Equal(r.Positions, positions) {
				return false
			}
		}
		return true
	})
}

// cause is why nothing is freed, "" if it is.
func cause(t *testing.T, p *process) admin.OffCause {
	t.Helper()
	r, err := p.ctl.Repair(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r.OffCause
}

// TestOnlyCopyPutBack puts the only copy back to a moment of the same run, so
// that no epoch tells: the changes since are missed, nothing is freed, and
// status says what helps. The drives know it also if the whole state directory
// is put back.
func TestOnlyCopyPutBack(t *testing.T) {
	t.Parallel()
	for _, whole := range []bool{false, true} {
		t.Run(fmt.Sprint("whole state directory ", whole), func(t *testing.T) {
			t.Parallel()
			dir := withBucket(t, nil)
			c := settings(t, dir, nil)
			p := opened(t, c)
			near, far := filepath.Join(dir, "metadata.reached"), filepath.Join(dir, "d3", "metadata.reached")
			reachedAll(t, p, near, far)
			backup, meta := t.TempDir(), filepath.Join(dir, "metadata")
			copyDir(t, meta, backup)
			putSmall(t, p, "late-1")
			putSmall(t, p, "late-2")
			reachedAll(t, p, near, far)
			closed(t, p)
			remove(t, meta)
			copyDir(t, backup, meta)
			if whole {
				remove(t, near)
			}

			p = opened(t, c)
			if got := cause(t, p); got != admin.OffLost {
				t.Errorf("nothing is freed because of %q", got)
			}
			s, err := p.ctl.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if text := fmt.Sprint(s.Warnings); !strings.Contains(text, "newest changes of the metadata are missing") ||
				!strings.Contains(text, "ruche recover --include-ended") || !strings.Contains(text, filepath.Join(dir, "metadata")) {
				t.Errorf("status says %s", text)
			}
			i, err := p.meta.Incarnation(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			reachedAll(t, p, near, far)
			closed(t, p)

			// It is said once; what comes now counts from here.
			p = opened(t, c)
			again, err := p.meta.Incarnation(t.Context())
			if err != nil || again.Number != i.Number {
				t.Errorf("another history began: %+v, was %+v, %v", again, i, err)
			}
			if err := p.ctl.ResumeCollection(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := cause(t, p); got != "" {
				t.Errorf("nothing is freed because of %q, though it was confirmed", got)
			}
			closed(t, p)
		})
	}
}

func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// TestOneCopyPutBack puts one of three copies back, without its drive. It is
// made anew from the others under another number.
func TestOneCopyPutBack(t *testing.T) {
	t.Parallel()
	dir := withBucket(t, three)
	c := settings(t, dir, three)
	one, backup := filepath.Join(dir, "d1", "meta"), t.TempDir()
	copyDir(t, one, backup)
	p := opened(t, c)
	putSmall(t, p, "late")
	reachedAll(t, p, reachedPath(one))
	closed(t, p)
	remove(t, one)
	copyDir(t, backup, one)
	p = opened(t, c)
	m := await(t, p, "three copies", well(3))
	if m.Find("1") != nil || m.Find(one) == nil || m.Find(one).Replica != 4 {
		t.Errorf("copies %+v", m.Stores)
	}
	getObject(t, p, "late")
	closed(t, p)
}

// TestMostCopiesPutBack puts two of three copies back, which could agree that
// what came later never was. They are refused; the one that knows it can be made
// the truth.
func TestMostCopiesPutBack(t *testing.T) {
	t.Parallel()
	dir := withBucket(t, three)
	c := settings(t, dir, three)
	backup := make(map[string]string)
	for _, d := range []string{"d1", "d2"} {
		backup[d] = t.TempDir()
		copyDir(t, filepath.Join(dir, d, "meta"), backup[d])
	}
	p := opened(t, c)
	putSmall(t, p, "late")
	var names []string
	for _, d := range []string{"d1", "d2", "d3"} {
		names = append(names, filepath.Join(dir, d, "meta.reached"))
	}
	reachedAll(t, p, names...)
	closed(t, p)
	for d, from := range backup {
		remove(t, filepath.Join(dir, d, "meta"))
		copyDir(t, from, filepath.Join(dir, d, "meta"))
	}
	for range 2 {
		_, err := attempt(t, c, nil)
		wantReason(t, err, NoQuorum, "copy 1 in", "copy 2 in", "knows less than it did", "ruche metadata force")
	}
	if _, err := force(t, c, func(plan *ForcePlan) error {
		if plan.Copies[0].Chosen || plan.Copies[1].Missing == "" || !plan.Copies[2].Chosen {
			t.Errorf("plan %+v", plan.Copies)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	p = opened(t, c)
	getObject(t, p, "late")
	if got := cause(t, p); got != admin.OffForced {
		t.Errorf("nothing is freed because of %q", got)
	}
	closed(t, p)
}

// TestReachedHangs has a writer that does not end: the others go on.
func TestReachedHangs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := &reachFile{name: filepath.Join(dir, "meta.reached"), beside: dir, busy: make(chan struct{}, 1)}
	f.busy <- struct{}{}
	k := &reachKeeper{p: newProcess(Options{Config: settings(t, dir, nil), Now: time.Now})}
	k.offer(f, reached{Format: reachedFormat, Positions: []uint64{1}})
	k.work.Wait()
	if _, err := os.Stat(f.name); err == nil {
		t.Error("two writers at a time")
	}
	<-f.busy
	k.offer(f, reached{Format: reachedFormat, Positions: []uint64{2}})
	k.work.Wait()
	if text, err := os.ReadFile(f.name); err != nil || parseReached(text).Positions[0] != 2 {
		t.Errorf("the file says %s, %v", text, err)
	}
	// A drive that is not mounted leaves an empty directory, which stays so.
	f.beside = filepath.Join(dir, "gone")
	remove(t, f.name)
	if err := f.write(reached{Format: reachedFormat}, time.Now()); err == nil {
		t.Error("written where nothing is mounted")
	}
	if _, err := os.Stat(f.name); err == nil {
		t.Error("a file was made where nothing is mounted")
	}
}

// TestWorded says why a copy is refused in words that do not repeat its path.
func TestWorded(t *testing.T) {
	t.Parallel()
	back := &replica.RolledBackError{Dir: "/srv/d1/meta", Group: 3, Log: 10, Reached: 20}
	other := errors.New("something else")
	for want, err := range map[string]error{
		"it knows less than it did (group 3 ends at change 10, and was at 20)":                     back,
		"its files are not of one time: the log ends before the state (group 4: log 13, state 17)": &replica.OpenError{Dir: "/srv/d1/meta", Group: 4, Log: 13, State: 17, Reason: "the log ends before the state"},
		"it is empty, or its log was taken away (no command log)":                                  replica.ErrNotReplicated,
		"something else": other,
	} {
		got := worded(fmt.Errorf("replica: open /srv/d1/meta: %w", err))
		if !strings.Contains(got.Error(), want) || !errors.Is(got, err) || err != other && strings.Contains(got.Error(), "/srv") {
			t.Errorf("%v is worded %q", err, got)
		}
		if isRolledBack(got) != (err == error(back)) {
			t.Errorf("%q: is of an earlier time: %t", got, isRolledBack(got))
		}
	}
}
