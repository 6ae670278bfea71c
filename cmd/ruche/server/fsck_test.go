package server

import (
	"strings"
	"testing"

	"github.com/ruche-storage/ruche/metadata"
)

// TestFsckReport names what is bad, and counts the rest only behind that.
func TestFsckReport(t *testing.T) {
	t.Parallel()
	named := []FsckRecord{{"manifest", "0a/0", "checksum differs"}, {"shard", "0b/3", "gone"}}
	for _, c := range []struct {
		bad    int64
		named  []FsckRecord
		want   []string
		absent string
	}{
		{0, nil, []string{"0 bad"}, "nothing was deleted"},
		{2, named, []string{"manifest 0a/0  checksum differs\n", "shard 0b/3  gone\n", "nothing was deleted"}, "more"},
		{5, named, []string{"shard 0b/3  gone\n  and 3 more\n"}, "\n\n"},
	} {
		text := (&FsckReport{Path: "/srv/d1", Bad: c.bad, BadNamed: c.named}).String()
		for _, w := range c.want {
			if !strings.Contains(text, w) {
				t.Errorf("report of %d bad records: %q, want %q in it", c.bad, text, w)
			}
		}
		if strings.Contains(text, c.absent) {
			t.Errorf("report of %d bad records: %q, want no %q in it", c.bad, text, c.absent)
		}
	}
	for kind, want := range map[metadata.RecordType]string{metadata.RecordShard: "shard", metadata.RecordRoot: "root", 77: "type 77"} {
		if got := recordKind(kind); got != want {
			t.Errorf("recordKind(%d) = %q, want %q", kind, got, want)
		}
	}
}
