package cryptfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata/cryptfs"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// storeA and storeB are ids of stores.
func storeA() topology.DriveID { return topology.DriveID{1, 2, 3} }
func storeB() topology.DriveID { return topology.DriveID{4, 5, 6} }

// seeded returns options whose salts come from a seed.
func seeded(store topology.DriveID, seed byte) cryptfs.Options {
	return cryptfs.Options{Key: cryptfs.Key{0: seed, 31: 7}, Store: store, Random: rand.NewChaCha8([32]byte{seed})}
}

func newFS(t testing.TB, below vfs.FS) *cryptfs.FS {
	t.Helper()
	f, err := cryptfs.New(below, seeded(storeA(), 1))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestModel runs random operations on an encrypted file system and a plain one
// and compares what they answer.
func TestModel(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			below := vfs.NewMem()
			m := &model{t: t, rng: rand.New(rand.NewPCG(seed, 1)), plain: vfs.NewMem(), crypt: newFS(t, below)}
			for range 1500 {
				m.step()
			}
			m.compareAll()
			m.noPlaintext(below)
		})
	}
}

// model drives both file systems.
type model struct {
	t     *testing.T
	rng   *rand.Rand
	plain *vfs.MemFS
	crypt *cryptfs.FS
	open  []pair // files that are being written
	wrote [][]byte
}

// pair is one file in both.
type pair struct {
	name         string
	plain, crypt vfs.File
	end          int64
}

func (m *model) name() string { return fmt.Sprintf("f%d", m.rng.IntN(6)) }

// beingWritten reports whether a name is that of a file with a writer.
func (m *model) beingWritten(name string) bool {
	return slices.ContainsFunc(m.open, func(p pair) bool { return p.name == name })
}

// text is text of some length that can be found again.
func (m *model) text() []byte {
	b := make([]byte, m.rng.IntN(1<<m.rng.IntN(18)))
	for i := range b {
		b[i] = byte('a' + m.rng.IntN(26))
	}
	return b
}

func (m *model) step() {
	m.t.Helper()
	a, b := m.name(), m.name()
	switch m.rng.IntN(12) {
	case 0, 1:
		if !m.beingWritten(a) && len(m.open) < 4 {
			p, err := m.plain.Create(a, "")
			c, err2 := m.crypt.Create(a, "")
			m.same(err, err2)
			m.open = append(m.open, pair{a, p, c, 0})
		}
	case 2, 3, 4, 5:
		m.write()
	case 6:
		if len(m.open) > 0 {
			i := m.rng.IntN(len(m.open))
			m.same(m.open[i].plain.Close(), m.open[i].crypt.Close())
			m.open = slices.Delete(m.open, i, i+1)
		}
	case 7:
		m.compare(a)
	case 8:
		if !m.beingWritten(a) && !m.beingWritten(b) && a != b {
			m.same(m.plain.Rename(a, b), m.crypt.Rename(a, b))
		}
	case 9:
		if !m.beingWritten(a) {
			m.same(m.plain.Link(a, b), m.crypt.Link(a, b))
		}
	case 10:
		if !m.beingWritten(a) {
			m.same(m.plain.Remove(a), m.crypt.Remove(a))
		}
	case 11:
		m.readWrite(a)
	}
}

// write appends to an open file, and tries what is refused.
func (m *model) write() {
	if len(m.open) == 0 {
		return
	}
	p := &m.open[m.rng.IntN(len(m.open))]
	text := m.text()
	kept := bytes.Clone(text)
	n, err := p.crypt.Write(text)
	m.same(nil, err)
	if n != len(text) || !bytes.Equal(text, kept) {
		m.t.Fatalf("Write of %d bytes: %d, or it changed them", len(text), n)
	}
	if _, err := p.plain.Write(kept); err != nil {
		m.t.Fatal(err)
	}
	p.end += int64(n)
	if len(text) > 16 {
		m.wrote = append(m.wrote, bytes.Clone(text[:16]))
	}
	if p.end > 0 {
		if _, err := p.crypt.WriteAt([]byte("x"), m.rng.Int64N(p.end)); !errors.Is(err, cryptfs.ErrOverwrite) {
			m.t.Fatalf("WriteAt before the end: %v, want %v", err, cryptfs.ErrOverwrite)
		}
		if _, err := p.crypt.WriteAt([]byte("x"), p.end+1+m.rng.Int64N(99)); !errors.Is(err, cryptfs.ErrOverwrite) {
			m.t.Fatalf("WriteAt behind the end: %v, want %v", err, cryptfs.ErrOverwrite)
		}
	}
	m.readsAlike(p.plain, p.crypt)
}

// readWrite opens a file for both: an empty one is written, another is not.
func (m *model) readWrite(name string) {
	if m.beingWritten(name) {
		return
	}
	p, err := m.plain.OpenReadWrite(name, "")
	c, err2 := m.crypt.OpenReadWrite(name, "")
	m.same(err, err2)
	text := m.text()
	i, err := c.Stat()
	m.same(nil, err)
	if i.Size() > 0 {
		if _, err := c.Write([]byte("x")); !errors.Is(err, cryptfs.ErrOverwrite) {
			m.t.Fatalf("Write to a file with content: %v, want %v", err, cryptfs.ErrOverwrite)
		}
	} else {
		for at := int64(0); at < int64(len(text)); at += 1000 {
			piece := text[at:min(at+1000, int64(len(text)))]
			_, err := p.WriteAt(piece, at)
			_, err2 := c.WriteAt(piece, at)
			m.same(err, err2)
		}
	}
	m.readsAlike(p, c)
	m.same(p.Close(), c.Close())
}

func (m *model) same(want, got error) {
	m.t.Helper()
	if (want == nil) != (got == nil) {
		m.t.Fatalf("error %v, want %v", got, want)
	}
}

// compare reads a file of both.
func (m *model) compare(name string) {
	m.t.Helper()
	p, err := m.plain.Open(name)
	c, err2 := m.crypt.Open(name)
	m.same(err, err2)
	if err != nil {
		_, err := m.crypt.Stat(name)
		m.same(err2, err)
		return
	}
	defer p.Close()
	defer c.Close()
	m.readsAlike(p, c)
	want, err := io.ReadAll(p)
	got, err2 := io.ReadAll(c)
	m.same(err, err2)
	if !bytes.Equal(want, got) {
		m.t.Fatalf("%s: %d bytes differ from the %d that were written", name, len(got), len(want))
	}
	i, err := m.crypt.Stat(name)
	m.same(nil, err)
	if i.Size() != int64(len(want)) {
		m.t.Fatalf("%s: Stat says %d bytes of %d", name, i.Size(), len(want))
	}
}

// readsAlike reads a piece of a file that is open in both.
func (m *model) readsAlike(p, c vfs.File) {
	m.t.Helper()
	pi, err := p.Stat()
	ci, err2 := c.Stat()
	m.same(err, err2)
	if pi.Size() != ci.Size() {
		m.t.Fatalf("%s: Stat of the file says %d bytes of %d", pi.Name(), ci.Size(), pi.Size())
	}
	want, got := make([]byte, m.rng.IntN(4000)), []byte(nil)
	got = make([]byte, len(want))
	at := m.rng.Int64N(pi.Size() + 100)
	n, err := p.ReadAt(want, at)
	n2, err2 := c.ReadAt(got, at)
	m.same(err, err2)
	if n != n2 || !bytes.Equal(want[:n], got[:n2]) {
		m.t.Fatalf("%s: ReadAt of %d at %d: %d bytes, want %d, or they differ", pi.Name(), len(want), at, n2, n)
	}
}

func (m *model) compareAll() {
	m.t.Helper()
	want, err := m.plain.List("/")
	got, err2 := m.crypt.List("/")
	m.same(err, err2)
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(want, got) {
		m.t.Fatalf("files %v, want %v", got, want)
	}
	for _, name := range want {
		m.compare(name)
	}
}

// noPlaintext looks for what was written in the files as they lie there.
func (m *model) noPlaintext(below *vfs.MemFS) {
	m.t.Helper()
	names, err := below.List("/")
	if err != nil {
		m.t.Fatal(err)
	}
	for _, name := range names {
		raw := contents(m.t, below, name)
		for _, text := range m.wrote {
			if bytes.Contains(raw, text) {
				m.t.Fatalf("%s holds %q as it is", name, text)
			}
		}
	}
}

// contents reads a whole file.
func contents(t testing.TB, fs vfs.FS, name string) []byte {
	t.Helper()
	f, err := fs.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// create makes a file with content, synced.
func create(t testing.TB, fs vfs.FS, name string, content []byte) {
	t.Helper()
	f, err := fs.Create(name, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(bytes.Clone(content)); err != nil { // a plain file may change what it is given
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}
