package gateway

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestDocumentation holds docs/s3.md to the tables of operations: every call
// that is offered is named there, and every one that is not with the reason
// that clients get.
func TestDocumentation(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/s3.md")
	if err != nil {
		t.Fatal(err)
	}
	page := strings.Join(strings.Fields(string(text)), " ")
	for _, op := range operations {
		if !strings.Contains(page, "`"+op.name+"`") {
			t.Errorf("%s is not documented", op.name)
		}
	}
	reasons := make(map[string]bool)
	for row, reason := range notOffered {
		reasons[reason] = true
		if row.sub != "" && !strings.Contains(page, "`?"+row.sub+"`") {
			t.Errorf("%s ?%s is not documented", row.method, row.sub)
		}
	}
	for _, reason := range slices.Sorted(maps.Keys(reasons)) {
		if !strings.Contains(page, reason) {
			t.Errorf("the reason %q is not documented", reason)
		}
	}
}
