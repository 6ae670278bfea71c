package faults

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"
)

// TestSnapshotOfOneDrive puts one drive with a copy back to an earlier time, as
// a snapshot of a virtual disk that was restored: neither the drive nor the
// copy on it is used.
func TestSnapshotOfOneDrive(t *testing.T) {
	t.Parallel()
	s := newStore(t, "3")
	s.stop()
	old := s.keep(s.path("d1"))
	s.start()
	s.fill("later", 40)
	s.stop()
	s.putBack(old, s.path("d1"))
	s.start()
	s.odd("d1", "refused", "absent")
	s.says("an older copy of drive", "ruche metadata replace 1")
	s.whole()
	s.stop()
}

// TestSnapshotOfMostDrives puts two of three drives with copies back: these
// could agree that what came later never was. They are not asked.
func TestSnapshotOfMostDrives(t *testing.T) {
	t.Parallel()
	s := newStore(t, "3")
	s.stop()
	first, second := s.keep(s.path("d1")), s.keep(s.path("d2"))
	s.start()
	s.fill("later", 40)
	s.stop()
	newFirst, newSecond := s.keep(s.path("d1")), s.keep(s.path("d2"))
	s.putBack(first, s.path("d1"))
	s.putBack(second, s.path("d2"))
	s.refused("copy 1 in", "copy 2 in", "an older copy of drive", "1 of 3 copies", "ruche metadata force")
	s.putBack(newFirst, s.path("d1"))
	s.putBack(newSecond, s.path("d2"))
	s.start()
	s.await("three copies", well(3))
	s.whole()
	s.stop()
}

// TestSnapshotOfMostCopies puts two of three copies back, without the drives
// around them. These could agree that what came later never was, so they are not
// asked. The one that knows it can be made the truth.
func TestSnapshotOfMostCopies(t *testing.T) {
	t.Parallel()
	s := newStore(t, "3")
	s.stop()
	first, second := s.keep(s.meta("d1")), s.keep(s.meta("d2"))
	s.start()
	s.fill("later", 40)
	s.stop()
	s.putBack(first, s.meta("d1"))
	s.putBack(second, s.meta("d2"))
	s.refused("copy 1 in", "copy 2 in", "knows less than it did", "1 of 3 copies", "ruche metadata force")
	var id struct{ Cluster string }
	if err := json.Unmarshal(s.bytes(s.path("cluster.json")), &id); err != nil {
		t.Fatal(err)
	}
	out, errs, err := s.command(id.Cluster+"\n", "metadata", "force", "--data", s.dir)
	if err != nil {
		t.Fatalf("force: %v\n%s%s", err, out, errs)
	}
	s.mentions(out+errs, []string{"older than it was", "becomes the truth"})
	s.start()
	s.whole()
	s.mentions(s.ok("status"), []string{"forced to be the truth", "ruche repair resume-collection"})
	s.stop()
}

// TestSnapshotOfOneCopy puts one copy back, without the drive around it. It is
// made anew from the others, under another number.
func TestSnapshotOfOneCopy(t *testing.T) {
	t.Parallel()
	s := newStore(t, "3")
	s.stop()
	old := s.keep(s.meta("d1"))
	s.start()
	s.fill("later", 40)
	s.stop()
	s.putBack(old, s.meta("d1"))
	s.start()
	s.whole()
	s.await("three copies", well(3))
	s.stop()
}

// TestSnapshotOfAll puts everything back to one moment: that is an old store,
// and a whole one.
func TestSnapshotOfAll(t *testing.T) {
	t.Parallel()
	s := newStore(t, "3")
	s.stop()
	old, objects := s.keep(s.dir), maps.Clone(s.objects)
	s.start()
	s.fill("later", 40)
	s.stop()
	s.putBack(old, s.dir)
	s.objects = objects
	s.start()
	s.whole()
	s.stop()
}

// TestSnapshotOfStateDirectory puts the state directory with the only copy
// back: what came later is missing, which is said, and nothing is freed.
func TestSnapshotOfStateDirectory(t *testing.T) {
	t.Parallel()
	s := newStore(t, "1")
	s.stop()
	old := s.keep(s.path("metadata"))
	kept := len(s.objects)
	s.start()
	s.fill("later", 40)
	s.stop()
	s.putBack(old, s.path("metadata"))
	s.start()
	for key := range s.objects {
		if !strings.HasPrefix(key, "first-") {
			delete(s.objects, key) // the copy does not know of it
		}
	}
	if len(s.objects) != kept {
		t.Fatalf("%d objects, had %d", len(s.objects), kept)
	}
	s.whole()
	s.mentions(s.ok("status"), []string{"ruche repair resume-collection"})
	s.stop()
}
