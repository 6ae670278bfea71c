package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ruche-storage/ruche/cmd/ruche/config"
	"github.com/ruche-storage/ruche/gateway/admin"
	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/topology"
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
	var m *admin.Metadata
	defer func() {
		if t.Failed() {
			t.Logf("the copies: %+v", m)
		}
	}()
	eventually(t, what, func() bool {
		m = copiesOf(t, p)
		return ok(m)
	})
	return m
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

// steadily puts and gets objects until it is ended; nothing may fail.
func steadily(t *testing.T, p *process) (end func() int) {
	t.Helper()
	stop, done := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		defer func() { done <- n }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			key := fmt.Sprintf("steady-%d", n%50)
			_, err := p.eng.Put(context.Background(), &object.PutRequest{Bucket: "b", Key: key, Body: object.Body{Reader: strings.NewReader("small"), Bytes: 5}})
			if err == nil {
				var o *object.Object
				if o, err = p.eng.Get(context.Background(), &object.GetRequest{Bucket: "b", Key: key}); err == nil {
					_, err = o.WriteTo(io.Discard)
					err = errors.Join(err, o.Close())
				}
			}
			if err != nil {
				t.Errorf("request %d: %v", n, err)
				return
			}
			n++
		}
	}()
	return func() int { close(stop); return <-done }
}

// TestGrowAndShrinkUnderLoad goes from one copy to three, to five, and back to
// one while clients work. No request fails.
func TestGrowAndShrinkUnderLoad(t *testing.T) {
	t.Parallel()
	dir := withBucket(t, nil)
	p := opened(t, settings(t, dir, nil))
	ctx := t.Context()
	end := steadily(t, p)
	add := func(path string) {
		t.Helper()
		if _, err := p.ctl.AddCopy(ctx, &admin.AddCopyRequest{Path: path}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.ctl.AddCopy(ctx, &admin.AddCopyRequest{}); err == nil || !strings.Contains(err.Error(), "too few") {
		t.Errorf("copies were added to the one device there is: %v", err)
	}
	add(filepath.Join(dir, "d1"))
	await(t, p, "two copies", well(2))
	add(filepath.Join(dir, "d2", "meta"))
	m := await(t, p, "three copies", well(3))
	if m.Stores[0].Path != filepath.Join(dir, "metadata") || m.MayLose != 1 {
		t.Errorf("copies %+v", m)
	}
	if _, err := p.ctl.AddCopy(ctx, &admin.AddCopyRequest{Path: filepath.Join(dir, "d2")}); err == nil || !strings.Contains(err.Error(), "already") || !strings.Contains(err.Error(), "carries none") {
		t.Errorf("a second copy on a drive: %v", err)
	}
	if _, err := p.ctl.AddCopy(ctx, &admin.AddCopyRequest{Path: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "neither a drive") {
		t.Errorf("a copy somewhere: %v", err)
	}
	add(filepath.Join(dir, "d3"))
	add(filepath.Join(dir, "d4"))
	await(t, p, "five copies", well(5))
	if _, err := p.ctl.AddCopy(ctx, &admin.AddCopyRequest{}); err == nil || !strings.Contains(err.Error(), "5 copies") {
		t.Errorf("more than five copies were added: %v", err)
	}
	for _, name := range []string{"2", filepath.Join(dir, "d2"), filepath.Join(dir, "d3", "meta"), "5"} {
		if _, err := p.ctl.RemoveCopy(ctx, &admin.CopyRequest{Store: name}); err != nil {
			t.Fatalf("remove %s: %v", name, err)
		}
	}
	await(t, p, "one copy", func(m *admin.Metadata) bool { return m.Engine == admin.EngineLocal })
	t.Logf("%d requests meanwhile", end())
	if _, err := p.ctl.RemoveCopy(ctx, &admin.CopyRequest{Store: "1"}); err == nil {
		t.Error("the last copy was removed")
	}
	for _, d := range []string{"d1", "d2", "d3", "d4"} {
		if _, err := os.Stat(filepath.Join(dir, d, "meta")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s still carries a copy: %v", d, err)
		}
	}
	getObject(t, p, secret+"-1")
	closed(t, p)
	p = opened(t, settings(t, dir, nil))
	getObject(t, p, secret+"-1")
	getObject(t, p, "steady-1")
	closed(t, p)
}

// TestSettingIsFollowed changes metadata-replicas between starts.
func TestSettingIsFollowed(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes several starts")
	}
	dir := withBucket(t, nil)
	for _, c := range []struct {
		setting string
		copies  int
	}{{"3", 3}, {"auto", 3}, {"5", 5}, {"3", 3}, {"1", 1}, {"auto", 1}} {
		p := opened(t, settings(t, dir, func(s *config.Config) { s.MetadataReplicas = c.setting }))
		await(t, p, "metadata-replicas "+c.setting, func(m *admin.Metadata) bool {
			return well(c.copies)(m) && (m.Engine == admin.EngineLocal) == (c.copies == 1)
		})
		getObject(t, p, secret+"-1")
		getObject(t, p, secret+"-2")
		closed(t, p)
	}
}

func TestTransferOfLeadership(t *testing.T) {
	t.Parallel()
	dir := withBucket(t, three)
	p := opened(t, settings(t, dir, three))
	await(t, p, "three copies", well(3))
	for _, id := range []string{"1", "2"} {
		m, err := p.ctl.TransferCopy(t.Context(), &admin.CopyRequest{Store: id})
		if err != nil {
			t.Fatal(err)
		}
		if n := m.Find(id).Leads; n != 0 {
			t.Errorf("copy %s still leads %d groups", id, n)
		}
	}
	closed(t, p)
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

// TestCopyOfAnotherNumber refuses a copy that lies where another belongs.
func TestCopyOfAnotherNumber(t *testing.T) {
	t.Parallel()
	dir := withBucket(t, func(c *config.Config) { three(c); c.Encryption = "off" })
	off := func(c *config.Config) { three(c); c.Encryption = "off" }
	d1, d2 := filepath.Join(dir, "d1", "meta"), filepath.Join(dir, "d2", "meta")
	for _, r := range [][2]string{{d1, d1 + "x"}, {d2, d1}, {d1 + "x", d2}} {
		if err := os.Rename(r[0], r[1]); err != nil {
			t.Fatal(err)
		}
	}
	_, err := attempt(t, settings(t, dir, off), nil)
	wantReason(t, err, NoQuorum, "another store")
	if err := os.Rename(d2, d1+"x"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(d1, d2); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(d1+"x", d1); err != nil {
		t.Fatal(err)
	}
	p := opened(t, settings(t, dir, off))
	await(t, p, "all are back", well(3))
	closed(t, p)
}

// TestStateDirectoryOlderThanTheCopies is put back from a backup made before
// there were several copies: it must not start as if it were the truth.
func TestStateDirectoryOlderThanTheCopies(t *testing.T) {
	t.Parallel()
	dir := withBucket(t, nil)
	backup := filepath.Join(t.TempDir(), "backup")
	for _, name := range []string{"metadata", "cluster.json", "keyring", "root-credentials"} {
		if err := os.MkdirAll(backup, 0o700); err != nil {
			t.Fatal(err)
		}
		if name == "metadata" {
			if err := os.CopyFS(filepath.Join(backup, name), os.DirFS(filepath.Join(dir, name))); err != nil {
				t.Fatal(err)
			}
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(backup, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := opened(t, settings(t, dir, three))
	await(t, p, "three copies", well(3))
	closed(t, p)
	for _, name := range []string{"metadata", "metadata.json"} {
		remove(t, filepath.Join(dir, name))
	}
	if err := os.CopyFS(filepath.Join(dir, "metadata"), os.DirFS(filepath.Join(backup, "metadata"))); err != nil {
		t.Fatal(err)
	}
	_, err := attempt(t, settings(t, dir, nil), nil)
	wantReason(t, err, MetadataLost, "d1", "does not know of")
}

// TestFirstStartOfThreeGoesOnAfterACrash stops it between steps, and while the
// copies are made.
func TestFirstStartOfThreeGoesOnAfterACrash(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes several starts")
	}
	for cut := 3; cut < len((&process{}).steps()); cut += 2 {
		for _, making := range []bool{false, true} {
			t.Run(fmt.Sprintf("after step %d, making %v", cut, making), func(t *testing.T) {
				t.Parallel()
				dir := filepath.Join(t.TempDir(), "data")
				c := settings(t, dir, three)
				p := newProcess(Options{Config: c, Version: "test", Log: slog.New(slog.DiscardHandler), Now: time.Now, Out: io.Discard, KDF: quickKDF})
				for _, step := range p.steps()[:cut] {
					if err := step.do(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				made := p.copies != nil
				closed(t, p)
				if making {
					if !made || cut > 10 {
						return
					}
					list, err := readStores(dir, p.id.Cluster)
					if err != nil {
						t.Fatal(err)
					}
					list.Phase, list.Stores[1].State, list.Stores[2].State = storesMaking, storeNew, storeNew
					remove(t, filepath.Join(dir, "d2", "meta", "log"))
					remove(t, filepath.Join(dir, "d3", "meta"))
					if err := list.save(dir); err != nil {
						t.Fatal(err)
					}
				}
				p = opened(t, c)
				await(t, p, "three copies", well(3))
				closed(t, p)
			})
		}
	}
}

// TestHeldBack has leaders hold back what a copy needs: status says which groups,
// and why.
func TestHeldBack(t *testing.T) {
	t.Parallel()
	list := &storeList{Next: 4}
	var all []replica.StoreStatus
	for id := range uint64(3) {
		row := list.add(place{path: fmt.Sprintf("/srv/d%d/meta", id+1), drive: topology.DriveID{byte(id + 1)}}, storeReady, time.Now())
		row.Replica = id + 1
		s := replica.StoreStatus{Replica: id + 1}
		for range metadata.DataGroups + 1 {
			s.Groups = append(s.Groups, replica.GroupStatus{Leader: 1, Commit: 5000, Applied: 5000, Voters: []uint64{1, 2, 3}})
		}
		all = append(all, s)
	}
	all[2].Groups[5].Applied, all[2].Groups[7].Applied = 0, 0
	describe := func() *admin.CopyState {
		m := &admin.Metadata{Groups: metadata.DataGroups + 1}
		describeCopies(m, list, nil, all)
		if m.Stores[0].Held != nil || m.Stores[1].Held != nil {
			t.Errorf("copies %+v", m.Stores)
		}
		return &m.Stores[2]
	}
	if c := describe(); c.Held != nil || c.Reason != "" {
		t.Errorf("nothing is held back: %+v", c)
	}
	all[0].Groups[7].Held = []replica.HeldSnapshot{{To: 3}}
	if c := describe(); c.Health != admin.CopyBehind || c.Held == nil || c.Reason != "the rows of groups [7] are compared before they are copied" {
		t.Errorf("the comparison is not committed: %+v", c)
	}
	all[1].Groups[5].Held = []replica.HeldSnapshot{{To: 3, WaitsFor: []uint64{2}}}
	if c := describe(); c.Reason != "the rows of groups [5 7] are compared before they are copied; copies [2] have not answered yet" {
		t.Errorf("a copy has not answered: %q", c.Reason)
	}
	all[0].Groups[7].Held[0].Disputed = true
	c := describe()
	if !slices.Equal(c.Held.Groups, []int{5, 7}) || !slices.Equal(c.Held.WaitsFor, []uint64{2}) || !slices.Equal(c.Held.Disputed, []int{7}) {
		t.Errorf("held back: %+v", c.Held)
	}
	if remedy := (&admin.Metadata{Healthy: 3, Quorum: 2}).Remedy(c); !strings.Contains(c.Reason, "no majority knows") || !strings.Contains(remedy, "ruche metadata replace") {
		t.Errorf("a dispute: %q, remedy %q", c.Reason, remedy)
	}
}
