package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/ruche-storage/ruche/cmd/ruche/config"
	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/metadata/topology"
	"github.com/ruche-storage/ruche/node"
)

// opened starts all parts of a server without serving.
func opened(t *testing.T, c *config.Config) *process {
	t.Helper()
	return openedWith(t, c, func(*Options) {})
}

func openedWith(t *testing.T, c *config.Config, change func(*Options)) *process {
	t.Helper()
	o := Options{Config: c, Version: "test", Log: slog.New(slog.DiscardHandler), Now: time.Now, Out: io.Discard, KDF: quickKDF, MetadataTick: quickTick}
	change(&o)
	p := newProcess(o)
	if err := p.open(t.Context()); err != nil {
		p.close()
		t.Fatal(err)
	}
	return p
}

func closed(t *testing.T, p *process) {
	t.Helper()
	if err := p.close(); err != nil {
		t.Fatal(err)
	}
}

// eventually waits for something that the background does.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for !f() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal(what)
		}
	}
}

// patience is how long a condition may take on a machine that is busy.
const patience = time.Minute

func putObject(t *testing.T, p *process, key string) {
	t.Helper()
	content := bytes.Repeat([]byte("0123456789abcdef"), 10_000)
	_, err := p.eng.Put(t.Context(), &object.PutRequest{Bucket: "b", Key: key, Body: object.Body{Reader: bytes.NewReader(content), Bytes: int64(len(content))}})
	if err != nil {
		t.Fatal(err)
	}
}

func move(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func statusAt(t *testing.T, p *process, path string) node.DriveStatus {
	t.Helper()
	all := p.node.Status()
	i := slices.IndexFunc(all, func(s node.DriveStatus) bool { return s.Path == path })
	if i < 0 {
		t.Fatalf("no drive at %s", path)
	}
	return all[i]
}

// absent returns the drives that cluster.json calls absent.
func absent(t *testing.T, dir string) []topology.DriveID {
	t.Helper()
	id, err := readIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	return id.Absent
}

// TestDriveReturns: an object is deleted while a drive is away. What the drive
// brings back of it is looked up anew, so that it is freed in the end.
func TestDriveReturns(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	c := settings(t, dir, func(c *config.Config) { c.TrashGrace = 0 })
	path, aside := filepath.Join(dir, "d3"), filepath.Join(dir, "aside")
	p := opened(t, c)
	if err := p.eng.CreateBucket(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	putObject(t, p, "gone")
	putObject(t, p, "stays")
	closed(t, p)

	move(t, path, aside)
	p = opened(t, c)
	if n := len(absent(t, dir)); n != 1 {
		t.Errorf("%d drives noted as absent", n)
	}
	if _, err := p.eng.Delete(t.Context(), "b", []object.DeleteRequest{{Key: "gone"}}); err != nil {
		t.Fatal(err)
	}
	closed(t, p)
	p = opened(t, c)
	eventually(t, "the trash is not freed", func() bool { return p.eng.CollectState().TrashRows == 1 })
	closed(t, p)

	move(t, aside, path)
	p = opened(t, c)
	eventually(t, "the shard of the deleted object is not looked up", func() bool {
		s := statusAt(t, p, path)
		return s.Shards == 2 && s.PendingShards >= 1
	})
	eventually(t, "manifests that the drive has missed the end of are not looked through", func() bool { return p.eng.ManifestState().Passes > 0 })
	if n := len(absent(t, dir)); n != 1 {
		t.Errorf("%d drives noted as absent before the index is durable", n)
	}
	closed(t, p)
	if n := len(absent(t, dir)); n != 0 {
		t.Errorf("%d drives are still noted as absent", n)
	}
}

// TestOldCopyOfDrive: a copy of a drive that was made before a start is taken
// for absent if it is mounted in the drive's place.
func TestOldCopyOfDrive(t *testing.T) {
	t.Parallel()
	dir := made(t)
	path, original, backup := filepath.Join(dir, "d3"), filepath.Join(dir, "original"), filepath.Join(dir, "copy")
	if err := os.CopyFS(backup, os.DirFS(path)); err != nil {
		t.Fatal(err)
	}
	succeed(t, settings(t, dir, nil))
	move(t, path, original)
	move(t, backup, path)
	p := opened(t, settings(t, dir, nil))
	if len(p.away) != 1 || p.away[0].Path != path || !errors.Is(p.away[0].Err, node.ErrClonedDrive) {
		t.Errorf("refused: %v", p.away)
	}
	closed(t, p)
	move(t, path, backup)
	move(t, original, path)
	p = opened(t, settings(t, dir, nil))
	if len(p.away) != 0 || len(p.node.Drives()) != 6 {
		t.Errorf("the drive itself: %v, %d drives open", p.away, len(p.node.Drives()))
	}
	closed(t, p)
	id, err := readIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	for drive, n := range id.Incarnations {
		if n < 2 {
			t.Errorf("drive %s has incarnation %d after three starts", drive, n)
		}
	}
	if len(id.Incarnations) != 6 {
		t.Errorf("%d incarnations", len(id.Incarnations))
	}
}
