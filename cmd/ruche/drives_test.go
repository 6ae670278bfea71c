package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ruche-storage/ruche/gateway/admin"
)

func (s *instance) status() (st admin.Status) {
	s.t.Helper()
	if err := json.Unmarshal([]byte(s.ok("status", "--output", "json")), &st); err != nil {
		s.t.Fatal(err)
	}
	return st
}

// empty makes a drive's directory as a new device would be.
func (s *instance) empty(drive int) string {
	s.t.Helper()
	path := filepath.Join(s.dir, fmt.Sprintf("d%d", drive))
	if err := os.RemoveAll(path); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// fill stores objects of several sizes and returns them.
func (s *instance) fill(bucket string) map[string]string {
	s.t.Helper()
	objects := make(map[string]string)
	for i := range 12 {
		key := fmt.Sprintf("/%s/object-%d", bucket, i)
		objects[key] = strings.Repeat(fmt.Sprintf("%d-0123456789", i), 1+i*i*2000)
		s.want(200, "PUT", key, objects[key])
	}
	return objects
}

func (s *instance) check(objects map[string]string) {
	s.t.Helper()
	for key, want := range objects {
		if got := s.want(200, "GET", key, ""); got != want {
			s.t.Errorf("%s has %d bytes and is another", key, len(got))
		}
	}
}

// TestLostDrivesAreReplacedAndRebuilt loses two drives of 4+2, replaces them,
// then loses two others: everything must still be there.
func TestLostDrivesAreReplacedAndRebuilt(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir(), options{args: []string{"--default-buckets", "media"}})
	objects := s.fill("media")
	if exit, _, errs := s.command("", "drive", "replace", filepath.Join(s.dir, "d2")); exit != exitFailure || !strings.Contains(errs, "works") {
		t.Errorf("a drive that works was replaced: %d, %s", exit, errs)
	}
	s.end()
	paths := []string{s.empty(2), s.empty(5)}

	s = start(t, s.dir, options{})
	st := s.status()
	if st.Health != admin.Red || st.Safety.MayLose != 0 || st.Safety.Away != 2 || !strings.Contains(strings.Join(st.Summary, " "), "no further drive") {
		t.Errorf("two drives are away: %s %+v %q", st.Health, st.Safety, st.Summary)
	}
	if text := s.ok("drive", "list"); strings.Count(text, "absent") != 2 {
		t.Errorf("drive list:\n%s", text)
	}
	s.check(objects)
	if exit, _, errs := s.command("", "drive", "replace", filepath.Join(s.dir, "d9")); exit != exitFailure || !strings.Contains(errs, "--drive") {
		t.Errorf("a drive was put where none was: %d, %s", exit, errs)
	}
	for _, path := range paths {
		s.ok("drive", "replace", path, "--wait")
	}
	waitFor(t, "the rebuild", func() bool { return s.status().Safety.MayLose == 2 })
	if st := s.status(); len(st.Drives) != 6 || st.Safety.Away != 0 || st.Health == admin.Red {
		t.Errorf("after the rebuild: %d drives, %+v, %q", len(st.Drives), st.Safety, st.Summary)
	}
	s.check(objects)
	s.end()
	s.empty(1)
	s.empty(6)

	s = start(t, s.dir, options{})
	s.check(objects)
}

func TestFsckOfADrive(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir(), options{args: []string{"--default-buckets", "media"}})
	s.fill("media")
	path := filepath.Join(s.dir, "d3")
	if code, _, errs := alone(t, nil, "drive", "fsck", path); code != exitFailure || !strings.Contains(errs, "running server") {
		t.Errorf("fsck of a drive in use: %d, %s", code, errs)
	}
	s.end()
	code, out, errs := alone(t, nil, "drive", "fsck", path, "--rebuild-index")
	if code != exitOK || !strings.Contains(out, " 0 bad") {
		t.Errorf("fsck of a sound drive: %d, %s%s", code, out, errs)
	}
	// Damage one byte in the middle of the largest segment.
	largest, size := "", int64(0)
	err := filepath.Walk(filepath.Join(path, "seg"), func(name string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() && info.Size() > size {
			largest, size = name, info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(largest, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, size/2); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0xff
	if _, err := f.WriteAt(b, size/2); err != nil {
		t.Fatal(err)
	}
	if code, out, errs := alone(t, nil, "drive", "fsck", path); code != exitFailure || !strings.Contains(out, " 1 bad") {
		t.Errorf("fsck of a damaged drive: %d, %s%s", code, out, errs)
	}

	// The server finds it when it scrubs, and repairs it.
	s = start(t, s.dir, options{})
	s.ok("scrub", "start", "--wait")
	waitFor(t, "the repair", func() bool { return s.status().Repair.RepairedTotal > 0 })
	s.end()
	if code, out, errs := alone(t, nil, "drive", "fsck", path); code != exitOK {
		t.Errorf("fsck after the repair: %d, %s%s", code, out, errs)
	}
}

// TestMetadataOlderThanTheDrivesIsNoticed restores the state directory from a
// copy made earlier.
func TestMetadataOlderThanTheDrivesIsNoticed(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir(), options{args: []string{"--default-buckets", "media"}})
	s.want(200, "PUT", "/media/first", strings.Repeat("a", 100_000))
	s.end()
	backup := filepath.Join(t.TempDir(), "metadata")
	if err := os.CopyFS(backup, os.DirFS(filepath.Join(s.dir, "metadata"))); err != nil {
		t.Fatal(err)
	}
	s = start(t, s.dir, options{})
	s.want(200, "PUT", "/media/second", strings.Repeat("b", 100_000))
	s.end()
	if err := os.RemoveAll(filepath.Join(s.dir, "metadata")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(backup, filepath.Join(s.dir, "metadata")); err != nil {
		t.Fatal(err)
	}
	s = start(t, s.dir, options{})
	off := func() bool {
		for _, w := range s.status().Warnings {
			if w.Code == "collection-off" {
				return true
			}
		}
		return false
	}
	if !off() {
		t.Error("no warning that collection is off")
	}
	s.want(200, "GET", "/media/first", "")
	s.ok("repair", "resume-collection")
	if off() {
		t.Error("collection is said to be off after it was resumed")
	}
	s.end()
	s = start(t, s.dir, options{})
	if off() {
		t.Error("collection is off again after the next start")
	}
}
