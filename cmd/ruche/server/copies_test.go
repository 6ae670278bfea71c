package server

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ruche-storage/ruche/cmd/ruche/config"
	"github.com/ruche-storage/ruche/gateway/admin"
)

// three has a store keep three copies, though there is one device.
func three(c *config.Config) { c.MetadataReplicas = "3" }

func copiesOf(t *testing.T, p *process) *admin.Metadata {
	t.Helper()
	m, err := p.ctl.Metadata(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// await waits until the copies are as they should be.
func await(t *testing.T, p *process, what string, ok func(*admin.Metadata) bool) *admin.Metadata {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		m := copiesOf(t, p)
		if ok(m) {
			return m
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %+v", what, m)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func well(n int) func(*admin.Metadata) bool {
	return func(m *admin.Metadata) bool {
		return m.Voters == n && m.Healthy == n && len(m.Stores) == n && m.Leaderless == 0 && m.Changing == "" && m.Version == m.Latest
	}
}

func TestThreeCopies(t *testing.T) {
	t.Parallel()
	dir := withBucket(t, three)
	p := opened(t, settings(t, dir, three))
	m := await(t, p, "three copies", well(3))
	if m.Engine != admin.EngineReplicated || m.MayLose != 1 || len(m.Shared) != 1 {
		t.Errorf("copies %+v", m)
	}
	for i, s := range m.Stores {
		if want := filepath.Join(dir, []string{"d1", "d2", "d3"}[i], "meta"); s.Path != want {
			t.Errorf("copy %d in %s, want %s", s.Replica, s.Path, want)
		}
	}
	getObject(t, p, secret+"-1")
	getObject(t, p, secret+"-2")
	closed(t, p)
	if _, err := os.Stat(filepath.Join(dir, "metadata")); err == nil {
		t.Error("there is a copy in the state directory, too")
	}
	if found := mentions(t, dir, secret); len(found) > 0 {
		t.Errorf("names of objects are in %v", found)
	}
}
