package commandlog_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata/replica/commandlog"
)

// fileOf is the bytes of a file of a log.
type fileOf struct {
	name string
	data []byte
}

func files(t *testing.T, fs vfs.FS) []fileOf {
	t.Helper()
	names, err := fs.List("log")
	must(t, err)
	slices.Sort(names)
	var all []fileOf
	for _, name := range names {
		f, err := fs.Open(fs.PathJoin("log", name))
		must(t, err)
		data, err := io.ReadAll(f)
		must(t, errors.Join(err, f.Close()))
		all = append(all, fileOf{name, data})
	}
	return all
}

// with returns a file system that holds a log of some files.
func with(t *testing.T, all []fileOf) vfs.FS {
	t.Helper()
	fs := vfs.NewMem()
	must(t, fs.MkdirAll("log", 0o700))
	for _, file := range all {
		f, err := fs.Create(fs.PathJoin("log", file.name), vfs.WriteCategoryUnspecified)
		must(t, err)
		_, err = f.Write(slices.Clone(file.data)) // Pebble's changes what it is given, in builds that look for races
		must(t, errors.Join(err, f.Close()))
	}
	return fs
}

// written is a log with tables and a log of Pebble's own, and the states it
// had, the newest last. Everything is synced.
func written(t *testing.T, seed uint64) (all []fileOf, states [][]*model) {
	t.Helper()
	fs := vfs.NewCrashableMem()
	d, starts := newDriver(seed)
	o := commandlog.Options{FS: fs, MemTableBytes: 16 << 10}
	must(t, commandlog.Create("log", o, identity, starts))
	l, err := commandlog.Open("log", o)
	must(t, err)
	for range 60 {
		for sync := false; !sync; {
			var ws []commandlog.Write
			ws, sync = d.writes()
			must(t, l.Append(ws))
		}
		states = append(states, d.copies())
	}
	crashed := fs.CrashClone(vfs.CrashCloneCfg{})
	must(t, l.Close())
	return files(t, crashed), states
}

// TestRotIsNeverTakenForAShorterLog flips bytes all over the files of a log.
// It must be refused, or be as it was. Only the last write or two may be
// missing: what damages them cannot be told from a crash while they were
// written.
func TestRotIsNeverTakenForAShorterLog(t *testing.T) {
	t.Parallel()
	all, states := written(t, 7)
	r := rand.New(rand.NewPCG(1, 2))
	refused, kept, shorter := 0, 0, 0
	kinds := make(map[string]bool)
	for i, file := range all {
		if strings.HasPrefix(file.name, "OPTIONS") || file.name == "LOCK" || len(file.data) == 0 {
			continue
		}
		kinds[file.name[strings.LastIndexByte(file.name, '.')+1:]] = true
		for range 60 {
			at := r.IntN(len(file.data))
			spoiled := slices.Clone(all)
			spoiled[i].data = slices.Clone(file.data)
			spoiled[i].data[at] ^= 1 << r.IntN(8)
			l, err := commandlog.Open("log", commandlog.Options{FS: with(t, spoiled)})
			if err != nil {
				refused++
				continue
			}
			switch err := same(l, states[len(states)-1]); {
			case err == nil:
				kept++
			case same(l, states[len(states)-2]) == nil, same(l, states[len(states)-3]) == nil:
				shorter++
			default:
				t.Errorf("%s with a flipped bit at %d of %d opens, and has none of the last three states: %v",
					file.name, at, len(file.data), err)
			}
			must(t, l.Close())
		}
	}
	t.Logf("refused %d, as it was %d, without a last write %d", refused, kept, shorter)
	if !kinds["sst"] || !kinds["log"] || refused < 100 {
		t.Errorf("of files %v only %d were refused", kinds, refused)
	}
}

// same compares a log with a state; a read that finds rot differs.
func same(l *commandlog.Log, state []*model) error {
	for i, m := range state {
		if err := equal(l.Group(uint32(i)), m); err != nil {
			return fmt.Errorf("group %d: %w", i, err)
		}
	}
	return nil
}

// TestMissingFilesAreRefused removes each file of a log. Only the newest of
// Pebble's own logs cannot be missed by Pebble: there the state's row and the
// heartbeats of the other replicas must tell.
func TestMissingFilesAreRefused(t *testing.T) {
	t.Parallel()
	all, states := written(t, 8)
	newest := slices.IndexFunc(all, func(f fileOf) bool { return strings.HasSuffix(f.name, ".log") })
	for i, f := range all {
		if strings.HasSuffix(f.name, ".log") {
			newest = i
		}
	}
	for i, file := range all {
		if i == newest {
			continue
		}
		left := slices.Delete(slices.Clone(all), i, i+1)
		l, err := commandlog.Open("log", commandlog.Options{FS: with(t, left)})
		if err != nil {
			continue
		}
		if err := same(l, states[len(states)-1]); err != nil {
			t.Errorf("without %s it opens: %v", file.name, err)
		}
		must(t, l.Close())
	}
}

// TestRotInReadsFailsTheLog damages a table after the log was opened.
func TestRotInReadsFailsTheLog(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	var fatal []error
	o := commandlog.Options{FS: fs, EntryCacheBytes: 1, Fatal: func(err error) { fatal = append(fatal, err) }}
	must(t, commandlog.Create("log", o, identity, []commandlog.Start{{Group: 1, Index: 1, Term: 1, Conf: conf(3)}}))
	l, err := commandlog.Open("log", o)
	must(t, err)
	var w commandlog.Write
	w.Group = 1
	for i := range uint64(2500) {
		w.Entries = append(w.Entries, entry(i+2, 1, strings.Repeat("x", 1000)))
	}
	must(t, l.Append([]commandlog.Write{w}))
	must(t, l.Close())
	l, err = commandlog.Open("log", o)
	must(t, err)
	names, err := fs.List("log")
	must(t, err)
	for _, name := range names {
		if strings.HasSuffix(name, ".sst") {
			spoil(t, fs, fs.PathJoin("log", name))
		}
	}
	var failed error
	for i := uint64(2); i < 2502 && failed == nil; i++ {
		_, failed = l.Group(1).Entries(i, i+1, 1<<20)
	}
	if !errors.Is(failed, commandlog.ErrRot) || len(fatal) == 0 {
		t.Fatalf("reads of damaged tables: %v, told %v", failed, fatal)
	}
	if err := l.Append([]commandlog.Write{{Group: 1, Entries: []*pbEntry{entry(2502, 1, "y")}}}); !errors.Is(err, commandlog.ErrFailed) {
		t.Errorf("Append after rot was found: %v", err)
	}
}

func spoil(t *testing.T, fs vfs.FS, name string) {
	t.Helper()
	f, err := fs.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
	must(t, err)
	info, err := f.Stat()
	must(t, err)
	junk := slices.Repeat([]byte{0xa5}, int(info.Size()/2))
	_, err = f.WriteAt(junk, 0)
	must(t, errors.Join(err, f.Close()))
}
