package commandlog_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata/replica/commandlog"
)

// TestCutEntriesGetToNoTable: a log that turns after it was cut writes what is
// left of it, and nothing else, to tables.
func TestCutEntriesGetToNoTable(t *testing.T) {
	t.Parallel()
	const bytes, last, kept = 5000, 201, 10
	fs := vfs.NewMem()
	l := create(t, fs, commandlog.Start{Group: 1, Index: 1, Term: 1, Conf: conf(3)})
	random := rand.New(rand.NewPCG(1, 2))
	for index := uint64(2); index <= last; index++ {
		data := make([]byte, bytes) // nothing can be made shorter
		for i := range data {
			data[i] = byte(random.Uint32())
		}
		must(t, l.Append([]commandlog.Write{{Group: 1, Entries: []*pbEntry{entry(index, 1, string(data))}, HardState: promised(1, 3, index)}}))
	}
	if fresh := l.Fresh(); fresh < (last-1)*bytes {
		t.Errorf("%d bytes are fresh, fewer than were written", fresh)
	}
	g := l.Group(1)
	if at := g.Tail(kept * (bytes + 100)); at != last-kept {
		t.Errorf("the tail begins behind %d, want %d", at, last-kept)
	}
	if at := g.Tail(1 << 30); at != 1 {
		t.Errorf("the tail of everything begins behind %d, want 1", at)
	}
	if at := g.Tail(0); at != last {
		t.Errorf("a tail of nothing begins behind %d, want %d", at, last)
	}
	must(t, l.Cut(1, last-kept))
	must(t, l.Turn())
	if fresh := l.Fresh(); fresh != 0 {
		t.Errorf("%d bytes are fresh after a turn", fresh)
	}
	must(t, l.Close())
	size := int64(0)
	names, err := fs.List("log")
	must(t, err)
	for _, name := range names {
		if strings.HasSuffix(name, ".sst") {
			info, err := fs.Stat(fs.PathJoin("log", name))
			must(t, err)
			size += info.Size()
		}
	}
	if most := int64(2 * kept * bytes); size < kept*bytes || size > most {
		t.Errorf("tables have %d bytes, want %d to %d", size, kept*bytes, most)
	}
	l = open(t, fs)
	if es := entries(t, l.Group(1), last-kept+1, last+1); len(es) != kept {
		t.Errorf("%d entries are left, want %d", len(es), kept)
	}
	must(t, l.Close())
}
