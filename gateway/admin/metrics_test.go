package admin_test

import (
	"io"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ruche-storage/ruche/gateway/admin"
)

func TestMetricsAreRendered(t *testing.T) {
	t.Parallel()
	h, err := admin.MetricsHandler(func() []admin.Family {
		return []admin.Family{
			{Name: "free_bytes", Help: "Free.", Labels: []string{"drive"}, Values: []admin.Value{{Labels: []string{"a"}, Number: 5}, {Labels: []string{"b"}, Number: 7}}},
			{Name: "reads_total", Help: "Reads.", Kind: admin.Counter, Values: []admin.Value{{Number: 3}}},
			{Name: "commit_seconds", Help: "Commits.", Kind: admin.Histogram, Values: []admin.Value{{Count: 4, Sum: 2.5, Buckets: map[float64]uint64{0.5: 1, 1: 3}}}},
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	text, err := io.ReadAll(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"# TYPE ruche_free_bytes gauge\n", `ruche_free_bytes{drive="a"} 5`, `ruche_free_bytes{drive="b"} 7`,
		"# TYPE ruche_reads_total counter\n", "ruche_reads_total 3\n",
		`ruche_commit_seconds_bucket{le="0.5"} 1`, `ruche_commit_seconds_bucket{le="1"} 3`, `ruche_commit_seconds_bucket{le="+Inf"} 4`, "ruche_commit_seconds_sum 2.5\n",
		"process_resident_memory_bytes", "go_goroutines",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
}
