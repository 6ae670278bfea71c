package main

import (
	"io"
	"strings"
	"testing"

	"github.com/ruche-storage/ruche/gateway/admin"
)

// TestLongReasons: a table shows the beginning of a long reason in one line, and
// the whole of it stands below.
func TestLongReasons(t *testing.T) {
	t.Parallel()
	long := "open copy 2: the log ends at position 512,\nand the state has applied 530 of term 4: replace this copy"
	a := &app{surroundings: surroundings{stdout: io.Discard}}
	m := &admin.Metadata{Engine: admin.EngineReplicated, Stores: []admin.CopyState{
		{Replica: 1, Path: "/srv/d1/meta", Drive: "1", Role: admin.CopyVoter, Health: admin.CopyOK},
		{Replica: 2, Path: "/srv/d2/meta", Drive: "2", Role: admin.CopyVoter, Health: admin.CopyRefused, Reason: long},
		{Replica: 3, Path: "/srv/d3/meta", Drive: "3", Role: admin.CopyVoter, Health: admin.CopyAbsent, Reason: "not mounted"},
	}}
	text, remedies, _ := strings.Cut(a.copiesText(m), "\nwhat helps ")
	for _, want := range []string{"copy 2: put the right device there", "\"ruche metadata replace 2\"", "what helps copy 3: mount it", "\"ruche metadata replace 3\""} {
		if !strings.Contains(remedies, want) {
			t.Errorf("the remedies do not say %q:\n%s", want, remedies)
		}
	}
	whole := "copy 2 in /srv/d2: " + strings.ReplaceAll(long, "\n", " ") + "\n"
	if !strings.HasSuffix(text, "\n\n"+whole) {
		t.Errorf("the whole reason is not below the table:\n%s", text)
	}
	table := strings.TrimSuffix(text, whole)
	if !strings.Contains(table, "open copy 2: the log ends at position 512, and…\n") || !strings.Contains(table, "not mounted\n") || strings.Contains(table, "copy 3") {
		t.Errorf("the table:\n%s", table)
	}
	wide := ""
	for line := range strings.Lines(table) {
		if strings.HasPrefix(line, "STORE") {
			wide = line
		}
	}
	if !strings.HasSuffix(wide, "REASON\n") {
		t.Errorf("no column of reasons: %q", wide)
	}
	if n := strings.Count(table, "/srv/d"); n != len(m.Stores) {
		t.Errorf("%d rows for %d copies:\n%s", n, len(m.Stores), table)
	}
	m.Stores = m.Stores[:1]
	if text := a.copiesText(m); strings.Contains(text, "REASON") || strings.Contains(text, "helps") {
		t.Errorf("a reason or remedy where nothing is the matter:\n%s", text)
	}
}
