package server

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ruche-storage/ruche/cmd/ruche/config"
	"github.com/ruche-storage/ruche/gateway/admin"
)

// TestListOlderThanACopyOnAListedDrive puts metadata.json back to before a copy
// was replaced where it lay: it would give the number of the new one again.
func TestListOlderThanACopyOnAListedDrive(t *testing.T) {
	t.Parallel()
	dir := withBucket(t, three)
	name := filepath.Join(dir, storesName)
	older, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	p := opened(t, settings(t, dir, three))
	await(t, p, "three copies", well(3))
	remove(t, filepath.Join(dir, "d2", "meta"))
	await(t, p, "the loss is seen", func(m *admin.Metadata) bool { return m.Healthy == 2 && m.Leaderless == 0 })
	if _, err := p.ctl.ReplaceCopy(t.Context(), &admin.ReplaceCopyRequest{Store: "2"}); err != nil {
		t.Fatal(err)
	}
	await(t, p, "it is replaced", well(3))
	closed(t, p)
	newest, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, older, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = attempt(t, settings(t, dir, three), nil)
	wantReason(t, err, MetadataLost, "d2", "copy 4", "does not know of")
	if err := os.WriteFile(name, newest, 0o600); err != nil {
		t.Fatal(err)
	}
	p = opened(t, settings(t, dir, three))
	await(t, p, "three copies", well(3))
	closed(t, p)
}

// TestFirstStartWithAnotherNumberOfCopies is cut off when the copies were made,
// and begun again with fewer: no later start takes what is left for the truth.
func TestFirstStartWithAnotherNumberOfCopies(t *testing.T) {
	t.Parallel()
	for _, then := range []string{"1", "3"} {
		t.Run(then, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "data")
			number := func(n string) *config.Config {
				return settings(t, dir, func(c *config.Config) { c.MetadataReplicas = n })
			}
			p := newProcess(Options{Config: number("5"), Version: "test", Log: slog.New(slog.DiscardHandler), Now: time.Now, Out: &bytes.Buffer{}, KDF: quickKDF})
			for _, step := range p.steps()[:7] {
				if err := step.do(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if err := p.close(); err != nil {
				t.Fatal(err)
			}
			list, err := readStores(dir, p.id.Cluster)
			if err != nil || len(list.Stores) != 5 {
				t.Fatalf("copies %+v, %v", list, err)
			}
			list.Phase = storesMaking
			if err := list.save(dir); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				p = opened(t, number(then))
				m := await(t, p, "the copies are well", func(m *admin.Metadata) bool { return m.Healthy == m.Voters && m.Leaderless == 0 })
				if want := int(then[0] - '0'); len(m.Stores) != want {
					t.Errorf("copies %+v, want %d", m, want)
				}
				closed(t, p)
			}
		})
	}
}
