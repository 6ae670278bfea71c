package server

import (
	"path/filepath"
	"testing"

	"github.com/ruche-storage/ruche/cmd/ruche/config"
	"github.com/ruche-storage/ruche/gateway/admin"
)

// TestGrowsAgainAfterShrinking goes to several copies a second time: what the
// table of stores remembers of the first time must not be waited for.
func TestGrowsAgainAfterShrinking(t *testing.T) {
	t.Parallel()
	dir := withBucket(t, three)
	for _, setting := range []string{"1", "3", "1", "3"} {
		p := opened(t, settings(t, dir, func(c *config.Config) { c.MetadataReplicas = setting }))
		m := await(t, p, "metadata-replicas "+setting, func(m *admin.Metadata) bool {
			return well(int(setting[0]-'0'))(m) && (m.Engine == admin.EngineLocal) == (setting == "1")
		})
		if s := m.Stores[0]; setting == "1" && (s.FreeBytes == 0 || s.CapacityBytes == 0) {
			t.Errorf("the one copy does not know its space: %+v", s)
		}
		getObject(t, p, secret+"-1")
		closed(t, p)
	}
	p := opened(t, settings(t, dir, nil))
	for _, d := range []string{"d4", "d5"} {
		if _, err := p.ctl.AddCopy(t.Context(), &admin.AddCopyRequest{Path: filepath.Join(dir, d)}); err != nil {
			t.Fatal(err)
		}
	}
	await(t, p, "five copies", well(5))
	closed(t, p)
}
