package server

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/cmd/ruche/config"
	"github.com/ruche-storage/ruche/gateway/admin"
	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/metadata/cryptfs"
	"github.com/ruche-storage/ruche/metadata/keyring"
	"github.com/ruche-storage/ruche/metadata/topology"
	"github.com/ruche-storage/ruche/node"
)

// stateFiles is the file system of the metadata of a store that does not run.
func stateFiles(t *testing.T, dir string) vfs.FS {
	t.Helper()
	id, err := readIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !id.keyed() {
		return vfs.Default
	}
	key, err := loadRing(t, dir).StateKey(id.State.ID)
	if err != nil {
		t.Fatal(err)
	}
	f, err := encrypting(vfs.Default, key, id.State.ID, id.State.Whole)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func loadRing(t *testing.T, dir string) *keyring.Keyring {
	t.Helper()
	ring, err := keyring.Load(vfs.Default, filepath.Join(dir, "keyring"))
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

// secret is part of all names of objects.
const secret = "letter-to-the-mayor"

// withBucket makes a store with bucket b and some objects, large and small.
func withBucket(t *testing.T, change func(*config.Config)) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "data")
	p := opened(t, settings(t, dir, change))
	if err := p.eng.CreateBucket(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	putObject(t, p, secret+"-1")
	putSmall(t, p, secret+"-2")
	closed(t, p)
	return dir
}

func putSmall(t *testing.T, p *process, key string) {
	t.Helper()
	_, err := p.eng.Put(t.Context(), &object.PutRequest{Bucket: "b", Key: key, Body: object.Body{Reader: strings.NewReader("small"), Bytes: 5}})
	if err != nil {
		t.Fatal(err)
	}
}

// stores lists the directories of all Pebbles of a store.
func stores(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "d*", "idx"))
	if err != nil || len(found) == 0 {
		t.Fatal("no index", err)
	}
	for _, pattern := range []string{filepath.Join(dir, "d*", metaName), filepath.Join(dir, "metadata")} {
		more, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, more...)
	}
	return found
}

// plainIn lists the files that lie unencrypted below directories.
func plainIn(t *testing.T, dirs ...string) (found []string) {
	t.Helper()
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return ignoreGone(err)
			}
			raw, err := os.ReadFile(name)
			if len(raw) > 0 && !bytes.HasPrefix(raw, []byte("RUCHECTR")) {
				found = append(found, name)
			}
			return ignoreGone(err)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}

// ignoreGone drops the error of a file that a running server has removed.
func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// mentions lists the files below dir that hold a text.
func mentions(t *testing.T, dir, text string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		raw, err := os.ReadFile(name)
		if bytes.Contains(raw, []byte(text)) {
			found = append(found, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestNoNameLiesUnencrypted looks through all files of a store, on a drive that
// was replaced, too.
func TestNoNameLiesUnencrypted(t *testing.T) {
	t.Parallel()
	dir := withBucket(t, nil)
	if err := os.RemoveAll(filepath.Join(dir, "d2")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "d2"), 0o700); err != nil {
		t.Fatal(err)
	}
	p := opened(t, settings(t, dir, nil))
	drive, err := p.ctl.ReplaceDrive(t.Context(), &admin.ReplaceRequest{Path: filepath.Join(dir, "d2")})
	if err != nil {
		t.Fatal(err)
	}
	putObject(t, p, secret+"-3")
	if s, err := p.ctl.Status(t.Context()); err != nil || slices.ContainsFunc(s.Warnings, isPlainWarning) {
		t.Errorf("a store that was never unencrypted warns: %v, %v", s.Warnings, err)
	}
	closed(t, p)
	if found := plainIn(t, stores(t, dir)...); len(found) > 0 {
		t.Errorf("unencrypted: %v", found)
	}
	if found := mentions(t, dir, secret); len(found) > 0 {
		t.Errorf("names of objects are in %v", found)
	}
	ids := loadRing(t, dir).Drives()
	if !slices.ContainsFunc(ids, func(id topology.DriveID) bool { return id.String() == drive.ID }) {
		t.Errorf("the new drive %s has no key", drive.ID)
	}
}

func isPlainWarning(w admin.Warning) bool { return w.Code == "metadata-plain" }

// TestNoNameLiesUnencryptedInCopies looks at several copies of the metadata, with
// their logs, after each has stored objects and was opened again.
func TestNoNameLiesUnencryptedInCopies(t *testing.T) {
	t.Parallel()
	dir := withBucket(t, func(c *config.Config) { c.MetadataReplicas = "3" })
	for range 2 {
		p := opened(t, settings(t, dir, nil))
		getObject(t, p, secret+"-2")
		putSmall(t, p, secret+"-3")
		closed(t, p)
	}
	copies := 0
	for _, store := range stores(t, dir) {
		if _, err := os.Stat(filepath.Join(store, "log")); err == nil {
			copies++
		}
	}
	if copies != 3 {
		t.Errorf("%d copies have logs, want 3: the test does not look where names are", copies)
	}
	if found := plainIn(t, stores(t, dir)...); len(found) > 0 {
		t.Errorf("unencrypted: %v", found)
	}
	if found := mentions(t, dir, secret); len(found) > 0 {
		t.Errorf("names of objects are in %v", found)
	}
}

// TestEncryptionOff leaves everything as it is below.
func TestEncryptionOff(t *testing.T) {
	t.Parallel()
	off := func(c *config.Config) { c.Encryption = "off" }
	dir := withBucket(t, off)
	for _, store := range stores(t, dir) {
		if len(plainIn(t, store)) == 0 {
			t.Errorf("%s is encrypted", store)
		}
	}
	if len(mentions(t, filepath.Join(dir, "metadata"), secret)) == 0 {
		t.Error("the test does not look where names are")
	}
	p := opened(t, settings(t, dir, off))
	getObject(t, p, secret+"-1")
	closed(t, p)
}

func getObject(t *testing.T, p *process, key string) {
	t.Helper()
	o, err := p.eng.Get(t.Context(), &object.GetRequest{Bucket: "b", Key: key})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.WriteTo(io.Discard); err != nil {
		t.Error(err)
	}
	if err := o.Close(); err != nil {
		t.Error(err)
	}
}

// older turns a store into one that an earlier version has left: no file is
// encrypted, and the state directory has no id.
func older(t *testing.T, dir string) {
	t.Helper()
	ring := loadRing(t, dir)
	decrypt(t, stateFiles(t, dir), filepath.Join(dir, "metadata"))
	for i := range 6 {
		path := filepath.Join(dir, "d"+string(rune('1'+i)))
		super, err := node.Inspect(vfs.Default, path)
		if err != nil {
			t.Fatal(err)
		}
		key, err := ring.DriveKey(super.Drive)
		if err != nil {
			t.Fatal(err)
		}
		f, err := encrypting(vfs.Default, key, super.Drive, false)
		if err != nil {
			t.Fatal(err)
		}
		decrypt(t, f, filepath.Join(path, "idx"))
	}
	id, err := readIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	id.State = nil
	if err := id.save(dir); err != nil {
		t.Fatal(err)
	}
}

// decrypt replaces the files of a directory by unencrypted ones.
func decrypt(t *testing.T, f vfs.FS, dir string) {
	t.Helper()
	names, err := f.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		path := filepath.Join(dir, name)
		file, err := f.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(file)
		if err := errors.Join(err, file.Close()); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestStoreOfAnEarlierVersion takes one over: the first start gives it a key,
// and the next one encrypts what is there. The sealed copies have the key.
func TestStoreOfAnEarlierVersion(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	c := settings(t, dir, nil)
	code := codeIn(succeed(t, c))
	p := opened(t, c)
	if err := p.eng.CreateBucket(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	putObject(t, p, secret+"-1")
	closed(t, p)
	older(t, dir)
	if len(mentions(t, filepath.Join(dir, "metadata"), secret)) == 0 {
		t.Fatal("the store is not that of an earlier version")
	}

	p = opened(t, c)
	putObject(t, p, secret+"-2")
	if s, err := p.ctl.Status(t.Context()); err != nil || !slices.ContainsFunc(s.Warnings, isPlainWarning) {
		t.Errorf("no warning that names are unencrypted: %v, %v", s.Warnings, err)
	}
	closed(t, p)
	id, err := readIdentity(dir)
	if err != nil || !id.keyed() || id.Format != 2 {
		t.Fatalf("after the first start: %+v, %v", id, err)
	}

	// The key outlives the keyring.
	if err := os.Remove(filepath.Join(dir, "keyring")); err != nil {
		t.Fatal(err)
	}
	if _, err := RestoreKeyring(c, "", code, time.Now()); err != nil {
		t.Fatal(err)
	}
	p = opened(t, c)
	eventually(t, "older files are not encrypted", func() bool {
		s, err := p.ctl.Status(t.Context())
		return err == nil && !slices.ContainsFunc(s.Warnings, isPlainWarning) && len(plainIn(t, stores(t, dir)...)) == 0
	})
	for _, key := range []string{"-1", "-2"} {
		getObject(t, p, secret+key)
	}
	closed(t, p)
	if id, err := readIdentity(dir); err != nil || !id.State.Whole {
		t.Errorf("unencrypted files are taken for what they were: %+v, %v", id.State, err)
	}
	if found := mentions(t, dir, secret); len(found) > 0 {
		t.Errorf("names of objects are in %v", found)
	}
	p = opened(t, c)
	getObject(t, p, secret+"-1")
	closed(t, p)
}

// codeIn finds the recovery code in what a first start has printed.
func codeIn(printed string) string {
	return strings.Fields(printed[strings.Index(printed, "keys")+4:])[0]
}

// TestTooFewDrivesForAKey leaves an older store as it is while its key would be
// on too few drives, and serves all the same.
func TestTooFewDrivesForAKey(t *testing.T) {
	t.Parallel()
	dir := withBucket(t, nil)
	older(t, dir)
	away := t.TempDir()
	for _, d := range []string{"d1", "d2", "d3"} {
		move(t, filepath.Join(dir, d), filepath.Join(away, d))
	}
	for range 2 {
		p := opened(t, settings(t, dir, nil))
		if p.id.keyed() || !p.stateIsPlain() {
			t.Error("a key on 3 of 6 drives is used")
		}
		closed(t, p)
	}
	for _, d := range []string{"d1", "d2", "d3"} {
		if err := os.RemoveAll(filepath.Join(dir, d)); err != nil {
			t.Fatal(err)
		}
		move(t, filepath.Join(away, d), filepath.Join(dir, d))
	}
	succeed(t, settings(t, dir, nil))
	if id, err := readIdentity(dir); err != nil || !id.keyed() {
		t.Errorf("with all drives: %+v, %v", id, err)
	}
}

// TestStateKeyIsMissing starts with a keyring that lacks the key of the state
// directory, and with the identity of another one: both say so, and change
// nothing.
func TestStateKeyIsMissing(t *testing.T) {
	t.Parallel()
	dir := withBucket(t, nil)
	id, err := readIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	right := *id.State
	id.State = &stateStore{ID: newStoreID(), Keyed: true}
	if err := id.save(dir); err != nil {
		t.Fatal(err)
	}
	_, err = attempt(t, settings(t, dir, nil), nil)
	wantReason(t, err, KeyringMismatch, id.State.ID.String(), "keyring restore")
	ring, err := loadRing(t, dir).WithState(strings.NewReader(strings.Repeat("k", 32)), id.State.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := ring.Save(vfs.Default, filepath.Join(dir, "keyring")); err != nil {
		t.Fatal(err)
	}
	_, err = attempt(t, settings(t, dir, nil), nil)
	wantReason(t, err, ForeignState, "another store", filepath.Join(dir, "metadata"))
	id.State = &right
	if err := id.save(dir); err != nil {
		t.Fatal(err)
	}
	p := opened(t, settings(t, dir, nil))
	getObject(t, p, secret+"-2")
	closed(t, p)
}

// TestFsckNeedsTheKeyring checks a drive whose index is encrypted.
func TestFsckNeedsTheKeyring(t *testing.T) {
	t.Parallel()
	dir := withBucket(t, nil)
	elsewhere := t.TempDir()
	path := filepath.Join(elsewhere, "d1") // away from the keyring
	if err := os.Rename(filepath.Join(dir, "d1"), path); err != nil {
		t.Fatal(err)
	}
	fsck := func(o FsckOptions) (*FsckReport, error) {
		o.Now, o.Log = time.Now, slog.New(slog.DiscardHandler)
		return Fsck(t.Context(), path, o)
	}
	_, err := fsck(FsckOptions{})
	wantReason(t, err, KeyringMissing, path, "--keyring", "--rebuild-index")
	_, err = fsck(FsckOptions{Keyring: filepath.Join(made(t), "keyring")})
	wantReason(t, err, KeyringMissing, "another cluster")
	right := filepath.Join(dir, "keyring")
	report, err := fsck(FsckOptions{Keyring: right})
	if err != nil || report.Bad > 0 || report.Shards == 0 {
		t.Fatalf("with the keyring: %+v, %v", report, err)
	}
	again, err := fsck(FsckOptions{Keyring: right, Rebuild: true})
	if err != nil || again.Shards != report.Shards || len(plainIn(t, filepath.Join(path, "idx"))) > 0 {
		t.Errorf("made anew with the keyring: %+v, %v, or it is unencrypted", again, err)
	}
	again, err = fsck(FsckOptions{Rebuild: true})
	if err != nil || again.Shards != report.Shards || len(plainIn(t, filepath.Join(path, "idx"))) == 0 {
		t.Errorf("made anew without the keyring: %+v, %v, or it is encrypted", again, err)
	}
	if err := os.Rename(path, filepath.Join(dir, "d1")); err != nil {
		t.Fatal(err)
	}
	p := opened(t, settings(t, dir, nil))
	eventually(t, "the index stays unencrypted", func() bool { return len(plainIn(t, stores(t, dir)...)) == 0 })
	closed(t, p)
	path = filepath.Join(dir, "d1")
	if report, err = fsck(FsckOptions{}); err != nil || report.Bad > 0 { // beside its keyring
		t.Errorf("beside the keyring: %+v, %v", report, err)
	}
}

// TestEncryptsPastDamage goes on with what cannot be replaced.
func TestEncryptsPastDamage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := &process{Options: Options{Log: slog.New(slog.DiscardHandler)}}
	f, err := encrypting(vfs.Default, keyring.Key{1}, newStoreID(), false)
	if err != nil {
		t.Fatal(err)
	}
	p.encryptClosed(f, filepath.Join(dir, "missing"))
	for name, content := range map[string]string{"MANIFEST-000001": "plain", "000002.log": "RUCHECTR" + strings.Repeat("x", 100), "000003.sst": "table"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p.encryptClosed(f, dir)
	if found := plainIn(t, dir); !slices.Equal(found, []string{filepath.Join(dir, "000003.sst")}) || p.plain.left.Load() != 0 {
		t.Errorf("unencrypted: %v, counted %d", found, p.plain.left.Load())
	}
	if _, err := f.Open(filepath.Join(dir, "000002.log")); !errors.Is(err, cryptfs.ErrNewer) && !errors.Is(err, cryptfs.ErrDamaged) {
		t.Errorf("a damaged file opens: %v", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "temporary.000004.dbtmp"), 0o700); err != nil { // in the way of the copy
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "OPTIONS-000004"), []byte("plain"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "temporary.000004.dbtmp", "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p.encryptClosed(f, dir)
	if p.plain.left.Load() != 1 {
		t.Errorf("%d files are left, want 1", p.plain.left.Load())
	}
}
