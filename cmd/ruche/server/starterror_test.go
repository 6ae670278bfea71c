package server

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/cmd/ruche/config"
	"github.com/ruche-storage/ruche/metadata/keyring"
	"github.com/ruche-storage/ruche/metadata/topology"
	"github.com/ruche-storage/ruche/node"
)

func TestPortTaken(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dir := filepath.Join(t.TempDir(), "data")
	for key, c := range map[string]*config.Config{
		"--listen":       settings(t, dir, func(c *config.Config) { c.Listen = l.Addr().String() }),
		"--admin-listen": settings(t, dir, func(c *config.Config) { c.AdminListen = l.Addr().String() }),
	} {
		_, err := attempt(t, c, nil)
		wantReason(t, err, PortTaken, key, l.Addr().String())
	}
	if _, err := os.Stat(filepath.Join(dir, "cluster.json")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a start without a port has begun a store")
	}
	_, err = attempt(t, settings(t, dir, func(c *config.Config) { c.Listen = "203.0.113.7:0" }), nil)
	wantReason(t, err, AddressUnusable, "203.0.113.7")
}

func TestSecondProcess(t *testing.T) {
	t.Parallel()
	dir := made(t)
	lock, err := lockState(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	_, err = attempt(t, settings(t, dir, nil), nil)
	wantReason(t, err, AlreadyRunning, dir)
}

func TestDriveInUse(t *testing.T) {
	t.Parallel()
	dir := made(t)
	// Another state directory would not notice the lock; the drive's own does.
	id, err := readIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	n, _, err := node.Open(t.Context(), node.Options{Clock: clock{time.Now}, Cluster: node.ClusterID(id.Cluster)}, []string{filepath.Join(dir, "d3")})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	_, err = attempt(t, settings(t, dir, nil), nil)
	wantReason(t, err, AlreadyRunning, "d3")
}

func TestDriveOfAnotherCluster(t *testing.T) {
	t.Parallel()
	a, b := made(t), made(t)
	if err := os.RemoveAll(filepath.Join(a, "d2")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(b, "d2"), filepath.Join(a, "d2")); err != nil {
		t.Fatal(err)
	}
	_, err := attempt(t, settings(t, a, nil), nil)
	wantReason(t, err, ForeignDrive, "d2")
}

func TestStateDirectoryOfAnotherCluster(t *testing.T) {
	t.Parallel()
	a, b := made(t), made(t)
	_, err := attempt(t, settings(t, a, func(c *config.Config) {
		for i := range 6 {
			c.Drives = append(c.Drives, filepath.Join(b, fmt.Sprintf("d%d", i+1)))
		}
	}), nil)
	wantReason(t, err, ForeignState, a)
}

func TestMetadataLost(t *testing.T) {
	t.Parallel()
	t.Run("state directory is empty", func(t *testing.T) {
		t.Parallel()
		dir := made(t)
		id, err := readIdentity(dir)
		if err != nil {
			t.Fatal(err)
		}
		fresh := filepath.Join(t.TempDir(), "fresh")
		_, err = attempt(t, settings(t, fresh, func(c *config.Config) {
			for i := range 6 {
				c.Drives = append(c.Drives, filepath.Join(dir, fmt.Sprintf("d%d", i+1)))
			}
		}), nil)
		wantReason(t, err, MetadataLost, fresh, id.Cluster.String())
		for _, name := range []string{"cluster.json", "keyring", "metadata"} {
			if _, err := os.Stat(filepath.Join(fresh, name)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s was made", name)
			}
		}
	})
	t.Run("cluster.json is gone", func(t *testing.T) {
		t.Parallel()
		dir := made(t)
		if err := os.Remove(filepath.Join(dir, "cluster.json")); err != nil {
			t.Fatal(err)
		}
		_, err := attempt(t, settings(t, dir, nil), nil)
		wantReason(t, err, MetadataLost)
	})
	t.Run("metadata is gone", func(t *testing.T) {
		t.Parallel()
		dir := made(t)
		if err := os.RemoveAll(filepath.Join(dir, "metadata")); err != nil {
			t.Fatal(err)
		}
		_, err := attempt(t, settings(t, dir, nil), nil)
		wantReason(t, err, MetadataLost, "metadata", "ruche recover", "ruche metadata restore")
	})
	t.Run("metadata is empty", func(t *testing.T) {
		t.Parallel()
		dir := made(t)
		if err := os.RemoveAll(filepath.Join(dir, "metadata")); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(dir, "metadata"), 0o700); err != nil {
			t.Fatal(err)
		}
		_, err := attempt(t, settings(t, dir, nil), nil)
		wantReason(t, err, MetadataLost)
	})
}

func TestKeyringErrors(t *testing.T) {
	t.Parallel()
	t.Run("missing, then restored from the drives", func(t *testing.T) {
		t.Parallel()
		dir := filepath.Join(t.TempDir(), "data")
		c := settings(t, dir, nil)
		printed := succeed(t, c)
		name := filepath.Join(dir, "keyring")
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		_, err := attempt(t, c, nil)
		wantReason(t, err, KeyringMissing, name, "ruche keyring restore")
		if _, err := RestoreKeyring(c, "", "not a code", time.Now()); !errors.Is(err, keyring.ErrMistyped) {
			t.Errorf("restore with a wrong code: %v", err)
		}
		code := strings.Fields(printed[strings.Index(printed, "keys")+4:])[0]
		if _, err := RestoreKeyring(c, "", code, time.Now()); err != nil {
			t.Fatal(err)
		}
		succeed(t, c)
		if _, err := RestoreKeyring(c, "", code, time.Now()); err == nil || !strings.Contains(err.Error(), "exists") {
			t.Errorf("a keyring that exists was overwritten: %v", err)
		}
	})
	t.Run("too open", func(t *testing.T) {
		t.Parallel()
		dir := made(t)
		if err := os.Chmod(filepath.Join(dir, "keyring"), 0o640); err != nil {
			t.Fatal(err)
		}
		_, err := attempt(t, settings(t, dir, nil), nil)
		wantReason(t, err, TooOpen, "keyring", "chmod 600")
	})
	t.Run("of another cluster", func(t *testing.T) {
		t.Parallel()
		a, b := made(t), made(t)
		_, err := attempt(t, settings(t, a, func(c *config.Config) { c.Keyring = filepath.Join(b, "keyring") }), nil)
		wantReason(t, err, KeyringMismatch)
	})
	t.Run("of the same cluster with other keys", func(t *testing.T) {
		t.Parallel()
		dir := made(t)
		id, err := readIdentity(dir)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, "keyring")
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		if err := createKeyring(name, &identity{Cluster: id.Cluster}, quickKDF, time.Now, func(string) error { return nil }); err != nil {
			t.Fatal(err)
		}
		_, err = attempt(t, settings(t, dir, nil), nil)
		wantReason(t, err, KeyringMismatch)
	})
	t.Run("older than the copies on the drives", func(t *testing.T) {
		t.Parallel()
		dir := made(t)
		name := filepath.Join(dir, "keyring")
		older, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		ring, err := keyring.Load(vfs.Default, name)
		if err != nil {
			t.Fatal(err)
		}
		if ring, err = ring.Rotate(rand.Reader, time.Now()); err != nil {
			t.Fatal(err)
		}
		if err := ring.Save(vfs.Default, name); err != nil {
			t.Fatal(err)
		}
		succeed(t, settings(t, dir, nil))
		if err := os.WriteFile(name, older, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = attempt(t, settings(t, dir, nil), nil)
		wantReason(t, err, KeyringMismatch, "version 3")
	})
	t.Run("restored from a backup older than the copies on the drives", func(t *testing.T) {
		t.Parallel()
		dir := filepath.Join(t.TempDir(), "data")
		c := settings(t, dir, nil)
		printed := succeed(t, c)
		code := strings.Fields(printed[strings.Index(printed, "keys")+4:])[0]
		name, backup := filepath.Join(dir, "keyring"), filepath.Join(t.TempDir(), "backup")
		ring, err := keyring.Load(vfs.Default, name)
		if err != nil {
			t.Fatal(err)
		}
		sealed, err := ring.Sealed(rand.Reader, topology.DriveID{})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(backup, sealed, 0o600); err != nil {
			t.Fatal(err)
		}
		newer, err := ring.Rotate(rand.Reader, time.Now())
		if err == nil {
			err = newer.Save(vfs.Default, name)
		}
		if err != nil {
			t.Fatal(err)
		}
		succeed(t, c)
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(backup+".bad", sealed[:40], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := RestoreKeyring(c, backup+".bad", code, time.Now()); err == nil || !strings.Contains(err.Error(), backup+".bad") {
			t.Errorf("restore from a damaged backup = %v", err)
		}
		if _, err := RestoreKeyring(c, backup, code, time.Now()); err != nil {
			t.Fatal(err)
		}
		succeed(t, c)
	})
	t.Run("damaged", func(t *testing.T) {
		t.Parallel()
		dir := made(t)
		if err := os.WriteFile(filepath.Join(dir, "keyring"), []byte("nonsense"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := attempt(t, settings(t, dir, nil), nil)
		wantReason(t, err, KeyringMismatch, "keyring restore")
	})
}

func TestCredentialErrors(t *testing.T) {
	t.Parallel()
	dir := made(t)
	name := filepath.Join(dir, CredentialsFile)
	if err := os.Chmod(name, 0o604); err != nil {
		t.Fatal(err)
	}
	_, err := attempt(t, settings(t, dir, nil), nil)
	wantReason(t, err, TooOpen, name)
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	_, err = attempt(t, settings(t, dir, nil), nil)
	wantReason(t, err, CredentialsMissing, "RUCHE_ROOT_USER")
	if err := os.WriteFile(name, []byte("RUCHE_ROOT_USER=x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = attempt(t, settings(t, dir, nil), nil)
	wantReason(t, err, Damaged, name)
}

func TestDirectoriesThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := attempt(t, settings(t, filepath.Join(file, "data"), nil), nil)
	wantReason(t, err, NotWritable, file)

	_, err = attempt(t, settings(t, t.TempDir(), func(c *config.Config) { c.Drives = []string{file} }), nil)
	wantReason(t, err, DriveUnusable, file, "not a directory")

	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "precious.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = attempt(t, settings(t, t.TempDir(), func(c *config.Config) { c.Drives = []string{full} }), nil)
	wantReason(t, err, DriveNotEmpty, full, "precious.txt")

	if os.Geteuid() != 0 { // root may write everywhere
		locked := t.TempDir()
		if err := os.Chmod(locked, 0o500); err != nil {
			t.Fatal(err)
		}
		_, err = attempt(t, settings(t, filepath.Join(locked, "data"), nil), nil)
		wantReason(t, err, NotWritable, locked)
	}
}

func TestFullDrives(t *testing.T) {
	t.Parallel()
	c := settings(t, t.TempDir(), func(c *config.Config) { c.Reserve = 1 << 40 })
	_, err := attempt(t, c, nil)
	wantReason(t, err, DiskFull, "--reserve")
	c.Reserve = 1 << 20
	succeed(t, c)
}

func TestFullStateDirectory(t *testing.T) {
	t.Parallel()
	wantReason(t, startError("/state", fmt.Errorf("store placement groups: %w", syscall.ENOSPC)), DiskFull, "/state", "free space")
	if err := startError("/state", io.EOF); !errors.Is(err, io.EOF) {
		t.Errorf("another error became %v", err)
	}
}

func TestFileErrorsHaveRemedies(t *testing.T) {
	t.Parallel()
	for err, reason := range map[error]StartReason{
		&fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}: DiskFull,
		&fs.PathError{Op: "write", Path: "x", Err: syscall.EDQUOT}: DiskFull,
		&fs.PathError{Op: "open", Path: "x", Err: syscall.EACCES}:  NotWritable,
		&fs.PathError{Op: "open", Path: "x", Err: syscall.EROFS}:   NotWritable,
	} {
		wantReason(t, fileError("write /srv/x", err), reason, "/srv/x")
		wantReason(t, fileErrorOr(Damaged, "write /srv/x", "r", err), reason, "/srv/x")
	}
	if err := fileError("write x", syscall.EIO); !errors.Is(err, syscall.EIO) {
		t.Errorf("other errors get lost: %v", err)
	}
	wantReason(t, fileErrorOr(Damaged, "x", "r", syscall.EIO), Damaged)
}

func TestAbsurdClock(t *testing.T) {
	t.Parallel()
	old := func(o *Options) { o.Now = func() time.Time { return time.Now().AddDate(-40, 0, 0) } }
	_, err := attempt(t, settings(t, filepath.Join(t.TempDir(), "data"), nil), old)
	wantReason(t, err, ClockAbsurd, "--accept-clock")

	dir := made(t)
	ahead := func(o *Options) { o.Now = func() time.Time { return time.Now().AddDate(5, 0, 0) } }
	_, err = attempt(t, settings(t, dir, nil), ahead)
	wantReason(t, err, ClockAbsurd)
	if _, err := attempt(t, settings(t, dir, func(c *config.Config) { c.AcceptClock = true }), ahead); err != nil {
		t.Errorf("with --accept-clock: %v", err)
	}
}

func TestWhatWasFixedAtTheFirstStart(t *testing.T) {
	t.Parallel()
	dir := made(t)
	_, err := attempt(t, settings(t, dir, func(c *config.Config) { c.Encryption = "off" }), nil)
	wantReason(t, err, EncryptionChanged, "encryption")
	_, err = attempt(t, settings(t, dir, func(c *config.Config) { c.Scheme = "3+3" }), nil)
	wantReason(t, err, SchemeChanged, "3+3", "4+2")
	succeed(t, settings(t, dir, func(c *config.Config) { c.Scheme = "4+2" }))
}

func TestAStateDirectoryThatIsDamaged(t *testing.T) {
	t.Parallel()
	dir := made(t)
	name := filepath.Join(dir, "cluster.json")
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "{", "{}", strings.Replace(string(whole), `"format": 2`, `"format": 3`, 1), strings.Replace(string(whole), `"ready"`, `"unknown"`, 1)} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := attempt(t, settings(t, dir, nil), nil)
		wantReason(t, err, Damaged, name)
	}
}
