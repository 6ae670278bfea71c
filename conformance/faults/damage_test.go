package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/ruche-storage/ruche/bench/process"
)

const pageBytes = 4096

// damages are what may happen to the files of a copy.
var damages = []struct {
	name, dir, file string // the largest that fits
	all             bool   // damaged from its beginning
	gone            bool
	harmless        bool // nothing is lost
}{
	{name: "table of the state", file: "*.sst", all: true},
	{name: "half a table of the state", file: "*.sst"},
	{name: "manifest of the state", file: "MANIFEST-*", all: true},
	{name: "manifest of the state gone", file: "MANIFEST-*", gone: true},
	{name: "marker of the state gone", file: "marker.manifest.*", gone: true, harmless: true},
	{name: "write-ahead log", dir: "log", file: "*.log", all: true},
	{name: "half a write-ahead log", dir: "log", file: "*.log"},
	{name: "write-ahead log gone", dir: "log", file: "*.log", gone: true},
	{name: "manifest of the log", dir: "log", file: "MANIFEST-*", all: true},
}

// TestDamagedCopy damages one of three copies: the others serve, the damaged
// one is refused or found, and replaced.
func TestDamagedCopy(t *testing.T) {
	t.Parallel()
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t, "3")
			s.fill("more", 200)
			if d.dir == "" {
				s.stop() // so that there are tables
			} else {
				s.kill() // so that logs have something
			}
			s.damage(filepath.Join(s.meta("d1"), d.dir), d.file, d.all, d.gone)
			s.start()
			s.whole()
			var one copyStatus
			s.await("something of the copy on d1", func(c *copies) bool {
				if len(c.Stores) > 0 {
					one = c.Stores[0]
				}
				return one.Path == s.meta("d1")
			})
			switch {
			case strings.Contains(one.Reason, "knows less than it did"):
				t.Logf("the copy has lost the end of its log and is made anew: %s", one.Reason)
			case one.Health != "ok" && one.Health != "behind":
				s.says("ruche metadata replace 1")
				s.ok("metadata", "replace", strconv.Itoa(one.Replica), "--wait")
			default:
				t.Logf("the copy is %s: what was damaged was not needed, or is made anew", one.Health)
			}
			s.await("three copies", well(3))
			s.whole()
			s.stop()
			s.start()
			s.whole()
			s.stop()
		})
	}
}

// TestDamagedOnlyCopy damages the only copy: it is refused, with the commands
// that help, or nothing of it is missing.
func TestDamagedOnlyCopy(t *testing.T) {
	t.Parallel()
	for _, d := range damages {
		if d.dir != "" {
			continue // one copy has no log of commands
		}
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t, "1")
			s.fill("more", 200)
			s.stop() // so that tables have something
			s.damage(s.path("metadata"), d.file, d.all, d.gone)
			if d.harmless {
				s.start()
				s.whole()
				s.stop()
				return
			}
			s.refused("metadata", "ruche recover", "ruche metadata restore")
		})
	}
	// What follows in the log proves that the page was durable.
	t.Run("page of the write-ahead log", func(t *testing.T) {
		t.Parallel()
		s := newStore(t, "1")
		s.fill("more", 200)
		s.kill()
		name := s.largest(s.path("metadata"), "*.log")
		b := s.bytes(name)
		for i := range pageBytes {
			b[len(b)/2+i] ^= 0x55
		}
		s.overwrite(name, b)
		s.refused("metadata", "ruche recover", "ruche metadata restore")
	})
}

// ends are what may happen to the end of a log.
var ends = []struct {
	name string
	do   func(s *store, name string)
}{
	{"second half destroyed", func(s *store, name string) { s.flip(name, false) }},
	{"second half zeros", func(s *store, name string) {
		b := s.bytes(name)
		clear(b[len(b)/2:])
		s.overwrite(name, b)
	}},
	{"all destroyed", func(s *store, name string) { s.flip(name, true) }},
	{"truncated", func(s *store, name string) { b := s.bytes(name); s.overwrite(name, b[:len(b)/2]) }},
	{"empty", func(s *store, name string) { s.overwrite(name, nil) }},
	{"last log deleted", func(s *store, name string) { s.remove(name) }},
}

// TestLostEndOfOnlyLog takes the end of the only copy's log away. Nothing that
// is left in the log shows that, so the server starts; but it knows that changes
// are missing, says so, frees nothing, and names the command that brings them
// back from the drives. Or it is refused, as any damage.
func TestLostEndOfOnlyLog(t *testing.T) {
	t.Parallel()
	for _, e := range ends {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t, "1")
			s.fill("more", 200)
			s.manifested()
			s.kill()
			e.do(s, s.largest(s.path("metadata"), "*.log"))
			p, err := process.Start(t.Context(), s.options)
			if err != nil {
				s.mentions(message(t, err), []string{"metadata", "ruche recover"})
			} else {
				s.adopt(p)
				s.mentions(s.ok("status"), []string{"newest changes of the metadata are missing", "ruche recover --include-ended", s.path("metadata"), "ruche repair resume-collection"})
				s.fill("since", 3)
				s.manifested()
				s.stop()
			}
			s.move(s.path("metadata"), s.path("metadata.damaged"))
			s.ok("recover", "--include-ended", "--data", s.dir)
			s.start()
			s.whole()
			s.mentions(s.ok("status"), []string{"recovered from the drives", "ruche repair resume-collection"})
			s.stop()
		})
	}
}

// TestNothingLost has logs end as they do when a process is killed: nothing is
// said to be missing.
func TestNothingLost(t *testing.T) {
	t.Parallel()
	for _, copies := range []string{"1", "3"} {
		s := newStore(t, copies)
		for i := range 5 {
			s.fill(fmt.Sprint("more-", i), 20)
			s.kill()
			s.start()
			if out := s.ok("status"); strings.Contains(out, "missing") || strings.Contains(out, "resume-collection") {
				t.Errorf("after a kill the status is:\n%s", out)
			}
		}
		s.whole()
		s.stop()
	}
}

func (s *store) bytes(name string) []byte {
	s.t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

func (s *store) overwrite(name string, b []byte) {
	s.t.Helper()
	if err := os.WriteFile(name, b, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// damage damages a file of a copy.
func (s *store) damage(dir, pattern string, all, gone bool) {
	s.t.Helper()
	name := s.largest(dir, pattern)
	if name == "" {
		s.t.Skipf("there is no %s in %s", pattern, strings.TrimPrefix(dir, s.dir))
	}
	if gone {
		if err := os.Remove(name); err != nil {
			s.t.Fatal(err)
		}
		return
	}
	s.flip(name, all)
}
