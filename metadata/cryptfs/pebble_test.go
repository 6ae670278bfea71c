package cryptfs_test

import (
	"bytes"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata/cryptfs"
)

// secretKey and secretValue are what may stand in no file. Both occur in all
// keys and values, at any place in a block of the cipher.
const (
	secretKey   = "holiday-in-brittany"
	secretValue = "whose-mail-address"
)

func rowKey(i int) []byte { return fmt.Appendf(nil, "%05d/%s/%d", i, secretKey, i) }

// rowValue is the value of a key after its n-th change. It does not compress.
func rowValue(i, n int) []byte {
	rng := rand.New(rand.NewPCG(uint64(i), uint64(n)))
	b := fmt.Appendf(nil, "%d-%d-%s-", i, n, secretValue)
	for range rng.IntN(60) {
		b = fmt.Appendf(b, "%016x", rng.Uint64())
	}
	return b
}

// pebbleOptions are those of the metadata, with small sizes so that much
// happens.
func pebbleOptions(fs vfs.FS) *pebble.Options {
	return &pebble.Options{
		FS: fs, MemTableSize: 32 << 10, FormatMajorVersion: pebble.FormatMajorVersion(20), L0CompactionThreshold: 2,
		MaxManifestFileSize: 8 << 10, BytesPerSync: 4 << 10, Logger: silent{},
	}
}

type silent struct{}

func (silent) Infof(string, ...any)  {}
func (silent) Errorf(string, ...any) {}
func (silent) Fatalf(format string, args ...any) {
	panic(fmt.Sprintf(format, args...))
}

// TestPebbleCrashes runs Pebble through lives that end in crashes and compares
// it with a map. What was synced is there, what was not is there from the
// beginning on or not at all, and no file can be read without the key.
func TestPebbleCrashes(t *testing.T) {
	t.Parallel()
	for seed := range uint64(5) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			c := &crasher{t: t, rng: rand.New(rand.NewPCG(seed, 2)), below: vfs.NewCrashableMem(), rows: map[int]int{}}
			for range 6 {
				c.life()
			}
			if c.recycled.Load() == 0 {
				t.Error("no log was recycled: the test does not look where it should")
			}
		})
	}
}

type crasher struct {
	t        *testing.T
	rng      *rand.Rand
	below    *vfs.MemFS
	rows     map[int]int // how often each row was changed
	changes  int
	recycled atomic.Int64
}

// life opens the store, looks at it, changes it and crashes.
func (c *crasher) life() {
	o := pebbleOptions(wholeFS(c.t, c.below))
	o.EventListener = &pebble.EventListener{WALCreated: func(i pebble.WALCreateInfo) {
		if i.RecycledFileNum != 0 {
			c.recycled.Add(1)
		}
	}}
	db, err := pebble.Open("db", o)
	if err != nil {
		c.t.Fatal(err)
	}
	c.check(db)
	for range 1 + c.rng.IntN(900) {
		c.change(db)
	}
	if c.rng.IntN(3) == 0 {
		if err := db.Compact(c.t.Context(), []byte("0"), []byte("z"), false); err != nil {
			c.t.Fatal(err)
		}
	}
	clone := c.below.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: c.rng.IntN(101), RNG: c.rng})
	if err := db.Close(); err != nil {
		c.t.Fatal(err)
	}
	noSecrets(c.t, c.below, "db")
	noSecrets(c.t, clone, "db")
	c.below = clone
}

// change changes a row, and waits until that is durable.
func (c *crasher) change(db *pebble.DB) {
	i := c.rng.IntN(400)
	c.changes++
	c.rows[i] = c.changes
	if err := db.Set(rowKey(i), rowValue(i, c.changes), pebble.Sync); err != nil {
		c.t.Fatal(err)
	}
}

// check compares all rows.
func (c *crasher) check(db *pebble.DB) {
	c.t.Helper()
	it, err := db.NewIter(nil)
	if err != nil {
		c.t.Fatal(err)
	}
	n := 0
	for ok := it.First(); ok; ok = it.Next() {
		var i int
		if _, err := fmt.Sscanf(string(it.Key()), "%05d", &i); err != nil {
			c.t.Fatal(err)
		}
		if !bytes.Equal(it.Value(), rowValue(i, c.rows[i])) {
			c.t.Fatalf("row %d is not that of change %d", i, c.rows[i])
		}
		n++
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil || n != len(c.rows) {
		c.t.Fatalf("%d rows of %d, %v", n, len(c.rows), err)
	}
}

// noSecrets looks at the raw bytes of all files below dir.
func noSecrets(t testing.TB, below vfs.FS, dir string) {
	t.Helper()
	names, err := below.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		path := below.PathJoin(dir, name)
		i, err := below.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if i.IsDir() {
			noSecrets(t, below, path)
			continue
		}
		raw := contents(t, below, path)
		for _, secret := range []string{secretKey, secretValue, "rocksdb", "pebble"} {
			if bytes.Contains(raw, []byte(secret)) {
				t.Errorf("%s holds %q", path, secret)
			}
		}
		if len(raw) > 0 && !bytes.HasPrefix(raw, []byte("RUCHECTR")) && len(bytes.Trim(raw[:min(len(raw), 84)], "\x00")) > 0 {
			t.Errorf("%s is not encrypted", path)
		}
	}
}

// TestPebbleUnsynced crashes while writes are not synced: what is left is a
// beginning of what was written.
func TestPebbleUnsynced(t *testing.T) {
	t.Parallel()
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 3))
		below := vfs.NewCrashableMem()
		db, err := pebble.Open("db", pebbleOptions(wholeFS(t, below)))
		if err != nil {
			t.Fatal(err)
		}
		written := 100 + rng.IntN(300)
		for i := range written {
			if err := db.Set(rowKey(i), rowValue(i, 0), pebble.NoSync); err != nil {
				t.Fatal(err)
			}
		}
		clone := below.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if db, err = pebble.Open("db", pebbleOptions(wholeFS(t, clone))); err != nil {
			t.Fatalf("seed %d: open after a crash: %v", seed, err)
		}
		missing := false
		for i := range written {
			v, closer, err := db.Get(rowKey(i))
			switch {
			case errors.Is(err, pebble.ErrNotFound):
				missing = true
				continue
			case err != nil || missing || !bytes.Equal(v, rowValue(i, 0)):
				t.Fatalf("seed %d: row %d: %v, missing before: %v", seed, i, err, missing)
			}
			if err := closer.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// wholeFS is a store that was never unencrypted.
func wholeFS(t testing.TB, below vfs.FS) *cryptfs.FS {
	t.Helper()
	o := seeded(storeA(), 1)
	o.Whole = true
	o.Random = crand.Reader
	fs, err := cryptfs.New(below, o)
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

// TestPebbleRottenLog damages the header of a log that holds what was
// acknowledged, in any way: the store does not open as if nothing had been.
func TestPebbleRottenLog(t *testing.T) {
	t.Parallel()
	for name, rot := range map[string]func([]byte){
		"zeroed":      func(b []byte) { clear(b[:cryptfs.HeaderBytes]) },
		"overwritten": func(b []byte) { copy(b, bytes.Repeat([]byte{0xa5}, cryptfs.HeaderBytes)) },
		"a bit":       func(b []byte) { b[3] ^= 4 },
		"the salt":    func(b []byte) { b[33] ^= 1 },
	} {
		below := vfs.NewCrashableMem()
		db, err := pebble.Open("db", pebbleOptions(wholeFS(t, below)))
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Set(rowKey(1), rowValue(1, 1), pebble.Sync); err != nil {
			t.Fatal(err)
		}
		clone := below.CrashClone(vfs.CrashCloneCfg{})
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		names, err := clone.List("db")
		if err != nil {
			t.Fatal(err)
		}
		rotten := 0
		for _, name := range names {
			if strings.HasSuffix(name, ".log") {
				raw, err := clone.UnsafeGetFileDataBuffer("db/" + name)
				if err != nil {
					t.Fatal(err)
				}
				if len(raw) > 0 {
					rot(raw)
					rotten++
				}
			}
		}
		db, err = pebble.Open("db", pebbleOptions(wholeFS(t, clone)))
		if !errors.Is(err, cryptfs.ErrDamaged) || rotten != 1 {
			t.Errorf("%s: Open = %v with %d rotten logs, want %v", name, err, rotten, cryptfs.ErrDamaged)
		}
		if err == nil {
			db.Close()
		}
	}
}

// fill writes rows and compacts them.
func fill(t testing.TB, db *pebble.DB, from, to int) {
	t.Helper()
	b := db.NewBatch()
	for i := from; i < to; i++ {
		if err := b.Set(rowKey(i), rowValue(i, 0), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(b.Commit(pebble.Sync), db.Flush()); err != nil {
		t.Fatal(err)
	}
}

// rows counts the rows of a store, all of which have to be right.
func rows(t testing.TB, db *pebble.DB) (n int) {
	t.Helper()
	it, err := db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		var i int
		if _, err := fmt.Sscanf(string(it.Key()), "%05d", &i); err != nil || !bytes.Equal(it.Value(), rowValue(i, 0)) {
			t.Fatalf("row %d: %v, or it is wrong", i, err)
		}
		n++
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		t.Fatal(err)
	}
	return n
}

// table writes an SST of rows through the encrypted file system, as a replica
// stages what it receives.
func table(t *testing.T, fs vfs.FS, name string, from, to int) {
	t.Helper()
	f, err := fs.Create(name, "")
	if err != nil {
		t.Fatal(err)
	}
	w := sstable.NewWriter(objstorageprovider.NewFileWritable(f), sstable.WriterOptions{TableFormat: sstable.TableFormatPebblev4})
	for i := from; i < to; i++ {
		if err := w.Set(rowKey(i), rowValue(i, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestPebbleIngest ingests tables, replaces a span by some, and opens a
// checkpoint, on real files as well as in memory.
func TestPebbleIngest(t *testing.T) {
	t.Parallel()
	for name, below := range map[string]vfs.FS{"memory": vfs.NewMem(), "disk": vfs.Default} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := "/"
			if below == vfs.Default {
				dir = t.TempDir()
			}
			at := func(name string) string { return below.PathJoin(dir, name) }
			fs := newFS(t, below)
			db, err := pebble.Open(at("db"), pebbleOptions(fs))
			if err != nil {
				t.Fatal(err)
			}
			fill(t, db, 0, 1000)
			table(t, fs, at("one.sst"), 1000, 1500)
			if err := db.Ingest(t.Context(), []string{at("one.sst")}); err != nil {
				t.Fatal(err)
			}
			table(t, fs, at("two.sst"), 200, 300)
			span := pebble.KeyRange{Start: rowKey(100), End: rowKey(900)}
			if _, err := db.IngestAndExcise(t.Context(), []string{at("two.sst")}, nil, nil, span); err != nil {
				t.Fatal(err)
			}
			if err := db.Checkpoint(at("checkpoint"), pebble.WithFlushedWAL()); err != nil {
				t.Fatal(err)
			}
			fill(t, db, 1500, 1600)
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			noSecrets(t, below, dir)
			for store, want := range map[string]int{"db": 900, "checkpoint": 800} {
				db, err := pebble.Open(at(store), pebbleOptions(fs))
				if err != nil {
					t.Fatal(err)
				}
				if n := rows(t, db); n != want {
					t.Errorf("%s has %d rows, want %d", store, n, want)
				}
				if err := db.Close(); err != nil {
					t.Fatal(err)
				}
			}
			noSecrets(t, below, dir)
		})
	}
}

// TestPebbleWrongKey opens a store under another key, and says so.
func TestPebbleWrongKey(t *testing.T) {
	t.Parallel()
	below := vfs.NewMem()
	db, err := pebble.Open("db", pebbleOptions(newFS(t, below)))
	if err != nil {
		t.Fatal(err)
	}
	fill(t, db, 0, 100)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	fs, err := cryptfs.New(below, seeded(storeA(), 9))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pebble.Open("db", pebbleOptions(fs)); !errors.Is(err, cryptfs.ErrKey) || !strings.Contains(fmt.Sprint(err), "db/") {
		t.Errorf("Open = %v; want the name of a file, %v", err, cryptfs.ErrKey)
	}
}

// TestPebbleFromPlain takes over a store that was made without encryption: it
// is read as it is, and nothing of it is left once its files were replaced,
// the tables while it is in use.
func TestPebbleFromPlain(t *testing.T) {
	t.Parallel()
	below := vfs.NewMem()
	db, err := pebble.Open("db", pebbleOptions(below))
	if err != nil {
		t.Fatal(err)
	}
	fill(t, db, 0, 2000)
	if err := db.Set(rowKey(2000), rowValue(2000, 0), pebble.Sync); err != nil { // in the log
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	fs := newFS(t, below)
	encryptAll(t, fs, cryptfs.IsNoTable)
	if db, err = pebble.Open("db", pebbleOptions(fs)); err != nil {
		t.Fatal(err)
	}
	if n := rows(t, db); n != 2001 {
		t.Errorf("%d rows, want 2001", n)
	}
	var work sync.WaitGroup
	work.Go(func() {
		for i := 2001; i < 6000; i += 100 {
			fill(t, db, i, i+100)
		}
	})
	encryptAll(t, fs, cryptfs.IsTable)
	work.Wait()
	if n := rows(t, db); n != 6001 {
		t.Errorf("%d rows, want 6001", n)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	noSecrets(t, below, "db")
	if db, err = pebble.Open("db", pebbleOptions(fs)); err != nil {
		t.Fatal(err)
	}
	if n := rows(t, db); n != 6001 {
		t.Errorf("%d rows after another start, want 6001", n)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// encryptAll replaces files until none is left.
func encryptAll(t *testing.T, fs *cryptfs.FS, which func(string) bool) {
	t.Helper()
	paths, err := fs.Plain("db", which)
	if err != nil || len(paths) == 0 {
		t.Fatalf("Plain = %v, %v; want some", paths, err)
	}
	for _, path := range paths {
		if err := fs.Encrypt(path); err != nil {
			t.Fatal(err)
		}
	}
	if paths, err = fs.Plain("db", which); err != nil || len(paths) > 0 {
		t.Errorf("Plain = %v, %v; want none", paths, err)
	}
}

// TestEncryptCrashes cuts the power at any call of a replacement.
func TestEncryptCrashes(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("content "), 10_000)
	rng := rand.New(rand.NewPCG(1, 4))
	for i := range 40 {
		below := vfs.NewCrashableMem()
		create(t, below, "000007.sst", content)
		dir, err := below.OpenDir("/")
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
			t.Fatal(err)
		}
		cut := &cutFS{FS: below, calls: i, power: func() *vfs.MemFS {
			return below.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rng})
		}}
		if err := newFS(t, cut).Encrypt("000007.sst"); err != nil {
			t.Fatal(err)
		}
		if cut.clone == nil {
			cut.clone = cut.power()
		}
		fs := newFS(t, cut.clone)
		if got := contents(t, fs, "000007.sst"); !bytes.Equal(got, content) {
			t.Errorf("power cut after %d calls: %d bytes differ from what was there", i, len(got))
		}
	}
}

// cutFS takes a crash clone after so many calls that change something.
type cutFS struct {
	vfs.FS
	calls int
	power func() *vfs.MemFS
	clone *vfs.MemFS
}

func (c *cutFS) count() {
	if c.calls--; c.calls == 0 {
		c.clone = c.power()
	}
}

func (c *cutFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := c.FS.Create(name, category)
	c.count()
	return &cutFile{f, c}, err
}

func (c *cutFS) Rename(a, b string) error {
	defer c.count()
	return c.FS.Rename(a, b)
}

func (c *cutFS) OpenDir(name string) (vfs.File, error) {
	f, err := c.FS.OpenDir(name)
	return &cutFile{f, c}, err
}

type cutFile struct {
	vfs.File
	fs *cutFS
}

func (c *cutFile) Write(p []byte) (int, error) {
	defer c.fs.count()
	return c.File.Write(p)
}

func (c *cutFile) Sync() error {
	defer c.fs.count()
	return c.File.Sync()
}

// BenchmarkFile compares what goes through an encrypted file with a plain one:
//
//	go test ./metadata/cryptfs -bench File
func BenchmarkFile(b *testing.B) {
	for name, fs := range map[string]vfs.FS{"plain": vfs.Default, "crypt": newFS(b, vfs.Default)} {
		path := vfs.Default.PathJoin(b.TempDir(), "f")
		for _, bytes := range []int{4 << 10, 32 << 10} {
			b.Run(fmt.Sprintf("write %d KiB/%s", bytes>>10, name), func(b *testing.B) {
				buf := make([]byte, bytes)
				b.SetBytes(int64(bytes))
				var f vfs.File
				var err error
				for i := 0; b.Loop(); i++ {
					if i%(64<<20/bytes) == 0 { // a new file every 64 MiB
						if f != nil {
							f.Close()
						}
						if f, err = fs.Create(path, ""); err != nil {
							b.Fatal(err)
						}
					}
					if _, err := f.Write(buf); err != nil {
						b.Fatal(err)
					}
				}
				f.Close()
			})
			b.Run(fmt.Sprintf("read %d KiB/%s", bytes>>10, name), func(b *testing.B) {
				create(b, fs, path, make([]byte, 16<<20))
				f, err := fs.Open(path)
				if err != nil {
					b.Fatal(err)
				}
				defer f.Close()
				buf := make([]byte, bytes)
				b.SetBytes(int64(bytes))
				for i := 0; b.Loop(); i++ {
					if _, err := f.ReadAt(buf, int64(i*7919%(15<<20))); err != nil && err != io.EOF {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkPebble compares batches of 100 small rows, as a metadata engine
// commits them, with and without encryption.
func BenchmarkPebble(b *testing.B) {
	for name, fs := range map[string]vfs.FS{"plain": vfs.NewMem(), "crypt": newFS(b, vfs.NewMem())} {
		b.Run(name, func(b *testing.B) {
			o := pebbleOptions(fs)
			o.MemTableSize = 16 << 20
			db, err := pebble.Open("db", o)
			if err != nil {
				b.Fatal(err)
			}
			defer db.Close()
			for n := 0; b.Loop(); n++ {
				batch := db.NewBatch()
				for i := range 100 {
					if err := batch.Set(fmt.Appendf(nil, "%d/%d", n*7919%100_000, i), make([]byte, 300), nil); err != nil {
						b.Fatal(err)
					}
				}
				if err := batch.Commit(pebble.Sync); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
