package faults

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
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
			if one.Health != "ok" && one.Health != "behind" {
				s.says("ruche metadata replace 1")
				s.ok("metadata", "replace", strconv.Itoa(one.Replica), "--wait")
			} else {
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
	// What follows in the log proves that the page was durable. Without the others
	// nobody can tell that the end of a log is gone.
	t.Run("page of the write-ahead log", func(t *testing.T) {
		t.Parallel()
		s := newStore(t, "1")
		s.fill("more", 200)
		s.kill()
		name := s.largest(s.path("metadata"), "*.log")
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for i := range pageBytes {
			b[len(b)/2+i] ^= 0x55
		}
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s.refused("metadata", "ruche recover", "ruche metadata restore")
	})
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
