package server

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ruche-storage/ruche/gateway/admin"
	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/metadata"
)

// TestOneOfThreeIsLost takes one copy away under a running server, in several
// ways, and replaces it.
func TestOneOfThreeIsLost(t *testing.T) {
	t.Parallel()
	dir := withBucket(t, three)
	p := opened(t, settings(t, dir, three))
	await(t, p, "three copies", well(3))
	end := steadily(t, p)
	if err := os.Rename(filepath.Join(dir, "d2", "meta"), filepath.Join(t.TempDir(), "meta")); err != nil {
		t.Fatal(err)
	}
	m := await(t, p, "the loss is seen", func(m *admin.Metadata) bool {
		return m.Healthy == 2 && m.Leaderless == 0 && m.Stores[1].Health == admin.CopyAbsent
	})
	if m.MayLose != 0 || !strings.Contains(m.Stores[1].Reason, "has gone") {
		t.Errorf("copies %+v", m)
	}
	s, err := p.ctl.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.Health != admin.Yellow || !strings.Contains(strings.Join(s.Summary, " "), "no further copy of the metadata") {
		t.Errorf("status %s %q", s.Health, s.Summary)
	}
	if _, err := p.ctl.RemoveCopy(t.Context(), &admin.CopyRequest{Store: "1"}); err == nil || !strings.Contains(err.Error(), "too few") {
		t.Errorf("a copy was removed without which there is no majority: %v", err)
	}
	if _, err := p.ctl.ReplaceCopy(t.Context(), &admin.ReplaceCopyRequest{Store: "1"}); err == nil || !strings.Contains(err.Error(), "works") {
		t.Errorf("a copy that works was replaced: %v", err)
	}
	if _, err := p.ctl.ReplaceCopy(t.Context(), &admin.ReplaceCopyRequest{Store: "2", Path: filepath.Join(dir, "d3")}); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("two copies were put in one place: %v", err)
	}
	if _, err := p.ctl.ReplaceCopy(t.Context(), &admin.ReplaceCopyRequest{Store: "nine"}); err == nil || !strings.Contains(err.Error(), "no copy") {
		t.Errorf("an unknown copy: %v", err)
	}
	if _, err := p.ctl.ReplaceCopy(t.Context(), &admin.ReplaceCopyRequest{Store: filepath.Join(dir, "d2")}); err != nil {
		t.Fatal(err)
	}
	m = await(t, p, "it is replaced", well(3))
	if m.Stores[2].Replica != 4 || m.Stores[2].Path != filepath.Join(dir, "d2", "meta") {
		t.Errorf("copies %+v", m)
	}
	// A copy that works is moved.
	if _, err := p.ctl.ReplaceCopy(t.Context(), &admin.ReplaceCopyRequest{Store: "1", Path: filepath.Join(dir, "d5")}); err != nil {
		t.Fatal(err)
	}
	await(t, p, "it is moved", func(m *admin.Metadata) bool { return well(3)(m) && m.Find("1") == nil && m.Find("5") != nil })
	t.Logf("%d requests meanwhile", end())
	closed(t, p)
	p = opened(t, settings(t, dir, three))
	await(t, p, "all start", well(3))
	getObject(t, p, secret+"-1")
	closed(t, p)
}

// TestStartsWithoutAMinority starts with one copy of three away, wiped or
// another's, and refuses with two.
func TestStartsWithoutAMinority(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		lose   func(t *testing.T, dir, d string) // what becomes of the copy on drive d
		health admin.CopyHealth
		says   string
	}{
		"wiped": {func(t *testing.T, dir, d string) { remove(t, filepath.Join(dir, d, "meta")) }, admin.CopyRefused, "no command log"},
		"emptied": {func(t *testing.T, dir, d string) {
			remove(t, filepath.Join(dir, d, "meta"))
			if err := os.Mkdir(filepath.Join(dir, d, "meta"), 0o700); err != nil {
				t.Fatal(err)
			}
		}, admin.CopyRefused, "no command log"},
		"not mounted": {func(t *testing.T, dir, d string) { remove(t, filepath.Join(dir, d)) }, admin.CopyAbsent, "not mounted"},
		"log lost":    {func(t *testing.T, dir, d string) { remove(t, filepath.Join(dir, d, "meta", "log")) }, admin.CopyRefused, "no command log"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := withBucket(t, three)
			c.lose(t, dir, "d3")
			p := opened(t, settings(t, dir, three))
			m := await(t, p, "two serve", func(m *admin.Metadata) bool { return m.Healthy == 2 && m.Leaderless == 0 })
			if s := m.Stores[2]; s.Health != c.health || !strings.Contains(s.Reason, c.says) {
				t.Errorf("copy %+v, want it %s: %s", s, c.health, c.says)
			}
			getObject(t, p, secret+"-1")
			closed(t, p)
			c.lose(t, dir, "d2")
			_, err := attempt(t, settings(t, dir, three), nil)
			wantReason(t, err, NoQuorum, "copy 2", "copy 3", "d2", "ruche metadata force")
		})
	}
}

// TestRemovedWhileAway takes a copy away whose drive is not there. When the
// drive returns, what it has is deleted.
func TestRemovedWhileAway(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes several starts")
	}
	dir := withBucket(t, three)
	away, at := filepath.Join(t.TempDir(), "d3"), filepath.Join(dir, "d3")
	if err := os.Rename(at, away); err != nil {
		t.Fatal(err)
	}
	p := opened(t, settings(t, dir, three))
	await(t, p, "two serve", func(m *admin.Metadata) bool { return m.Healthy == 2 && m.Leaderless == 0 })
	if _, err := p.ctl.ReplaceCopy(t.Context(), &admin.ReplaceCopyRequest{Store: "3"}); err == nil || !strings.Contains(err.Error(), "neither") {
		t.Errorf("a copy was made on a drive that is away: %v", err)
	}
	if _, err := p.ctl.ReplaceCopy(t.Context(), &admin.ReplaceCopyRequest{Store: "3", Path: filepath.Join(dir, "d4")}); err != nil {
		t.Fatal(err)
	}
	await(t, p, "three copies", well(3))
	closed(t, p)
	if err := os.Rename(away, at); err != nil {
		t.Fatal(err)
	}
	p = opened(t, settings(t, dir, three))
	await(t, p, "three copies", well(3))
	closed(t, p)
	if _, err := os.Stat(filepath.Join(at, "meta")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the old copy is still there: %v", err)
	}
}

// TestReplacedDriveTakesItsCopyAlong loses a drive that carries a copy, while
// the server runs and before a start.
func TestReplacedDriveTakesItsCopyAlong(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes several starts")
	}
	dir := withBucket(t, three)
	empty := func(d string) string {
		remove(t, filepath.Join(dir, d))
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(dir, d)
	}
	p := opened(t, settings(t, dir, three))
	await(t, p, "three copies", well(3))
	if _, err := p.ctl.ReplaceDrive(t.Context(), &admin.ReplaceRequest{Path: empty("d2")}); err != nil {
		t.Fatal(err)
	}
	m := await(t, p, "the copy is made anew", well(3))
	if m.Find("2") != nil || m.Find("4") == nil || m.Find("4").Path != filepath.Join(dir, "d2", "meta") {
		t.Errorf("copies %+v", m)
	}
	closed(t, p)
	empty("d1")
	p = opened(t, settings(t, dir, three))
	await(t, p, "one is away", func(m *admin.Metadata) bool { return m.Healthy == 2 && m.Leaderless == 0 })
	if _, err := p.ctl.ReplaceDrive(t.Context(), &admin.ReplaceRequest{Path: filepath.Join(dir, "d1")}); err != nil {
		t.Fatal(err)
	}
	await(t, p, "the copy is made anew", func(m *admin.Metadata) bool { return well(3)(m) && m.Find("5") != nil })
	getObject(t, p, secret+"-1")
	closed(t, p)
}

// TestMajorityLostUnderARunningServer loses two of three copies: requests fail,
// the server goes on and says what is the matter.
func TestMajorityLostUnderARunningServer(t *testing.T) {
	t.Parallel()
	dir := withBucket(t, three)
	p := opened(t, settings(t, dir, three))
	await(t, p, "three copies", well(3))
	if err := p.ctl.Ready(t.Context()); err != nil {
		t.Errorf("not ready with three copies: %v", err)
	}
	for _, d := range []string{"d1", "d2"} {
		remove(t, filepath.Join(dir, d, "meta"))
	}
	await(t, p, "the loss is seen", func(m *admin.Metadata) bool { return m.Healthy == 1 })
	for name, change := range changesOf(p) {
		if err := change(t.Context()); err == nil || !strings.Contains(err.Error(), "copy 2 in "+filepath.Join(dir, "d2")) || !strings.Contains(err.Error(), "ruche metadata force") {
			t.Errorf("%s without a majority: %v", name, err)
		}
	}
	if err := p.ctl.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "metadata") {
		t.Errorf("ready without a majority: %v", err)
	}
	began := time.Now()
	_, err := p.eng.Put(t.Context(), &object.PutRequest{Bucket: "b", Key: "k", Body: object.Body{Reader: strings.NewReader("small"), Bytes: 5}})
	if !errors.Is(err, metadata.ErrUnavailable) {
		t.Errorf("PUT without a majority: %v", err)
	}
	t.Logf("refused after %v", time.Since(began))
	s, err := p.ctl.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.Health != admin.Red || len(s.Drives) != 6 || !strings.Contains(strings.Join(s.Summary, " "), "serves nothing: 1 of its 3") {
		t.Errorf("status %s %q, %d drives", s.Health, s.Summary, len(s.Drives))
	}
	if !slices.ContainsFunc(s.Warnings, func(w admin.Warning) bool { return strings.Contains(w.Remedy, "ruche metadata force") }) {
		t.Errorf("warnings %+v", s.Warnings)
	}
	select {
	case err := <-p.failed:
		t.Errorf("the process ends: %v", err)
	default:
	}
	remove(t, filepath.Join(dir, "d3", "meta"))
	select {
	case <-p.failed:
	case <-time.After(patience):
		t.Error("the process goes on though no copy is left")
	}
	closed(t, p)
}
