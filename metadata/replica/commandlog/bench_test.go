package commandlog_test

import (
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata/replica/commandlog"
)

// BenchmarkAppend stores one entry of each of some groups in one batch, on a
// file system in memory, and cuts the log now and then.
func BenchmarkAppend(b *testing.B) {
	for _, groups := range []uint32{1, 17} {
		for _, size := range []int{500, 5000} {
			b.Run(fmt.Sprintf("groups=%d/bytes=%d", groups, size), func(b *testing.B) {
				fs := vfs.NewMem()
				var starts []commandlog.Start
				for g := range groups {
					starts = append(starts, commandlog.Start{Group: g, Index: 1, Term: 1, Conf: conf(3)})
				}
				if err := commandlog.Create("log", commandlog.Options{FS: fs}, identity, starts); err != nil {
					b.Fatal(err)
				}
				l, err := commandlog.Open("log", commandlog.Options{FS: fs})
				if err != nil {
					b.Fatal(err)
				}
				data := string(make([]byte, size))
				b.ReportAllocs()
				index := uint64(1)
				for b.Loop() {
					index++
					var ws []commandlog.Write
					for g := range groups {
						ws = append(ws, commandlog.Write{Group: g, Entries: []*pbEntry{entry(index, 1, data)}, HardState: promised(1, 3, index)})
					}
					if err := l.Append(ws); err != nil {
						b.Fatal(err)
					}
					if index%1000 == 0 {
						for g := range groups {
							if err := l.Cut(g, index-100); err != nil {
								b.Fatal(err)
							}
						}
					}
				}
				if err := l.Close(); err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}
