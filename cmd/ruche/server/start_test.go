package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/cmd/ruche/config"
	"github.com/ruche-storage/ruche/metadata/keyring"
	"github.com/ruche-storage/ruche/node"
)

var quickKDF = keyring.KDF{Time: 1, MemoryKiB: 64, Threads: 1}

// quickTick is long enough for a machine that is busy.
const quickTick = 30 * time.Millisecond

// settings are those of a small server on free ports.
func settings(t *testing.T, dir string, change func(*config.Config)) *config.Config {
	t.Helper()
	c, err := config.Load(config.Source{File: emptyFile(t), Environ: []string{
		"RUCHE_DATA=" + dir, "RUCHE_LISTEN=127.0.0.1:0", "RUCHE_ADMIN_LISTEN=127.0.0.1:0", "RUCHE_BALLAST=0", "RUCHE_PREALLOCATE=0", "RUCHE_RESERVE=1MiB", "RUCHE_MEMORY_LIMIT=0",
	}})
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(c)
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	return c
}

func emptyFile(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "ruche.yaml")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// stopper ends a server as soon as it serves, and keeps what it printed.
type stopper struct {
	bytes.Buffer
	stop context.CancelFunc
}

func (s *stopper) Write(p []byte) (int, error) {
	if strings.Contains(string(p), "is serving") {
		s.stop()
	}
	return s.Buffer.Write(p)
}

// attempt starts a server and stops it once it serves.
func attempt(t *testing.T, c *config.Config, change func(*Options)) (printed string, err error) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	out := &stopper{stop: stop}
	o := Options{Config: c, Version: "test", Log: slog.New(slog.DiscardHandler), Now: time.Now, Out: out, KDF: quickKDF, MetadataTick: quickTick}
	if change != nil {
		change(&o)
	}
	err = Run(ctx, o)
	return out.String(), err
}

// succeed is an attempt that must not fail.
func succeed(t *testing.T, c *config.Config) string {
	t.Helper()
	printed, err := attempt(t, c, nil)
	if err != nil {
		t.Fatal(err)
	}
	return printed
}

// wantReason checks that a start failed for a reason that names its remedy.
func wantReason(t *testing.T, err error, reason StartReason, mentions ...string) {
	t.Helper()
	e, ok := errors.AsType[*StartError](err)
	if !ok || e.Reason != reason || e.Remedy == "" {
		t.Fatalf("start error %v, want reason %s with a remedy", err, reason)
	}
	for _, m := range mentions {
		if !strings.Contains(err.Error(), m) {
			t.Errorf("error %q does not mention %q", err, m)
		}
	}
}

// made returns the directory of a store that was started once.
func made(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	succeed(t, settings(t, dir, nil))
	return dir
}

// A state directory may have been made by somebody who lets others in.
func TestMetadataIsForItsOwnerOnly(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	succeed(t, settings(t, dir, nil))
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 && d.Name() != "endpoints.json" {
			t.Errorf("others may read %s: %v", path, info.Mode())
		}
		if d.IsDir() {
			return fs.SkipDir // what lies below is out of reach
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestADriveWithoutSuperblockIsAbsentLater shows that only the first start
// formats.
func TestADriveWithoutSuperblockIsAbsentLater(t *testing.T) {
	t.Parallel()
	dir := made(t)
	for _, d := range []string{"d1", "d4"} {
		if err := os.RemoveAll(filepath.Join(dir, d)); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if printed := succeed(t, settings(t, dir, nil)); !strings.Contains(printed, "4 of 6") {
		t.Errorf("printed:\n%s", printed)
	}
	if _, err := node.Inspect(vfs.Default, filepath.Join(dir, "d1")); !errors.Is(err, node.ErrUnformatted) {
		t.Errorf("a later start has formatted a drive: %v", err)
	}
	for i := range 6 {
		if err := os.RemoveAll(filepath.Join(dir, fmt.Sprintf("d%d", i+1))); err != nil {
			t.Fatal(err)
		}
	}
	_, err := attempt(t, settings(t, dir, nil), nil)
	wantReason(t, err, DriveUnusable, "none of the drives")
}

// TestDrivesAreKnownByTheirIDs mounts them in another order.
// Every number of drives has a scheme of its own, one drive too.
func TestStartsWithAnyNumberOfDrives(t *testing.T) {
	t.Parallel()
	for drives, scheme := range map[int]string{1: "1+0", 2: "1+1", 3: "2+1", 13: "8+4"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			c := settings(t, filepath.Join(dir, "state"), func(c *config.Config) {
				for i := range drives {
					c.Drives = append(c.Drives, filepath.Join(dir, fmt.Sprintf("d%d", i)))
				}
			})
			for range 2 {
				want := fmt.Sprintf("%d of %d, scheme %s\n", drives, drives, scheme)
				if printed := succeed(t, c); !strings.Contains(printed, want) {
					t.Errorf("the start printed %q, want %q in it", printed, want)
				}
			}
		})
	}
}

func TestDrivesAreKnownByTheirIDs(t *testing.T) {
	t.Parallel()
	dir := made(t)
	before, err := readIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, move := range [][2]string{{"d1", "x"}, {"d2", "d1"}, {"x", "d2"}} {
		if err := os.Rename(filepath.Join(dir, move[0]), filepath.Join(dir, move[1])); err != nil {
			t.Fatal(err)
		}
	}
	if printed := succeed(t, settings(t, dir, nil)); !strings.Contains(printed, "6 of 6") {
		t.Errorf("printed:\n%s", printed)
	}
	after, err := readIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	first, _ := before.at(filepath.Join(dir, "d1"))
	if got := after.pathOf(first); got != filepath.Join(dir, "d2") {
		t.Errorf("the first drive is remembered at %s", got)
	}
}

// TestFirstStartGoesOnAfterACrash stops it after every step, and in the middle
// of formatting, and starts again.
func TestFirstStartGoesOnAfterACrash(t *testing.T) {
	t.Parallel()
	steps := len((&process{}).steps())
	for cut := range steps {
		if testing.Short() && cut%3 != 0 {
			continue
		}
		t.Run(fmt.Sprintf("after step %d", cut), func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "data")
			c := settings(t, dir, nil)
			var out bytes.Buffer
			p := newProcess(Options{Config: c, Version: "test", Log: slog.New(slog.DiscardHandler), Now: time.Now, Out: &out, KDF: quickKDF})
			for _, step := range p.steps()[:cut] {
				if err := step.do(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if err := p.close(); err != nil {
				t.Fatal(err)
			}
			shown := strings.Contains(out.String(), "RECOVERY CODE")
			printed := succeed(t, c)
			if again := strings.Contains(printed, "RECOVERY CODE"); shown == again {
				t.Errorf("recovery code shown before the crash: %v, after: %v", shown, again)
			}
			root, err := ReadCredentials(dir)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Contains(printed, root.Secret); !got && cut < steps {
				t.Error("the secret of root was never shown")
			}
			if printed := succeed(t, c); strings.Contains(printed, "RECOVERY CODE") || strings.Contains(printed, root.Secret) || !strings.Contains(printed, "6 of 6") {
				t.Errorf("the start after that printed:\n%s", printed)
			}
		})
	}
	t.Run("while formatting", func(t *testing.T) {
		t.Parallel()
		dir := filepath.Join(t.TempDir(), "data")
		c := settings(t, dir, nil)
		p := newProcess(Options{Config: c, Version: "test", Log: slog.New(slog.DiscardHandler), Now: time.Now, Out: &bytes.Buffer{}, KDF: quickKDF})
		for _, step := range p.steps()[:7] {
			if err := step.do(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := format(filepath.Join(dir, "d1"), p.id); err != nil {
			t.Fatal(err)
		}
		// The second one got as far as its directory and a torn superblock.
		if err := os.MkdirAll(filepath.Join(dir, "d2", "seg"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "d2", "superblock.1"), []byte("RcSB"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := p.close(); err != nil {
			t.Fatal(err)
		}
		if printed := succeed(t, c); !strings.Contains(printed, "6 of 6") {
			t.Errorf("printed:\n%s", printed)
		}
	})
}
