package cryptfs_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/ruche-storage/ruche/metadata/cryptfs"
	"github.com/ruche-storage/ruche/metadata/topology"
)

var rewrite = flag.Bool("rewrite", false, "write the golden file anew")

// TestGolden pins the stored form: what a file holds, byte for byte, and that a
// file stored once is read for ever.
func TestGolden(t *testing.T) {
	t.Parallel()
	content := []byte("what stands in a file of a store, longer than one block of the cipher")
	below := vfs.NewMem()
	create(t, newFS(t, below), "f", content)
	raw := contents(t, below, "f")
	if rest := raw[84:cryptfs.HeaderBytes]; len(bytes.Trim(rest, "\x00")) > 0 {
		t.Errorf("the rest of the header is not zero: %x", rest)
	}
	got := fmt.Sprintf("header %x\ncontent %x\n", raw[:84], raw[cryptfs.HeaderBytes:])
	if *rewrite {
		if err := os.WriteFile("testdata/golden", []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/golden")
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("stored form is\n%swant\n%s", got, want)
	}
	var head, body string
	if _, err := fmt.Sscanf(string(want), "header %s\ncontent %s\n", &head, &body); err != nil {
		t.Fatal(err)
	}
	stored := append(unhex(t, head), make([]byte, cryptfs.HeaderBytes-84)...)
	create(t, below, "stored", append(stored, unhex(t, body)...))
	if got := contents(t, newFS(t, below), "stored"); !bytes.Equal(got, content) {
		t.Errorf("the stored file reads %q, want %q", got, content)
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestHeaders is the table of FORMAT.md: what is made of the first bytes.
func TestHeaders(t *testing.T) {
	t.Parallel()
	below := vfs.NewMem()
	content := bytes.Repeat([]byte("content "), 50)
	create(t, newFS(t, below), "whole", content)
	whole := contents(t, below, "whole")
	changed := func(at int) []byte {
		b := bytes.Clone(whole)
		b[at] ^= 1
		return b
	}
	cut := func(n int) []byte { return whole[:n] }
	zeroed := bytes.Clone(whole)
	clear(zeroed[:cryptfs.HeaderBytes])
	long := bytes.Repeat([]byte("p"), cryptfs.HeaderBytes)
	for _, test := range []struct {
		name string
		raw  []byte
		want []byte // in a store with files from before there was encryption
		err  error
		// damaged says that a store without such files refuses it.
		damaged bool
	}{
		{name: "whole", raw: whole, want: content},
		{name: "nothing"},
		{name: "one byte", raw: cut(1)},
		{name: "magic", raw: cut(8)},
		{name: "half a header", raw: cut(50)},
		{name: "all that is known of the header", raw: cut(84)},
		{name: "header without its end", raw: cut(cryptfs.HeaderBytes - 1)},
		{name: "header alone", raw: cut(cryptfs.HeaderBytes)},
		{name: "header and a byte", raw: cut(cryptfs.HeaderBytes + 1), want: content[:1]},
		{name: "header not on the disk", raw: make([]byte, cryptfs.HeaderBytes)},
		{name: "zeros where the header was", raw: zeroed, want: zeroed, damaged: true},
		{name: "plain", raw: []byte("plain"), want: []byte("plain"), damaged: true},
		{name: "plain, as long as a header", raw: long, want: long, damaged: true},
		{name: "magic damaged", raw: changed(0), want: changed(0), damaged: true},
		{name: "format", raw: changed(8), err: cryptfs.ErrNewer},
		{name: "header length", raw: changed(12), err: cryptfs.ErrDamaged},
		{name: "store", raw: changed(20), err: cryptfs.ErrDamaged},
		{name: "salt", raw: changed(40), err: cryptfs.ErrDamaged},
		{name: "check", raw: changed(70), err: cryptfs.ErrDamaged},
		{name: "checksum", raw: changed(82), err: cryptfs.ErrDamaged},
		{name: "rest of the header", raw: changed(200), want: content},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			below := vfs.NewMem()
			create(t, below, "dir-f", test.raw)
			o := seeded(storeA(), 1)
			o.Whole = true
			strict, err := cryptfs.New(below, o)
			if err != nil {
				t.Fatal(err)
			}
			f, err := strict.Open("dir-f")
			if want := test.err; test.damaged && !errors.Is(err, cryptfs.ErrDamaged) || !test.damaged && !errors.Is(err, want) {
				t.Errorf("Open in a store of encrypted files = %v, want %v, damaged: %v", err, want, test.damaged)
			}
			if err == nil {
				f.Close()
			}
			fs := newFS(t, below)
			f, err = fs.Open("dir-f")
			if !errors.Is(err, test.err) {
				t.Fatalf("Open = %v, want %v", err, test.err)
			}
			if err != nil {
				if !strings.Contains(err.Error(), "dir-f") {
					t.Errorf("%q does not name the file", err)
				}
				return
			}
			defer f.Close()
			got, err := io.ReadAll(f)
			if err != nil || !bytes.Equal(got, test.want) {
				t.Errorf("read %d bytes, %v; want %d", len(got), err, len(test.want))
			}
			i, err := fs.Stat("dir-f")
			if err != nil || i.Size() != int64(len(test.want)) {
				t.Errorf("Stat = %v, %v; want %d bytes", i, err, len(test.want))
			}
		})
	}
}

func TestWrongKey(t *testing.T) {
	t.Parallel()
	below := vfs.NewMem()
	create(t, newFS(t, below), "f", []byte("content"))
	for name, c := range map[string]struct {
		o       cryptfs.Options
		want    error
		mention string
	}{
		"another key of the store":  {seeded(storeA(), 2), cryptfs.ErrKey, "ruche keyring restore"},
		"another store":             {seeded(storeB(), 1), cryptfs.ErrForeign, "put the files of this store there"},
		"another store and its key": {seeded(storeB(), 2), cryptfs.ErrForeign, "put the files of this store there"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fs, err := cryptfs.New(below, c.o)
			if err != nil {
				t.Fatal(err)
			}
			_, err = fs.Open("f")
			if !errors.Is(err, c.want) || !strings.Contains(fmt.Sprint(err), "cryptfs: f: ") || !strings.Contains(fmt.Sprint(err), c.mention) {
				t.Errorf("Open = %v; want the name of the file, %v", err, c.want)
			}
			if _, err := fs.OpenReadWrite("f", ""); !errors.Is(err, c.want) {
				t.Errorf("OpenReadWrite = %v, want %v", err, c.want)
			}
			if i, err := fs.Stat("f"); err != nil || i.Size() != 7 {
				t.Errorf("Stat = %v, %v; want 7 bytes", i, err)
			}
		})
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	good := seeded(storeA(), 1)
	for name, change := range map[string]func(*cryptfs.Options){
		"no key":    func(o *cryptfs.Options) { o.Key = cryptfs.Key{} },
		"no store":  func(o *cryptfs.Options) { o.Store = topology.DriveID{} },
		"no random": func(o *cryptfs.Options) { o.Random = nil },
	} {
		o := good
		change(&o)
		if _, err := cryptfs.New(vfs.NewMem(), o); err == nil {
			t.Errorf("%s: New takes it", name)
		}
	}
	if _, err := cryptfs.New(nil, good); err == nil {
		t.Error("no file system: New takes it")
	}
}

// TestKeyIsNotPrinted prints what holds a key with all verbs.
func TestKeyIsNotPrinted(t *testing.T) {
	t.Parallel()
	o := seeded(storeA(), 0xab)
	for i := range o.Key {
		o.Key[i] = 0xab
	}
	o.Random = nil
	withRandom := o
	withRandom.Random = strings.NewReader("")
	fs, err := cryptfs.New(vfs.NewMem(), withRandom)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []any{o, &o, o.Key, fs, o.Key.String(), o.Key.LogValue()} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
			text := strings.ToLower(fmt.Sprintf(verb, v))
			for _, secret := range []string{"abab", "171 171", "0xab, 0xab", "\xab\xab"} {
				if strings.Contains(text, secret) {
					t.Errorf("%s of %T shows the key: %s", verb, v, text)
				}
			}
		}
	}
}

// recycled makes file a with old content and reuses it as b.
func recycled(t *testing.T, fs vfs.FS, old []byte) vfs.File {
	t.Helper()
	create(t, fs, "a", old)
	f, err := fs.ReuseForWrite("a", "b", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fs.Stat("a"); err == nil {
		t.Error("the recycled file keeps its old name")
	}
	return f
}

// TestReuseNeverRepeatsKeystream writes zeros, so that the files hold their
// keystreams, and looks for a repetition.
func TestReuseNeverRepeatsKeystream(t *testing.T) {
	t.Parallel()
	below := vfs.NewMem()
	fs := newFS(t, below)
	seen := map[string]bool{}
	note := func(name string) {
		raw := contents(t, below, name)[cryptfs.HeaderBytes:]
		for ; len(raw) >= 16; raw = raw[16:] {
			if seen[string(raw[:16])] {
				t.Fatal("a block of keystream was used twice")
			}
			seen[string(raw[:16])] = true
		}
	}
	zeros := make([]byte, 64<<10)
	create(t, fs, "log0", zeros)
	for i := range 20 {
		note(fmt.Sprintf("log%d", i))
		f, err := fs.ReuseForWrite(fmt.Sprintf("log%d", i), fmt.Sprintf("log%d", i+1), "")
		if err != nil {
			t.Fatal(err)
		}
		if i, err := f.Stat(); err != nil || i.Size() != int64(len(zeros)) {
			t.Fatalf("Stat of a recycled file = %v, %v; want its old size", i, err)
		}
		if _, err := f.Write(zeros); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestReuse reads a recycled file that is shorter than before.
func TestReuse(t *testing.T) {
	t.Parallel()
	below := vfs.NewMem()
	fs := newFS(t, below)
	old := bytes.Repeat([]byte("old record "), 1000)
	f := recycled(t, fs, old)
	if _, err := f.Write([]byte("new record")); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	got := contents(t, fs, "b")
	if len(got) != len(old) || !bytes.HasPrefix(got, []byte("new record")) {
		t.Fatalf("%d bytes that begin %q, want %d", len(got), got[:10], len(old))
	}
	if bytes.Contains(got, []byte("old record")) || bytes.Contains(contents(t, below, "b"), []byte("record")) {
		t.Error("what the file held before can be read")
	}
}

// TestReuseOfPlain does not leave the end of an unencrypted log in place.
func TestReuseOfPlain(t *testing.T) {
	t.Parallel()
	for _, old := range []string{"plain record", ""} {
		below := vfs.NewMem()
		create(t, below, "a", []byte(old))
		f, err := newFS(t, below).ReuseForWrite("a", "b", "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte("new")); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if raw := contents(t, below, "b"); len(raw) != cryptfs.HeaderBytes+3 {
			t.Errorf("%d bytes after a reuse of %q", len(raw), old)
		}
		if _, err := below.Stat("a"); err == nil {
			t.Error("the old file is still there")
		}
	}
	if _, err := newFS(t, vfs.NewMem()).ReuseForWrite("missing", "b", ""); err == nil {
		t.Error("a missing file was reused")
	}
}

// TestReadWhileWritten opens a file before its first byte is written.
func TestReadWhileWritten(t *testing.T) {
	t.Parallel()
	fs := newFS(t, vfs.NewMem())
	w, err := fs.Create("f", "")
	if err != nil {
		t.Fatal(err)
	}
	r, err := fs.Open("f")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := r.Read(make([]byte, 10)); n != 0 || err != io.EOF {
		t.Errorf("Read of an empty file = %d, %v", n, err)
	}
	if _, err := w.Write([]byte("content")); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); string(got) != "content" || err != nil {
		t.Errorf("read %q, %v; want %q", got, err, "content")
	}
	if i, err := r.Stat(); err != nil || i.Size() != 7 {
		t.Errorf("Stat = %v, %v", i, err)
	}
	if _, err := r.Write([]byte("x")); err == nil {
		t.Error("a file that is open for reading was written")
	}
	if err := errors.Join(w.Close(), r.Close()); err != nil {
		t.Error(err)
	}
}

// TestShortWrites goes on where the file below has stopped, as file systems do
// that make room on a full disk and try again.
func TestShortWrites(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("0123456789abcdef-"), 20000)
	for limit := 100; limit < 200_000; limit = limit*3 + 1 {
		below := &shortFS{FS: vfs.NewMem(), limit: limit}
		fs := newFS(t, below)
		f, err := fs.Create("f", "")
		if err != nil {
			t.Fatal(err)
		}
		failures := 0
		for rest := content; len(rest) > 0; {
			n, err := f.Write(rest)
			if err != nil && !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
			if err != nil {
				failures++
			}
			rest = rest[n:]
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if got := contents(t, fs, "f"); !bytes.Equal(got, content) || failures == 0 && limit < 60_000 {
			t.Errorf("after %d short writes of %d bytes, %d bytes differ from what was written", failures, limit, len(got))
		}
	}
}

// shortFS makes files that write limit bytes at most and fail then.
type shortFS struct {
	vfs.FS
	limit int
}

func (s *shortFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := s.FS.Create(name, c)
	return &shortFile{f, s.limit}, err
}

type shortFile struct {
	vfs.File
	limit int
}

func (s *shortFile) Write(p []byte) (int, error) {
	if len(p) <= s.limit {
		return s.File.Write(p)
	}
	n, err := s.File.Write(p[:s.limit])
	return n, errors.Join(err, syscall.ENOSPC)
}

// TestErrors passes on what the file system below reports, at any call.
func TestErrors(t *testing.T) {
	t.Parallel()
	for i := range int32(40) {
		toggle := errorfs.OnIndex(i)
		below := errorfs.Wrap(vfs.NewMem(), errorfs.ErrInjected.If(toggle))
		failed := exercise(newFS(t, below))
		if hit := toggle.Load() < 0; hit != (failed != nil) {
			t.Errorf("call %d: failed: %v, reported: %v", i, hit, failed)
		}
		if failed != nil && !strings.Contains(failed.Error(), "injected error") {
			t.Errorf("call %d: %v does not say what has failed", i, failed)
		}
	}
	o := seeded(storeA(), 1)
	o.Random = iotest.ErrReader(errors.New("no entropy"))
	fs, err := cryptfs.New(vfs.NewMem(), o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fs.Create("f", ""); err == nil || !strings.Contains(err.Error(), "no entropy") {
		t.Errorf("Create without randomness = %v", err)
	}
}

// exercise makes, reads, reuses and encrypts files until something fails.
func exercise(fs *cryptfs.FS) error {
	f, err := fs.Create("a", "")
	if err != nil {
		return err
	}
	_, err = f.Write([]byte("content"))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if _, err := fs.Stat("a"); err != nil {
		return err
	}
	r, err := fs.Open("a")
	if err != nil {
		return err
	}
	_, err = io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil {
		return err
	}
	if f, err = fs.ReuseForWrite("a", "b", ""); err != nil {
		return err
	}
	_, err = f.Write([]byte("other"))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	p, err := fs.FS.Create("000001.sst", "")
	if err != nil {
		return err
	}
	_, err = p.Write([]byte("plain content"))
	if err = errors.Join(err, p.Close()); err != nil {
		return err
	}
	return fs.Encrypt("000001.sst")
}

// TestReadersInParallel reads one file from many goroutines.
func TestReadersInParallel(t *testing.T) {
	t.Parallel()
	fs := newFS(t, vfs.NewMem())
	content := make([]byte, 1<<20)
	for i := range content {
		content[i] = byte(i >> 8 * i)
	}
	create(t, fs, "f", content)
	f, err := fs.Open("f")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var work sync.WaitGroup
	for g := range 8 {
		work.Go(func() {
			buf := make([]byte, 5000)
			for i := range 200 {
				at := (g*7919 + i*104729) % (len(content) - len(buf))
				if n, err := f.ReadAt(buf, int64(at)); n != len(buf) || err != nil || !bytes.Equal(buf, content[at:at+n]) {
					t.Errorf("ReadAt %d = %d, %v, or the bytes differ", at, n, err)
					return
				}
			}
		})
	}
	for g := range 8 {
		work.Go(func() { // and others are made meanwhile
			create(t, fs, fmt.Sprintf("f%d", g), content[:100_000])
			if got := contents(t, fs, fmt.Sprintf("f%d", g)); !bytes.Equal(got, content[:100_000]) {
				t.Errorf("file %d differs", g)
			}
		})
	}
	work.Wait()
}

// TestRealFiles does what needs a file descriptor, and finds directories and
// locks as they are below.
func TestRealFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fs := newFS(t, vfs.Default)
	name := filepath.Join(dir, "f")
	f, err := fs.Create(name, "")
	if err != nil {
		t.Fatal(err)
	}
	f = vfs.NewSyncingFile(f, vfs.SyncingFileOptions{BytesPerSync: 128 << 10, PreallocateSize: 1 << 20})
	content := bytes.Repeat([]byte("what stands in the file "), 200_000)
	for rest := content; len(rest) > 0; rest = rest[min(len(rest), 31_000):] {
		if _, err := f.Write(rest[:min(len(rest), 31_000)]); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	r, err := fs.Open(name, vfs.RandomReadsOption)
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Prefetch(0, 1<<20) // on Linux it reports an error number of 0 as an error
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, content) {
		t.Errorf("read %d bytes, %v; want %d", len(got), err, len(content))
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	raw, err := os.ReadFile(name)
	if err != nil || len(raw) != len(content)+cryptfs.HeaderBytes || bytes.Contains(raw, []byte("stands in")) {
		t.Errorf("%d bytes lie there, %v, or they can be read", len(raw), err)
	}
	lock, err := fs.Lock(filepath.Join(dir, "LOCK"))
	if err != nil {
		t.Fatal(err)
	}
	d, err := fs.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Sync(), d.Close(), lock.Close()); err != nil {
		t.Error(err)
	}
	if i, err := os.Stat(filepath.Join(dir, "LOCK")); err != nil || i.Size() != 0 {
		t.Errorf("lock file: %v, %v", i, err)
	}
	if d, err = fs.Open(dir); err != nil {
		t.Fatalf("Open of a directory = %v", err)
	}
	if i, err := d.Stat(); err != nil || !i.IsDir() {
		t.Errorf("Stat of a directory = %v, %v", i, err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if vfs.Root(fs) != vfs.Default {
		t.Error("Root does not find the file system below")
	}
}

// TestHeaderIsDurableFirst finds every header on stable storage before anything
// is behind it, and lets no write pass after a sync of it has failed.
func TestHeaderIsDurableFirst(t *testing.T) {
	t.Parallel()
	below := vfs.NewCrashableMem()
	fs := newFS(t, below)
	create(t, fs, "old", []byte("old content"))
	made, err := fs.Create("made", "")
	if err != nil {
		t.Fatal(err)
	}
	reused, err := fs.ReuseForWrite("old", "reused", "")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := below.OpenDir("/")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]vfs.File{"made": made, "reused": reused} {
		if _, err := f.Write([]byte("content")); err != nil {
			t.Fatal(err)
		}
		raw := contents(t, below.CrashClone(vfs.CrashCloneCfg{}), name)
		if len(raw) < cryptfs.HeaderBytes || !bytes.Equal(raw[:84], contents(t, below, name)[:84]) {
			t.Errorf("%s: the header is not that of what was written", name)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}

	broken := &syncFS{FS: vfs.NewMem(), err: errors.New("the device has failed")}
	f, err := newFS(t, broken).Create("f", "")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if n, err := f.Write([]byte("content")); n != 0 || !errors.Is(err, broken.err) || broken.syncs != 1 {
			t.Errorf("Write = %d, %v after %d syncs; want %v after 1", n, err, broken.syncs, broken.err)
		}
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

// syncFS makes files that cannot be synced.
type syncFS struct {
	vfs.FS
	err   error
	syncs int
}

func (s *syncFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := s.FS.Create(name, c)
	return &syncFile{f, s}, err
}

type syncFile struct {
	vfs.File
	fs *syncFS
}

func (s *syncFile) SyncData() error {
	s.fs.syncs++
	return s.fs.err
}

// FuzzHeader opens files with any first bytes: no panic, and what has a key is
// never taken for another file.
func FuzzHeader(f *testing.F) {
	below := vfs.NewMem()
	create(f, newFS(f, below), "f", []byte("content"))
	whole := contents(f, below, "f")
	f.Add(whole)
	f.Add(whole[:60])
	f.Add([]byte("plain"))
	f.Add(make([]byte, 100))
	f.Fuzz(func(t *testing.T, raw []byte) {
		below := vfs.NewMem()
		create(t, below, "f", raw)
		fs := newFS(t, below)
		file, err := fs.Open("f")
		if err != nil {
			if !bytes.HasPrefix(raw, whole[:8]) {
				t.Errorf("refused without the magic: %v", err)
			}
			return
		}
		defer file.Close()
		got, err := io.ReadAll(file)
		i, err2 := fs.Stat("f")
		if err != nil || err2 != nil || i.Size() != int64(len(got)) || len(got) > len(raw) {
			t.Errorf("%d of %d bytes read, %v; Stat = %v, %v", len(got), len(raw), err, i, err2)
		}
	})
}
