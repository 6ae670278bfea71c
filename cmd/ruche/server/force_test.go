package server

import (
	"errors"
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
)

func force(t *testing.T, c *config.Config, confirm func(*ForcePlan) error) (*ForcePlan, error) {
	t.Helper()
	return Force(t.Context(), ForceOptions{Config: c, Log: slog.New(slog.DiscardHandler), Now: time.Now, Confirm: confirm})
}

func yes(*ForcePlan) error { return nil }

// rename moves a directory.
func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// TestForceAfterLosingTheMajority follows docs/operations/metadata.md.
func TestForceAfterLosingTheMajority(t *testing.T) {
	t.Parallel()
	dir := withBucket(t, three)
	c := settings(t, dir, three)
	if _, err := force(t, c, yes); err == nil || !strings.Contains(err.Error(), "majority") {
		t.Errorf("force with all copies there: %v", err)
	}
	away := t.TempDir()
	for _, d := range []string{"d1", "d3"} {
		rename(t, filepath.Join(dir, d, "meta"), filepath.Join(away, d))
	}
	_, err := attempt(t, c, nil)
	wantReason(t, err, NoQuorum, "ruche metadata force")

	refusal := errors.New("not today")
	if _, err := force(t, c, func(p *ForcePlan) error {
		if len(p.Copies) != 3 || p.Copies[0].Missing == "" || !p.Copies[1].Chosen || p.Copies[1].Newest.IsZero() || !strings.Contains(p.String(), "becomes the truth") {
			t.Errorf("plan %+v\n%s", p.Copies, p)
		}
		return refusal
	}); !errors.Is(err, refusal) {
		t.Fatalf("force that was not confirmed: %v", err)
	}
	_, err = attempt(t, c, nil)
	wantReason(t, err, NoQuorum)

	plan, err := force(t, c, yes)
	if err != nil {
		t.Fatal(err)
	}
	if !plan.Done || plan.Replica <= 3 || !strings.Contains(plan.String(), "resume-collection") {
		t.Errorf("done: %+v\n%s", plan, plan)
	}
	if _, err := force(t, c, yes); err == nil || !strings.Contains(err.Error(), "majority") {
		t.Errorf("force once more: %v", err)
	}
	// A start says nothing of lost copies that stay away; those that come back are
	// not used again.
	said := new(lines)
	closed(t, openedWith(t, c, func(o *Options) { o.Log = said.log() }))
	if text := said.String(); strings.Contains(text, "set aside") {
		t.Errorf("a copy that is not there was set aside: %s", text)
	}
	rename(t, filepath.Join(away, "d3"), filepath.Join(dir, "d3", "meta"))
	p := opened(t, c)
	m := await(t, p, "it goes on alone", well(1))
	if m.Engine != admin.EngineReplicated || m.Stores[0].Path != filepath.Join(dir, "d2", "meta") {
		t.Errorf("copies %+v", m)
	}
	if _, err := os.Stat(filepath.Join(dir, "d3", "meta.lost-3")); err != nil {
		t.Errorf("the copy that came back was not set aside: %v", err)
	}
	s, err := p.ctl.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(s.Warnings, func(w admin.Warning) bool { return w.Code == "collection-off" }) {
		t.Errorf("collection goes on: %v", s.Warnings)
	}
	getObject(t, p, secret+"-1")
	for _, d := range []string{"d1", "d3"} {
		if _, err := p.ctl.AddCopy(t.Context(), &admin.AddCopyRequest{Path: filepath.Join(dir, d)}); err != nil {
			t.Fatal(err)
		}
	}
	await(t, p, "three again", well(3))
	closed(t, p)
	succeed(t, c)
}

// TestForceTakesTheNewest has two of five copies left, of which one was away
// for some time.
func TestForceTakesTheNewest(t *testing.T) {
	t.Parallel()
	five := func(c *config.Config) { c.MetadataReplicas = "5" }
	dir := withBucket(t, five)
	meta := func(d string) string { return filepath.Join(dir, d, "meta") }
	rename(t, meta("d1"), meta("d1")+".away")
	p := opened(t, settings(t, dir, five))
	putSmall(t, p, "late")
	closed(t, p)
	rename(t, meta("d1")+".away", meta("d1"))
	for _, d := range []string{"d2", "d3", "d4"} {
		remove(t, meta(d))
	}
	plan, err := force(t, settings(t, dir, five), yes)
	if err != nil {
		t.Fatal(err)
	}
	if plan.Copies[0].Behind == 0 || plan.Copies[0].Chosen || !plan.Copies[4].Chosen || plan.Copies[4].Behind != 0 {
		t.Errorf("plan %+v", plan.Copies)
	}
	if _, err := os.Stat(meta("d1")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the stale copy was not set aside: %v", err)
	}
	p = opened(t, settings(t, dir, five))
	getObject(t, p, "late")
	closed(t, p)
}

// TestForceInTheStateDirectory goes on without consensus.
func TestForceInTheStateDirectory(t *testing.T) {
	t.Parallel()
	dir := withBucket(t, nil)
	p := opened(t, settings(t, dir, three))
	await(t, p, "three copies", well(3))
	closed(t, p)
	for _, d := range []string{"d1", "d2"} {
		remove(t, filepath.Join(dir, d, "meta"))
	}
	c := settings(t, dir, nil)
	if _, err := force(t, c, yes); err != nil {
		t.Fatal(err)
	}
	p = opened(t, c)
	await(t, p, "one copy", func(m *admin.Metadata) bool { return m.Engine == admin.EngineLocal })
	getObject(t, p, secret+"-1")
	closed(t, p)
	_, err := force(t, c, yes)
	wantReason(t, err, NothingToForce, "one copy")
}

// TestForceWhereNothingIsLeft says what helps then.
func TestForceWhereNothingIsLeft(t *testing.T) {
	t.Parallel()
	dir := withBucket(t, three)
	for _, d := range []string{"d1", "d2", "d3"} {
		remove(t, filepath.Join(dir, d, "meta"))
	}
	_, err := force(t, settings(t, dir, three), yes)
	wantReason(t, err, MetadataLost, "copy 1", "ruche recover")
	empty := settings(t, filepath.Join(t.TempDir(), "data"), nil)
	_, err = force(t, empty, yes)
	wantReason(t, err, MetadataLost, "ruche recover")
}

// TestForceThatWasCutOff is carried on by the next one.
func TestForceThatWasCutOff(t *testing.T) {
	t.Parallel()
	dir := withBucket(t, three)
	c := settings(t, dir, three)
	for _, d := range []string{"d1", "d3"} {
		remove(t, filepath.Join(dir, d, "meta"))
	}
	before, err := os.ReadFile(filepath.Join(dir, storesName))
	if err != nil {
		t.Fatal(err)
	}
	plan, err := force(t, c, yes)
	if err != nil {
		t.Fatal(err)
	}
	// As if the list had not been written at the end.
	text := strings.Replace(string(before), `"replica": 2,`, `"replica": 2, "x": 0,`, 1)
	at := strings.Index(text, `"x": 0`)
	text = text[:at] + strings.Replace(text[at:], `"state": "ready"`, `"state": "forced"`, 1)
	if err := os.WriteFile(filepath.Join(dir, storesName), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = attempt(t, c, nil)
	wantReason(t, err, NoQuorum, "cut off")
	again, err := force(t, c, yes)
	if err != nil {
		t.Fatal(err)
	}
	if again.Replica != plan.Replica {
		t.Errorf("the copy became %d, then %d", plan.Replica, again.Replica)
	}
	p := opened(t, c)
	getObject(t, p, secret+"-2")
	closed(t, p)
}
